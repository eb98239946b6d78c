"""Is a transaction left open? It holds history in the cache and locks others out."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade how long the oldest open transaction has been open."""
    ages = [one["transaction_seconds"] for one in facts.need("operations") if one["transaction_seconds"]]
    oldest = max(ages, default=0.0)
    yield Finding(
        limits.grade(oldest),
        f"{len(ages)} transactions are open, the oldest for {oldest:.0f} s.",
        value=oldest,
        unit="s",
    )


CHECK = Check(
    "open_transactions", "Open transactions", "server",
    "Find the client that forgot to commit; the server ends it after transactionLifetimeLimitSeconds.", Limits(30, 300), verdict,
)  # fmt: skip
