"""Has a mute of health.yaml ended? What it covered is told again from now on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from mongo_ops.health.model import Check, Finding, Limits, Mute, Status
from mongo_ops.health.sight import Sight


@dataclass(frozen=True)
class Mutes:
    """All mutes, and today."""

    today: date
    mutes: Sequence[Mute]


def read(sight: Sight) -> Mutes:
    """Add today."""
    return Mutes(sight.snapshot.taken_at.date(), sight.mutes)


def verdict(facts: Mutes, limits: Limits) -> Iterator[Finding]:
    """WARN for each that has ended."""
    del limits
    for one in facts.mutes:
        if one.until < facts.today:
            sentence = f"The mute of {one.check} ({one.scope}) by {one.owner} ended on {one.until}."
            yield Finding(Status.WARN, sentence, f"{one.check} {one.scope}")


CHECK = Check(
    "lapsed_mutes",
    "Mutes that have ended",
    "own",
    "Take it out of health.yaml, or have its owner renew it.",
    Limits(),
    verdict,
    read,
)
