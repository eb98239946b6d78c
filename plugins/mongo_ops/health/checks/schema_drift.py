"""Is the catalogue as the applied migrations say? Missing, changed and extra indexes, options and validators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Deviation, Sight

STATUSES = {"missing": Status.CRIT, "changed": Status.CRIT, "extra": Status.WARN}


def read(sight: Sight) -> Sequence[Deviation]:
    """Ask the layer above, which knows the migrations."""
    if sight.outside.drift is None:
        raise NotApplicableError("No migrations are known here.")
    return sight.outside.drift(sight.snapshot)


def verdict(facts: Sequence[Deviation], limits: Limits) -> Iterator[Finding]:
    """CRIT for what is missing or changed, WARN for what nobody declared."""
    del limits
    for one in facts:
        yield Finding(STATUSES[one.kind], f"{one.subject} is {one.kind}.", one.scope, diff=one.diff)


CHECK = Check(
    "schema_drift", "Schema drift", "schema",
    "Find out who changed it; bring the database back, or write a migration that says so.", Limits(), verdict, read,
)  # fmt: skip
