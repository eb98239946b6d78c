"""Does the server read its memory back from disk?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, FactMissingError, Finding, Limits
from mongo_ops.health.snapshot import Snapshot


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade hard page faults per second between both samples; a restart in between counts from zero."""
    now, before = facts.need("server"), facts.need("earlier")
    if "page_faults" not in now.get("extra_info", {}):
        raise FactMissingError("The server shows no page faults on this platform.")
    counted = now["extra_info"]["page_faults"] - before["extra_info"]["page_faults"]
    rate = max(0, counted) / max(facts.seconds_between, 0.1)
    yield Finding(limits.grade(rate), f"{rate:.0f} page faults per second.", value=rate, unit="/s")


CHECK = Check(
    "page_faults", "Page faults", "server",
    "Something else takes the machine's memory, or the cache is larger than it; look at swap first.", Limits(500, 5000), verdict,
)  # fmt: skip
