"""Does the maker still mend the server's version?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from mongo_ops.health.model import Check, FactMissingError, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

ENDS = {"4.4": "2024-02-29", "5.0": "2024-10-31", "6.0": "2025-07-31", "7.0": "2027-08-31", "8.0": "2029-10-31"}
"""Source: https://www.mongodb.com/legal/support-policy/lifecycles."""


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the days of support that are left; only warn, since nothing is broken yet."""
    version = str(facts.need("server")["version"])
    series = ".".join(version.split(".")[:2])
    if series not in limits.option("ends"):
        raise FactMissingError(f"health.yaml does not say when the support of {series} ends.")
    end = date.fromisoformat(str(limits.option("ends")[series]))
    days = (end - facts.taken_at.date()).days
    status = Status.OK if limits.grade(days) is Status.OK else Status.WARN
    how = f"ended on {end}" if days < 0 else f"ends on {end}"
    yield Finding(status, f"The server is {version}; the support of {series} {how}.", value=days, unit="days")


CHECK = Check(
    "server_version", "Server version", "security",
    "Plan the upgrade: one major version after the other, secondaries first.", Limits(180, -1, options={"ends": ENDS}), verdict,
)  # fmt: skip
