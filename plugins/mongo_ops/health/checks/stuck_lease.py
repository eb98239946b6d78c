"""Is a lease stuck? Its holder died without giving it back, or has held it for suspiciously long."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

HOUR = 3600.0


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """WARN for a lease that lapsed; grade the hours of one that is held."""
    now = facts.taken_at
    for one in facts.need("leases"):
        if one.get("released") is not False:
            continue
        lapsed = (now - one["expires_at"]).total_seconds()
        held = (now - one["acquired_at"]).total_seconds() / HOUR
        if lapsed > limits.option("grace_seconds"):
            sentence = f"The holder of the lease on {one['_id']} went away {lapsed / 60:,.0f} minutes ago without giving it back."
            yield Finding(Status.WARN, sentence, str(one["_id"]))
        elif limits.grade(held) is not Status.OK:
            yield Finding(
                limits.grade(held),
                f"The lease on {one['_id']} has been held for {held:,.0f} hours.",
                str(one["_id"]),
                held,
                "h",
            )


CHECK = Check(
    "stuck_lease", "Stuck leases", "own",
    "Run the same command or clear the task again: it resumes. `mongo-ops unlock` shows the holder.",
    Limits(12, 72, options={"grace_seconds": 300}), verdict,
)  # fmt: skip
