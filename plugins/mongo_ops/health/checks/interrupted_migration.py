"""Did a migration stop half-way?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

STOPPED = frozenset({"failed", "interrupted"})
GOING = frozenset({"running", "rolling_back"})
LEASE = "migrations"


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """CRIT for one that failed, or that says it runs while nobody holds the lease."""
    del limits
    held = any(
        one["_id"] == LEASE and one.get("released") is False and one["expires_at"] > facts.taken_at
        for one in facts.need("leases")
    )
    for one in facts.need("migrations"):
        state = one.get("state")
        if state in STOPPED or (state in GOING and not held):
            yield Finding(Status.CRIT, f"The migration {one['_id']} stopped half-way ({state}).", str(one["_id"]))


CHECK = Check(
    "interrupted_migration", "Interrupted migrations", "own",
    "Run `mongo-ops migrate` again (it resumes), or `mongo-ops rollback --failed`.", Limits(), verdict,
)  # fmt: skip
