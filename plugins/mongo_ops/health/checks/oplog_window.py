"""How long may a member or a reader of changes be away before it has to start over? An oplog that is not full yet says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot


def filled(oplog: Mapping[str, Any]) -> float:
    """Return which share of the oplog is full; it may be over its size for a while."""
    return min(oplog["size"] / oplog["most"], 1.0) if oplog["most"] else 0.0


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the hours between the first and the last entry, once the oplog is nearly full."""
    oplog = facts.need("oplog")
    hours = (oplog["last"] - oplog["first"]).total_seconds() / 3600
    fill = filled(oplog)
    status = limits.grade(hours) if fill >= limits.option("full") else Status.OK
    yield Finding(status, f"The oplog holds {hours:.1f} hours and is {fill:.0%} full.", value=hours, unit="h")


CHECK = Check(
    "oplog_window", "Oplog window", "replication",
    "Make the oplog larger (replSetResizeOplog), or find what writes so much.", Limits(24, 6, options={"full": 0.9}), verdict,
)  # fmt: skip
