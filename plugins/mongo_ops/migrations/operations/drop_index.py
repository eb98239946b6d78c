"""Drop an index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Fault, Operation, OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class DropIndex(Operation):
    """Drop an index by name; undoing rebuilds it exactly as it was."""

    collection: str
    name: str

    def describe(self) -> str:
        """Say which."""
        return f"Drop the index {self.name} of {self.collection}"

    def writes(self) -> tuple[str, ...]:
        """The collection."""
        return (self.collection,)

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note the full definition."""
        index = self._index(db)
        return {"index": catalogue.note(index.spec) if index else None}

    def forward(self, at: Bench) -> Counts:
        """Drop it; nothing to do when it is gone."""
        catalogue.check_names(self.collection)
        if self.name in ("*", "_id_"):
            raise OperationError(
                f"The index {self.name} of {self.collection} cannot be dropped: name one index other than _id_."
            )
        if self._index(at.db):
            at.check()
            catalogue.carry_out(at.db, {"dropIndexes": self.collection, "index": self.name}, self._subject())
        return catalogue.none_counted()

    def reverse(self, at: Bench) -> Counts:
        """Rebuild it from the noted definition."""
        text = catalogue.fact(at.found, "index", self._subject())
        index = self._index(at.db)
        if text is not None and (index is None or index.building):
            listed = catalogue.collection(at.db, self.collection)
            if listed is None:
                raise OperationError(
                    f"{self.collection} does not exist any more, so its index {self.name} cannot be rebuilt."
                )
            spec = catalogue.rebuild_spec(catalogue.recall(text), collated="collation" in listed.options)
            at.check()
            catalogue.carry_out(at.db, {"createIndexes": self.collection, "indexes": [spec]}, self._subject())
        return catalogue.none_counted()

    def is_done(self, db: Database[Document]) -> bool | None:
        """It is gone."""
        return self._index(db) is None

    def is_undone(self, db: Database[Document]) -> bool | None:
        """It is there and built; when it is not, it may never have been."""
        index = self._index(db)
        return True if index and not index.building else None

    def preview(self, db: Database[Document]) -> Preview:
        """Say whether the index is there and used."""
        if self._index(db) is None:
            return Preview(notes=(f"{self.collection} has no index {self.name}: nothing to drop.",))
        used = self._used(db)
        notes = (f"{self._subject()} served {used:,} operations since the server started.",) if used else ()
        return Preview(risk="medium" if used else "low", notes=notes)

    def lint(self) -> Iterable[Fault]:
        """Check the names."""
        yield from catalogue.name_faults(self.collection)
        if self.name in ("", "*", "_id_"):
            yield Fault(
                "MO207", f"the index {self.name!r} of {self.collection} cannot be dropped: name one other than _id_"
            )

    def _subject(self) -> str:
        return f"The index {self.name} of {self.collection}"

    def _index(self, db: Database[Document]) -> catalogue.Index | None:
        return next((index for index in catalogue.indexes(db, self.collection) if index.name == self.name), None)

    def _used(self, db: Database[Document]) -> int:
        """Return how often queries used it; 0 as well when this user may not ask."""
        from pymongo.errors import OperationFailure  # noqa: PLC0415 - keeps pymongo out of the parse path

        with contextlib.suppress(OperationFailure):
            stats = db[self.collection].aggregate([{"$indexStats": {}}, {"$match": {"name": self.name}}])
            return sum(int(part["accesses"]["ops"]) for part in stats)
        return 0
