"""Are data and indexes of a collection intact? ``validate`` in the background, each collection once a week."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.errors import PyMongoError

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight

WEEK = 7


def due(name: str, weekday: int) -> bool:
    """Say whether a collection's turn is on this day of the week: a fixed day for each name."""
    return zlib.crc32(name.encode()) % WEEK == weekday


def read(sight: Sight) -> Mapping[str, Any]:
    """Validate today's share: collections of at most ``largest`` documents. None for those that time did not allow."""
    sizes, today = sight.snapshot.need("sizes"), sight.snapshot.taken_at.weekday()
    most = sight.limits.option("largest")
    names = [name for name, size in sorted(sizes.items()) if due(name, today) and size["count"] <= most]
    if not names:
        raise NotApplicableError("No collection's turn is today.")
    seen: dict[str, Any] = {}
    for name in names:
        try:
            seen[name] = sight.db.command("validate", name, background=True)
        except PyMongoError as error:
            if not error.timeout or not seen:
                raise
            return {**seen, **dict.fromkeys(names[len(seen) :])}
    return seen


def verdict(facts: Mapping[str, Any], limits: Limits) -> Iterator[Finding]:
    """CRIT for what is damaged, UNKNOWN for what was not reached. Documents that break the validator are another check's."""
    del limits
    for name, seen in facts.items():
        if seen is None:
            sentence = f"{name} was not validated in time (check_seconds): its next turn is in a week."
            yield Finding(Status.UNKNOWN, sentence, name)
            continue
        broken = sorted(index for index, one in seen.get("indexDetails", {}).items() if not one.get("valid", True))
        if seen.get("corruptRecords") or seen.get("nInvalidDocuments") or broken:
            which = f" Indexes: {', '.join(broken)}." if broken else ""
            yield Finding(Status.CRIT, f"`validate` says that {name} is damaged.{which}", name)


CHECK = Check(
    "validation", "Background validation", "storage",
    "Take the member out and resync it from a healthy one; look at the disk. Keep the damaged files.",
    Limits(options={"largest": 5_000_000}), verdict, read,
)  # fmt: skip
