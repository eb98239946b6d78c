"""How full is the disk, and when will it be full? The projection is a line through the history, drawn only when there is enough of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mongo_ops.health.model import WHOLE, Check, FactMissingError, Finding, Limits
from mongo_ops.health.sight import Point, Sight

FEWEST, SHORTEST_DAYS, FAR_DAYS = 5, 2.0, 3650.0
DAY = 86_400.0
FULL = 100.0


@dataclass(frozen=True)
class Disk:
    """The file system under the data, and how full it was (percent)."""

    at: datetime
    stats: Mapping[str, Any]
    past: Sequence[Point]


def read(sight: Sight) -> Disk:
    """Add the history."""
    snapshot = sight.snapshot
    return Disk(snapshot.taken_at, snapshot.need("disk"), sight.past("disk_used", WHOLE))


def days_to_full(points: Sequence[Point]) -> float | None:
    """Return in how many days a straight line through the points (percent) reaches 100; None when it does not, or nobody can say."""
    if len(points) < FEWEST or (points[-1].at - points[0].at).total_seconds() < SHORTEST_DAYS * DAY:
        return None
    days = [(point.at - points[0].at).total_seconds() / DAY for point in points]
    slope, start = statistics.linear_regression(days, [point.value for point in points])
    if slope <= 0:
        return None
    left = (FULL - start) / slope - days[-1]
    return max(left, 0.0) if left < FAR_DAYS else None


def verdict(facts: Disk, limits: Limits) -> Iterator[Finding]:
    """Grade the used share, and the days to full by the options ``days_warn`` and ``days_crit``."""
    if not facts.stats.get("fsTotalSize"):
        raise FactMissingError("The server does not show its file system.")
    share = facts.stats["fsUsedSize"] / facts.stats["fsTotalSize"]
    yield Finding(limits.grade(share), f"{share:.0%} of the disk is used.", value=share * 100, unit="%")
    days = days_to_full([*facts.past, Point(facts.at, share * 100)])
    if days is not None:
        bounds = Limits(limits.option("days_warn"), limits.option("days_crit"))
        yield Finding(
            bounds.grade(days), f"At this rate the disk is full in {days:.0f} days.", "days to full", days, "days"
        )


CHECK = Check(
    "disk_used", "Disk", "storage",
    "Make room: larger disk, retention, compact. A full disk stops the server.",
    Limits(0.8, 0.9, options={"days_warn": 30, "days_crit": 7}), verdict, read,
)  # fmt: skip
