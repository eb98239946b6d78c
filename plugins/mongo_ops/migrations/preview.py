"""What a plan would do to the database as it is now: the dry run's counts. Reads through a guarded client only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mongo_ops.migrations.model import MigrationFile
from mongo_ops.migrations.operations.base import Operation, OperationError, Preview
from mongo_ops.mongo.guard import WriteRefusedError

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

RISKS = ("low", "medium", "high")


@dataclass(frozen=True)
class OperationPreview:
    """One operation's line in the dry run."""

    description: str
    kind: str
    preview: Preview


@dataclass(frozen=True)
class MigrationPreview:
    """A migration's part of the dry run."""

    name: str
    title: str
    transaction: bool
    operations: tuple[OperationPreview, ...]

    @property
    def risk(self) -> str:
        """The highest risk of its operations."""
        return max((op.preview.risk for op in self.operations), key=RISKS.index, default="low")

    @property
    def seconds(self) -> float:
        """Estimated duration."""
        return sum(op.preview.seconds for op in self.operations)

    @property
    def stops(self) -> tuple[str, ...]:
        """Why it would fail on this data."""
        return tuple(f"{op.description}: {op.preview.stop}" for op in self.operations if op.preview.stop)


def preview(target: Target, files: Sequence[MigrationFile]) -> tuple[MigrationPreview, ...]:
    """Look at what each operation would do. ``target`` must come from a client with a ReadOnlyGuard.

    What is written to a collection that this very plan creates is not looked at: there is nothing to count yet.
    """
    there = set(target.db.list_collection_names())
    coming: set[str] = set()
    touched: set[str] = set()
    found: list[MigrationPreview] = []
    for file in files:
        operations: list[OperationPreview] = []
        for op in file.migration.operations:
            operations.append(_look(target, op, coming, touched))
            touched |= set(op.writes())
        coming |= touched - there
        found.append(MigrationPreview(file.name, file.title, file.migration.in_one_transaction, tuple(operations)))
    return tuple(found)


def preview_reverse(target: Target, files: Sequence[MigrationFile]) -> tuple[MigrationPreview, ...]:
    """Say what undoing each migration would destroy; all of it is snapshotted before. Reads only."""
    found: list[MigrationPreview] = []
    for file in files:
        operations = [_look_back(target, op) for op in reversed(file.migration.operations)]
        found.append(MigrationPreview(file.name, file.title, transaction=False, operations=tuple(operations)))
    return tuple(found)


def _look_back(target: Target, operation: Operation) -> OperationPreview:
    notes: list[str] = []
    total = 0
    for loss in operation.destroys():
        count = target.db[loss.collection].count_documents(dict(loss.where))
        what = f"{', '.join(loss.fields)} of " if loss.fields else ""
        total += count
        if count:
            notes.append(
                f"{what}{count:,} documents of {loss.collection} go to the environment's storage before they are undone."
            )
    seen = Preview(matched=total, scanned=total, risk="high" if total else "low", notes=tuple(notes))
    return OperationPreview(f"Undo: {operation.describe()}", operation.kind, seen)


def _look(target: Target, operation: Operation, coming: set[str], touched: set[str]) -> OperationPreview:
    seen = Preview()
    involved = {*operation.writes(), *operation.reads()}
    if not coming & involved:
        try:
            seen = operation.preview(target.db)
        except WriteRefusedError as refused:
            seen = Preview(matched=None, risk="high", stop=str(refused))
        except OperationError as error:
            seen = Preview(matched=None, risk="high", stop=str(error))
    if seen.stop and touched & involved:
        note = f"On the data as it is now it would fail ({seen.stop}); an earlier step of this plan may mend that."
        seen = replace(seen, stop=None, notes=(*seen.notes, note))
    return OperationPreview(operation.describe(), operation.kind, seen)
