"""What the applied migrations say the catalogue should hold: a pure fold over their operations, in applied order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mongo_ops.migrations.model import MigrationFile, Record, State
from mongo_ops.migrations.operations.base import Operation
from mongo_ops.migrations.operations.create_collection import CreateCollection
from mongo_ops.migrations.operations.create_index import CreateIndex
from mongo_ops.migrations.operations.drop_collection import DropCollection
from mongo_ops.migrations.operations.drop_index import DropIndex
from mongo_ops.migrations.operations.rename_collection import RenameCollection
from mongo_ops.migrations.operations.set_validator import SetValidator


@dataclass
class Shape:
    """A collection as it should be: options as given to ``create``, indexes by name as given to ``createIndexes``.

    ``created`` is False when no migration created it, so that nothing is known of its other options.
    """

    created: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    indexes: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def expected(files: Sequence[MigrationFile], records: Sequence[Record]) -> Mapping[str, Shape]:
    """Return the expected shape of every collection that applied migrations speak of."""
    known = {file.name: file for file in files}
    applied = sorted((r for r in records if r.state is State.APPLIED and r.name in known), key=lambda r: r.order)
    shapes: dict[str, Shape] = {}
    for operation in _operations(known[record.name] for record in applied):
        _fold(shapes, operation)
    return shapes


def _operations(files: Iterable[MigrationFile]) -> Iterable[Operation]:
    return (operation for file in files for operation in file.migration.operations)


def _fold(shapes: dict[str, Shape], operation: Operation) -> None:
    match operation:
        case CreateCollection():
            shapes[operation.name] = Shape(created=True, options=dict(operation.options()))
        case DropCollection():
            shapes.pop(operation.name, None)
        case RenameCollection():
            if operation.old in shapes:
                shapes[operation.new] = shapes.pop(operation.old)
        case SetValidator():
            shapes.setdefault(operation.collection, Shape()).options |= operation.rules()
        case CreateIndex():
            shapes.setdefault(operation.collection, Shape()).indexes[operation.index_name] = operation.spec()
        case DropIndex():
            shapes.setdefault(operation.collection, Shape()).indexes.pop(operation.name, None)
        case _:
            pass
