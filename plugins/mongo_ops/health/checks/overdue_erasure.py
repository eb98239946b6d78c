"""Is a person's request answered in time? One month from receipt (Art. 12(3) GDPR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.sight import Sight

REQUESTS = "ops_erasure_requests"
DAY = 86_400.0
MOST = 200


@dataclass(frozen=True)
class Due:
    """Open requests (id and deadline), the most urgent first."""

    at: datetime
    requests: Sequence[Mapping[str, Any]]


def read(sight: Sight) -> Due:
    """Read the most urgent open requests."""
    found = sight.db[REQUESTS].find({"open": True}, {"due_at": 1}).sort("due_at", 1).limit(MOST)
    return Due(sight.snapshot.taken_at, list(found))


def verdict(facts: Due, limits: Limits) -> Iterator[Finding]:
    """Grade the days that are left of each."""
    for one in facts.requests:
        days = (one["due_at"] - facts.at).total_seconds() / DAY
        if limits.grade(days) is not Status.OK:
            how = f"was due {-days:.0f} days ago" if days < 0 else f"is due in {days:.0f} days"
            yield Finding(limits.grade(days), f"The request {one['_id']} {how}.", str(one["_id"]), days, "days")


CHECK = Check(
    "overdue_erasure", "Erasure requests and their deadline", "own",
    "Trigger mongo_gdpr_erasure with the request's id; extend the deadline only with a reason, and tell the person.",
    Limits(7, 0), verdict, read,
)  # fmt: skip
