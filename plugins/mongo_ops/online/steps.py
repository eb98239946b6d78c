"""The boundaries between two effects of a migration, by name. Nothing happens here; tests stop or kill a process at one."""

from __future__ import annotations

STEPS = (
    "start.token", "start.target", "start.recorded", "backfill.chunk", "replay.batch", "verify.range", "verify.recorded",
    "cut_over.recorded", "cut_over.fenced", "cut_over.drained", "cut_over.verified", "cut_over.swapped", "cut_over.recorded_after",
    "rollback.recorded", "rollback.fenced", "rollback.drained", "rollback.verified", "rollback.swapped", "rollback.recorded_after",
    "abort.recorded", "abort.cleaned", "contract.recorded", "contract.strict", "contract.verified", "contract.dropped",
)  # fmt: skip


def reached(name: str) -> None:
    """Mark that the effect before this boundary is complete and the next has not begun."""
    del name
