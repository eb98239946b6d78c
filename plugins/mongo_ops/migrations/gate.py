"""The promotion gate: a protected environment takes only what the one before it has proved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mongo_ops import audit
from mongo_ops.errors import PlanError
from mongo_ops.migrations import history
from mongo_ops.migrations import plan as planner
from mongo_ops.migrations.history import Occasion
from mongo_ops.migrations.model import MigrationFile
from mongo_ops.migrations.passage import audit_entry

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


class NotPromotedError(PlanError):
    """The environment before has not applied these migrations."""

    def __init__(self, names: Sequence[str], source: str, environment: str) -> None:
        super().__init__(tuple(names), source, environment)
        self.names, self.source, self.environment = tuple(names), source, environment

    def __str__(self) -> str:
        return (
            f"{', '.join(self.names)} is not applied with this checksum on {self.source}, which {self.environment} promotes from. "
            f"Run it there first; in an emergency give a break-glass reason, which is audited."
        )


def missing(source: Target, todo: Sequence[MigrationFile]) -> tuple[str, ...]:
    """Return which migrations the source environment has not applied with the same checksum. Writes nothing."""
    return planner.missing_in_source(todo, history.load_all(source.db), source.environment.name)


def break_glass(target: Target, occasion: Occasion, names: Sequence[str], reason: str) -> None:
    """Let migrations through the gate and write into the audit log that, and why, it was done."""
    audit.prepare(target.db)
    entry = audit_entry(
        target.environment.name, occasion, ", ".join(names), "gate.broken", "allowed", {"migrations": list(names), "break_glass": reason}
    )  # fmt: skip
    audit.record(target.db, entry)
