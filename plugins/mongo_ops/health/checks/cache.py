"""Is WiredTiger's cache under pressure? Above 95 % used or 20 % dirty, operations of users have to evict pages themselves."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, FactMissingError, Finding, Limits
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the used share by ``warn`` and ``crit``, the dirty share by the options of that name. Both samples must agree."""
    now, before = facts.need("server")["cache"], facts.need("earlier")["cache"]
    if not now["most"]:
        raise FactMissingError("The server shows no WiredTiger cache.")
    dirty = Limits(limits.option("dirty_warn"), limits.option("dirty_crit"))
    for scope, bounds in (("used", limits), ("dirty", dirty)):
        share = min(now[scope], before[scope]) / now["most"]
        yield Finding(bounds.grade(share), f"{share:.0%} of the cache is {scope}.", scope, share * 100, "%")


CHECK = Check(
    "cache", "WiredTiger cache", "server",
    "Look for scans (top, currentOp) and bulk writes; then consider more memory.",
    Limits(0.9, 0.96, options={"dirty_warn": 0.15, "dirty_crit": 0.2}), verdict,
)  # fmt: skip
