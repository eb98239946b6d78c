"""Does an operation run for too long? Waiting for changes or for the topology is no work and does not count."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the seconds of every active operation of a client."""
    for one in facts.need("operations"):
        status = limits.grade(one["seconds"])
        if one["active"] and not one["waits"] and status is not Status.OK:
            what = f"{one['command'] or one['op']} on {one['ns']}"
            sentence = f"{what} has been running for {one['seconds']:.0f} s (opid {one['opid']})."
            yield Finding(status, sentence, what, one["seconds"], "s", evidence=(f"opid {one['opid']}",))


CHECK = Check(
    "long_operations", "Long operations", "server",
    "See its plan with currentOp; end it with killOp when nobody waits for it, and give its query an index.", Limits(60, 600), verdict,
)  # fmt: skip
