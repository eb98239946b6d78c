"""Rename a field, also into or out of embedded documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Mode, Operation, Preview
from mongo_ops.migrations.operations.estimate import count, estimate, refuse

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class RenameField(Operation):
    """Rename ``old`` to ``new`` (dotted paths) in the documents that have the first and lack the second.

    Documents that have both are counted beforehand and refused. The reverse renames back what was renamed here, as far
    as a document still has ``new`` and not ``old``.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    collection: str
    old: str
    new: str

    @property
    def takes_late_comers(self) -> bool:
        """Return True: what it has changed does not match any more."""
        return True

    def describe(self) -> str:
        """Say what it renames."""
        return f"Rename {self.old} to {self.new} in the documents of {self.collection} that have it"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def forward(self, at: Bench) -> Counts:
        """Rename, batch by batch.

        Raises:
            OperationError: some documents have both, or the paths lead through arrays.
        """
        refuse(self._obstacle(at.db))
        update, image = {"$rename": {self.old: self.new}}, before_images.of_making(self.new)
        return before_images.change(at, self.collection, self._pending(), update, image=image, digest=self.digest())

    def reverse(self, at: Bench) -> Counts:
        """Rename back what ``forward`` renamed."""
        where = fields.both(fields.has(self.new), fields.lacks(self.old))
        update = {"$rename": {self.new: self.old}}
        return before_images.undo_update(at, self.collection, where, update, self.digest(), unmake=self.new)

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents that have the old name."""
        becomes: list[dict[str, Any]] = [{"$set": {self.new: f"${self.old}"}}, {"$unset": self.old}]
        stop = self._obstacle(db)
        return estimate(db, self.collection, self._pending(), becomes=becomes, stop=stop, risk="medium")

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the two paths."""
        yield from fields.path_faults(self.old)
        yield from fields.path_faults(self.new)
        if f"{self.old}.".startswith(f"{self.new}.") or f"{self.new}.".startswith(f"{self.old}."):
            yield Fault("MO307", f"{self.old} and {self.new} are the same field, or one is inside of the other.")

    def _pending(self) -> dict[str, Any]:
        return fields.both(fields.has(self.old), fields.lacks(self.new))

    def _obstacle(self, db: Database[Document]) -> str | None:
        exists = {self.old: {"$exists": True}}
        found = count(db, self.collection, {**exists, self.new: {"$exists": True}})
        if found:
            return (
                f"{found:,} documents of {self.collection} have both {self.old} and {self.new}. Decide which one counts, "
                "e.g. with a RemoveField or a Backfill before this."
            )
        found = count(db, self.collection, fields.through_array(self.old))
        if found:
            return f"{self.old} lies inside an array in {found:,} documents of {self.collection}; use a Backfill for arrays."
        blocked = fields.blocked(self.new)
        found = count(db, self.collection, fields.both(exists, blocked) if blocked else None)
        if found:
            return (
                f"{self.new} cannot be set in {found:,} documents of {self.collection}: a parent of it is null, an array or "
                "a plain value there. Change them first."
            )
        return None
