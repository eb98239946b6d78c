"""Does nobody use an index? Every member must say so, each since long enough: its own ``since``, not the server's uptime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.sight import Sight, together
from mongo_ops.health.snapshot import IndexFacts

DAY = 86_400.0
PURPOSE = ("unique", "expireAfterSeconds", "partialFilterExpression", "collation", "sparse", "hidden", "prepareUnique")


@dataclass(frozen=True)
class Usage:
    """How an index was used on each member: member -> (operations, since)."""

    index: IndexFacts
    members: Mapping[str, tuple[int, datetime]]


@dataclass(frozen=True)
class Used:
    """The moment, how many members hold data, and the usage of every index that could be advised on."""

    at: datetime
    members: int
    usages: Sequence[Usage]


def has_purpose(index: IndexFacts) -> bool:
    """Say whether an index does more than serve queries, so that its use cannot be told from operations."""
    return index.name == "_id_" or any(index.spec.get(name) not in (None, False) for name in PURPOSE)


def read(sight: Sight) -> Used:
    """Ask every member, many collections in one command."""
    candidates = {
        (index.collection, index.name): index
        for index in sight.snapshot.indexes
        if not has_purpose(index) and not index.collection.startswith("ops_")
    }
    names = sorted({collection for collection, _ in candidates})
    stages: list[Mapping[str, Any]] = [{"$indexStats": {}}, {"$project": {"name": 1, "accesses": 1}}]
    seen: dict[tuple[str, str], dict[str, tuple[int, datetime]]] = {key: {} for key in candidates}
    with sight.members() as members:
        for member, db in members.items():
            found: Iterator[tuple[str, Any]] = together(db, [(name, stages) for name in names])
            for collection, one in found:
                if (collection, one["name"]) in seen:
                    accesses = one["accesses"]
                    seen[collection, one["name"]][member] = (int(accesses["ops"]), accesses["since"])
        count = len(members)
    return Used(sight.snapshot.taken_at, count, [Usage(candidates[key], ways) for key, ways in seen.items()])


def verdict(facts: Used, limits: Limits) -> Iterator[Finding]:
    """WARN for an index without an operation on any member for ``days``."""
    for usage in facts.usages:
        ways = usage.members.values()
        if len(ways) < facts.members or any(operations for operations, _ in ways):
            continue
        days = min((facts.at - since).total_seconds() / DAY for _, since in ways)
        if days >= limits.option("days"):
            sentence = f"No member has used {usage.index.name} of {usage.index.collection} for {max(days, 0):.0f} days."
            yield Finding(Status.WARN, sentence, usage.index.scope, max(days, 0.0), "days")


CHECK = Check(
    "unused_indexes", "Unused indexes", "indexes",
    "Ask who needs it once a year. Hide it, wait, then drop it in a migration.", Limits(options={"days": 30}), verdict, read,
)  # fmt: skip
