"""Do connections come near the server's limit?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the share of connections in use."""
    found = facts.need("server")["connections"]
    share = found["current"] / max(found["current"] + found["available"], 1)
    sentence = f"{found['current']:,} connections are open, {found['available']:,} more are possible."
    yield Finding(limits.grade(share), sentence, value=share * 100, unit="%")


CHECK = Check(
    "connections", "Connections", "server",
    "Find who opens them (currentOp by appName) and bound its pool, before the server refuses everybody.", Limits(0.75, 0.9), verdict,
)  # fmt: skip
