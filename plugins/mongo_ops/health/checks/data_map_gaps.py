"""Is everything in the data map? What it does not name outlives an erasure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight


def read(sight: Sight) -> Sequence[tuple[str, str]]:
    """Ask the layer above, which knows the data map: (place, sentence)."""
    if sight.outside.coverage is None:
        raise NotApplicableError("No data map is known here.")
    return sight.outside.coverage()


def verdict(facts: Sequence[tuple[str, str]], limits: Limits) -> Iterator[Finding]:
    """WARN for each gap."""
    del limits
    for place, sentence in facts:
        yield Finding(Status.WARN, sentence, place)


CHECK = Check(
    "data_map_gaps", "Gaps in the data map", "data",
    "Classify the fields in data_map.yaml before the next erasure request comes.", Limits(), verdict, read,
)  # fmt: skip
