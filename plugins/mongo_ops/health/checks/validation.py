"""Are data and indexes of a collection intact? ``validate`` in the background, each collection once a week."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight

WEEK = 7


def due(name: str, weekday: int) -> bool:
    """Say whether a collection's turn is on this day of the week: a fixed day for each name."""
    return zlib.crc32(name.encode()) % WEEK == weekday


def read(sight: Sight) -> Mapping[str, Any]:
    """Validate today's share: collections of at most ``largest`` documents."""
    sizes, today = sight.snapshot.need("sizes"), sight.snapshot.taken_at.weekday()
    most = sight.limits.option("largest")
    names = [name for name, size in sorted(sizes.items()) if due(name, today) and size["count"] <= most]
    if not names:
        raise NotApplicableError("No collection's turn is today.")
    return {name: sight.db.command("validate", name, background=True) for name in names}


def verdict(facts: Mapping[str, Any], limits: Limits) -> Iterator[Finding]:
    """CRIT for what is damaged. Documents that break the validator are another check's."""
    del limits
    for name, seen in facts.items():
        broken = sorted(index for index, one in seen.get("indexDetails", {}).items() if not one.get("valid", True))
        if seen.get("corruptRecords") or seen.get("nInvalidDocuments") or broken:
            which = f" Indexes: {', '.join(broken)}." if broken else ""
            yield Finding(Status.CRIT, f"`validate` says that {name} is damaged.{which}", name)


CHECK = Check(
    "validation", "Background validation", "storage",
    "Take the member out and resync it from a healthy one; look at the disk. Keep the damaged files.",
    Limits(options={"largest": 5_000_000}), verdict, read,
)  # fmt: skip
