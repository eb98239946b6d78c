"""Does the TTL monitor run? When it is off or stuck, nothing expires although every index says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mongo_ops.health.model import WHOLE, Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Point, Sight
from mongo_ops.health.snapshot import Snapshot


@dataclass(frozen=True)
class Monitor:
    """The snapshot, and how many passes there were in earlier runs."""

    snapshot: Snapshot
    past: Sequence[Point]


def read(sight: Sight) -> Monitor:
    """Add the history."""
    if not any(index.is_ttl for index in sight.snapshot.indexes):
        raise NotApplicableError("No index lets documents expire.")
    return Monitor(sight.snapshot, sight.past("ttl_monitor", WHOLE))


def verdict(facts: Monitor, limits: Limits) -> Iterator[Finding]:
    """CRIT when it is switched off, or made no pass in ``sleeps`` times its pause since the last run or the server's start."""
    parameters, server = facts.snapshot.need("parameters"), facts.snapshot.need("server")
    passes, pause = float(server["ttl"].get("passes", 0)), float(parameters["ttlMonitorSleepSecs"])
    if not parameters["ttlMonitorEnabled"]:
        yield Finding(
            Status.CRIT, "The TTL monitor is switched off (ttlMonitorEnabled): nothing expires.", value=passes
        )
        return
    before = next((point for point in reversed(facts.past) if point.value <= passes), None)
    waited = (facts.snapshot.taken_at - before.at).total_seconds() if before else float("inf")
    waited = min(waited, float(server["uptime"]))
    since = before.value if before and waited < server["uptime"] else 0.0
    stuck = passes <= since and waited > limits.option("sleeps") * pause
    sentence = f"The TTL monitor made {passes - since:.0f} passes in {waited:.0f} s."
    yield Finding(Status.CRIT if stuck else Status.OK, sentence, value=passes)


CHECK = Check(
    "ttl_monitor", "TTL monitor", "indexes",
    "Set ttlMonitorEnabled to true (setParameter); a stuck monitor waits for a lock: look at currentOp.",
    Limits(options={"sleeps": 3}), verdict, read,
)  # fmt: skip
