"""When was a backup last restored to see that it works? Noted in ``ops_transfers`` as ``{kind: restore_test, finished_at}``."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.checks.backup_age import HOUR, Last, newest
from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight


def read(sight: Sight) -> Last:
    """Read the newest test."""
    return newest(sight, {"kind": "restore_test"})


def verdict(facts: Last, limits: Limits) -> Iterator[Finding]:
    """Grade its age in days; none at all is a warning where the environment is protected."""
    if facts.finished is None:
        if not facts.protected:
            raise NotApplicableError("No restore test is recorded, and the environment is not protected.")
        yield Finding(Status.WARN, "No restore test is recorded: nobody knows whether the backups work.")
        return
    days = (facts.at - facts.finished).total_seconds() / HOUR / 24
    yield Finding(limits.grade(days), f"A backup was last restored {days:,.0f} days ago.", value=days, unit="days")


CHECK = Check(
    "restore_test_age", "Age of the last restore test", "storage",
    "Import the last backup into a scratch environment and verify it; note it in ops_transfers.", Limits(35, 100), verdict, read,
)  # fmt: skip
