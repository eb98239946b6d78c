"""Has the replica set a primary, and are all members there?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

PRIMARY, ARBITER = 1, 7
WELL = frozenset({PRIMARY, 2, ARBITER})


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """CRIT without a primary or a majority; WARN for each member that is away or in another state."""
    del limits
    latest = facts.need("replication")[-1]
    members = latest["members"]
    if not any(member["state"] == PRIMARY for member in members):
        yield Finding(Status.CRIT, f"{latest['set']} has no primary: nothing can be written.")
    up = [member for member in members if member["health"] == 1 and member["state"] in WELL]
    if latest.get("majority") and len(up) < latest["majority"]:
        yield Finding(
            Status.CRIT, f"Only {len(up)} of {len(members)} members are up, less than a majority.", "majority"
        )
    for member in members:
        if member not in up:
            sentence = (
                f"{member['name']} is {member['stateStr']}"
                if member["health"] == 1
                else f"{member['name']} does not answer"
            )
            yield Finding(Status.WARN, f"{sentence}: the set can lose fewer members.", member["name"])


CHECK = Check(
    "replication_state", "Replica set members", "replication",
    "Look at the member's log and network; bring it back before another one fails.", Limits(), verdict,
)  # fmt: skip
