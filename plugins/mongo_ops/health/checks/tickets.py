"""Do operations queue for WiredTiger's read or write tickets?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, FactMissingError, Finding, Limits
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the share of tickets that is free, in the better of both samples."""
    now, before = facts.need("server")["tickets"], facts.need("earlier")["tickets"]
    if not now:
        raise FactMissingError("The server shows no tickets.")
    for way, tickets in now.items():
        free = max(_free(tickets), _free(before.get(way, tickets)))
        yield Finding(limits.grade(free), f"{free:.0%} of the {way} tickets are free.", way, free * 100, "%")


def _free(tickets: dict[str, int]) -> float:
    return tickets["available"] / max(tickets["totalTickets"], 1)


CHECK = Check(
    "tickets", "Tickets", "server",
    "Find the long operations and scans that hold them; more tickets do not make a slow disk quicker.", Limits(0.15, 0.05), verdict,
)  # fmt: skip
