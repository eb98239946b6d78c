"""Does the audit log still verify? Each chain is read whole, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mongo_ops.audit import Verification, verify
from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.sight import Sight

HEADS = "ops_audit_head"


def read(sight: Sight) -> Sequence[tuple[str, Verification]]:
    """Verify the chains that are here."""
    names = [name for name in sight.limits.option("logs") if sight.snapshot.has(name)]
    if not names or not sight.snapshot.has(HEADS):
        raise NotApplicableError("No audit log has been begun here.")
    return [(name, verify(sight.db, log=name)) for name in names]


def verdict(facts: Sequence[tuple[str, Verification]], limits: Limits) -> Iterator[Finding]:
    """CRIT for a chain with a fault."""
    del limits
    for name, seen in facts:
        if not seen.ok:
            yield Finding(Status.CRIT, str(seen), name, len(seen.faults) + seen.more_faults, "faults")


CHECK = Check(
    "audit_chain", "Audit chain", "own",
    "Keep a copy of the collection as evidence, find who changed it (`mongo-ops audit verify`), then reseal.",
    Limits(options={"logs": ["audit_log", "ops_erasure_ledger"]}), verdict, read,
)  # fmt: skip
