"""Give documents a field that they lack. Never overwrites one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Mode, Operation, Preview
from mongo_ops.migrations.operations.estimate import count, estimate, refuse

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class AddField(Operation):
    """Set ``field`` (dotted) in the documents that lack it, to a constant or to an aggregation expression.

    The reverse takes the field from exactly the documents that got it here, with whatever value it has by then (it is
    snapshotted before); documents that had it already, or came later, keep theirs. Embedded documents that had to be
    made for a dotted field go too, unless something else is in them now.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    collection: str
    field: str
    _: KW_ONLY
    value: Any = None
    expression: Any = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def takes_late_comers(self) -> bool:
        """Return True: what it has changed does not match any more."""
        return True

    def describe(self) -> str:
        """Say what it sets, where."""
        what = f"{self.value!r:.60}" if self.expression is None else "the result of an expression"
        which = f"documents of {self.collection}{fields.where_clause(self.where)}"
        return f"Set {self.field} to {what} in {which} that lack it"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def destroys(self) -> tuple[Loss, ...]:
        """The reverse removes the field with its values."""
        blocked = fields.blocked(self.field)
        reachable = {"$nor": [blocked]} if blocked else {}  # elsewhere the path names no field that was written here
        return (Loss(self.collection, reachable, fields=(self.field,)),)

    def forward(self, at: Bench) -> Counts:
        """Set it, batch by batch.

        Raises:
            OperationError: a parent of the field is something else than an embedded document.
        """
        refuse(self._obstacle(at.db))
        image = before_images.of_making(self.field)
        return before_images.change(
            at, self.collection, self._lacking(), self._pipeline(), image=image, digest=self.digest()
        )

    def reverse(self, at: Bench) -> Counts:
        """Unset it where ``forward`` set it."""
        update = {"$unset": {self.field: ""}}
        return before_images.undo_update(
            at, self.collection, fields.has(self.field), update, self.digest(), unmake=self.field
        )

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents that lack it."""
        stop = self._obstacle(db)
        return estimate(db, self.collection, self._lacking(), becomes=self._pipeline(), stop=stop)

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the path, the filter and the value."""
        yield from fields.path_faults(self.field)
        yield from fields.javascript_faults([self.where, self.expression])
        if self.value is not None and self.expression is not None:
            yield Fault("MO306", f"{self.field} gets both a value and an expression; give one of them.")

    def _lacking(self) -> dict[str, Any]:
        return fields.both(self.where, fields.lacks(self.field))

    def _pipeline(self) -> list[dict[str, Any]]:
        content = {"$literal": self.value} if self.expression is None else self.expression
        return [{"$set": {self.field: content}}]

    def _obstacle(self, db: Database[Document]) -> str | None:
        blocked = fields.blocked(self.field)
        found = count(db, self.collection, fields.both(self.where, blocked) if blocked else None)
        if not found:
            return None
        return (
            f"{self.field} cannot be set in {found:,} documents of {self.collection}: a parent of it is null, an array or a "
            "plain value there. Leave them out with where=, or change them first."
        )
