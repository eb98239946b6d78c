"""How far do the secondaries lag behind? Two samples, so that one slow moment is no alarm; members that are away do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import Check, FactMissingError, Finding, Limits, NotApplicableError
from mongo_ops.health.snapshot import Snapshot

PRIMARY, SECONDARY = 1, 2


def lags(sample: Mapping[str, Any]) -> dict[str, float]:
    """Return seconds behind the primary per healthy secondary, never negative: a primary's own date may be older than a secondary's."""
    primary = [one["optimeDate"] for one in sample["members"] if one["state"] == PRIMARY and one["health"] == 1]
    secondaries = [one for one in sample["members"] if one["state"] == SECONDARY and one["health"] == 1]
    if not primary:
        return {}
    return {one["name"]: max(0.0, (primary[0] - one["optimeDate"]).total_seconds()) for one in secondaries}


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the smaller of both samples of each secondary."""
    samples = facts.need("replication")
    if len(samples[-1]["members"]) == 1:
        raise NotApplicableError("The set has one member.")
    first, last = lags(samples[0]), lags(samples[-1])
    if not last:
        raise FactMissingError("No primary with a healthy secondary answered, so nobody knows the lag.")
    for name, lag in last.items():
        steady = min(lag, first.get(name, lag))
        yield Finding(limits.grade(steady), f"{name} is {steady:.0f} s behind the primary.", name, steady, "s")


CHECK = Check(
    "replication_lag", "Replication lag", "replication",
    "Hold bulk jobs back; look for a slow disk, a missing index or a long operation on the secondary.", Limits(10, 60), verdict,
)  # fmt: skip
