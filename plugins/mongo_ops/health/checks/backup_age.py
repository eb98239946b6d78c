"""How old is the last backup? Exports of everything count, and what another tool notes in ``ops_transfers``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight

TRANSFERS = "ops_transfers"
HOUR = 3600.0


@dataclass(frozen=True)
class Last:
    """When the last one finished (None: never), whether somebody relies on it, and now."""

    at: datetime
    finished: datetime | None
    protected: bool


def newest(sight: Sight, query: Mapping[str, Any]) -> Last:
    """Return the newest transfer of a kind."""
    found = sight.db[TRANSFERS].find_one(
        {**query, "finished_at": {"$type": "date"}}, {"finished_at": 1}, sort=[("finished_at", -1)]
    )
    return Last(sight.snapshot.taken_at, found["finished_at"] if found else None, sight.snapshot.protected)


def read(sight: Sight) -> Last:
    """Read the newest backup."""
    return newest(sight, {"kind": "export", "backup": True})


def verdict(facts: Last, limits: Limits) -> Iterator[Finding]:
    """Grade its age in hours; none at all is critical where the environment is protected."""
    if facts.finished is None:
        if not facts.protected:
            raise NotApplicableError("No backup is recorded, and the environment is not protected.")
        yield Finding(Status.CRIT, "No backup is recorded.")
        return
    hours = (facts.at - facts.finished).total_seconds() / HOUR
    yield Finding(limits.grade(hours), f"The last backup is {hours:,.0f} hours old.", value=hours, unit="h")


CHECK = Check(
    "backup_age", "Age of the last backup", "storage",
    "Run mongo_bulk_export for everything; look why the scheduled one did not run.", Limits(26, 72), verdict, read,
)  # fmt: skip
