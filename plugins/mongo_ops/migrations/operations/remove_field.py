"""Remove a field, keeping what it held so that it can come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Mode, Operation, Preview
from mongo_ops.migrations.operations.estimate import count, estimate, refuse

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class RemoveField(Operation):
    """Remove ``field`` (dotted) from the documents that match ``where``.

    Each value is kept as a before-image in the transaction that removes it. The reverse puts back value and BSON type,
    in the documents that still lack the field; the field then stands last in its document.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    collection: str
    field: str
    _: KW_ONLY
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def takes_late_comers(self) -> bool:
        """Return True: what it has changed does not match any more."""
        return True

    def describe(self) -> str:
        """Say what it removes."""
        return f"Remove {self.field} from documents of {self.collection}{fields.where_clause(self.where)}, keeping its values"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def forward(self, at: Bench) -> Counts:
        """Keep and remove, batch by batch.

        Raises:
            OperationError: the field lies inside an array.
        """
        refuse(self._obstacle(at.db))
        update, image = {"$unset": {self.field: ""}}, before_images.of_value(self.field)
        return before_images.change(at, self.collection, self._having(), update, image=image, digest=self.digest())

    def reverse(self, at: Bench) -> Counts:
        """Put the values back where the field is still absent."""
        from pymongo import UpdateOne  # noqa: PLC0415 - keeps pymongo out of the parse path

        plain_parents = [fields.is_plain(parent) for parent in fields.parents(self.field)]

        def write_for(image: Mapping[str, Any]) -> Any:
            absent = fields.both({"_id": image["_id"]}, {self.field: {"$exists": False}}, *plain_parents)
            return UpdateOne(absent, {"$set": {self.field: image["value"]}})

        return before_images.restore(at, self.collection, write_for, self.digest())

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents that have it."""
        becomes, stop = [{"$unset": self.field}], self._obstacle(db)
        return estimate(db, self.collection, self._having(), becomes=becomes, stop=stop, risk="medium")

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the path and the filter."""
        yield from fields.path_faults(self.field)
        yield from fields.javascript_faults(self.where)

    def _having(self) -> dict[str, Any]:
        return fields.both(self.where, fields.has(self.field))

    def _obstacle(self, db: Database[Document]) -> str | None:
        arrays = fields.through_array(self.field)
        found = count(db, self.collection, fields.both(self.where, arrays) if arrays else None)
        if not found:
            return None
        return (
            f"{self.field} lies inside an array in {found:,} documents of {self.collection}; use a Backfill with "
            "revert='snapshot' for arrays."
        )
