"""Does a waiver of the data map end soon? From then on its place counts as a gap again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight, Waived


@dataclass(frozen=True)
class Waivers:
    """All waivers, and today."""

    today: date
    waivers: Sequence[Waived]


def read(sight: Sight) -> Waivers:
    """Ask the layer above, which knows the data map."""
    if sight.outside.waivers is None:
        raise NotApplicableError("No data map is known here.")
    return Waivers(sight.snapshot.taken_at.date(), sight.outside.waivers())


def verdict(facts: Waivers, limits: Limits) -> Iterator[Finding]:
    """Grade the days that are left."""
    for one in facts.waivers:
        days = (one.until - facts.today).days
        if limits.grade(days) is not Status.OK:
            yield Finding(
                limits.grade(days),
                f"The waiver of {one.path} ends on {one.until} ({one.owner}).",
                one.path,
                days,
                "days",
            )


CHECK = Check(
    "coverage_waivers", "Waivers that lapse", "own",
    "Classify what the waiver covers, or let its owner renew it.", Limits(14, -1), verdict, read,
)  # fmt: skip
