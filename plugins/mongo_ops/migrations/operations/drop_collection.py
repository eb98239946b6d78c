"""Drop a collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Operation, OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class DropCollection(Operation):
    """Drop a collection with its documents and indexes.

    The run takes a snapshot of it first. Undoing recreates the collection with its options and indexes; the run then
    restores the documents from the snapshot.
    """

    name: str

    def describe(self) -> str:
        """Say what is dropped."""
        return f"Drop the collection {self.name} with all its documents and indexes"

    def writes(self) -> tuple[str, ...]:
        """The collection."""
        return (self.name,)

    def forward_destroys(self) -> tuple[Loss, ...]:
        """All of it."""
        return (Loss(self.name),)

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note options, indexes and the number of documents."""
        listed = self._listed(db)
        if listed is None:
            return {"existed": False}
        return {
            "existed": True,
            "identity": listed.uuid,
            "options": catalogue.note(listed.options),
            "indexes": [catalogue.note(index.spec) for index in catalogue.indexes(db, self.name) if not index.building],
            "count": db[self.name].count_documents({}),
        }

    def not_begun(self, db: Database[Document], found: Mapping[str, Any]) -> bool:
        """The very collection that was seen before is still there."""
        seen = found.get("identity")
        return seen is not None and catalogue.identity(db, self.name) == seen

    def forward(self, at: Bench) -> Counts:
        """Drop it; nothing to do when it is gone."""
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        catalogue.check_names(self.name)
        if self._listed(at.db) is None:
            return Counts()
        count = at.db[self.name].estimated_document_count()
        at.check()
        catalogue.carry_out(at.db, {"drop": self.name}, f"The collection {self.name}")
        return Counts(deleted=count)

    def reverse(self, at: Bench) -> Counts:
        """Recreate it with options and indexes, or what of it a killed run had left out."""
        if not catalogue.fact(at.found, "existed", f"The collection {self.name}"):
            return catalogue.none_counted()
        catalogue.check_names(self.name)
        subject = f"The collection {self.name}"
        options = catalogue.recall(at.found["options"])
        at.check()
        if catalogue.collection(at.db, self.name) is None:
            catalogue.carry_out(at.db, {"create": self.name, **catalogue.recreate_options(options)}, subject)
        there = {index.name for index in catalogue.indexes(at.db, self.name)}
        specs = [catalogue.recall(text) for text in at.found["indexes"]]
        wanted = [
            catalogue.rebuild_spec(spec, collated="collation" in options) for spec in specs if spec["name"] not in there
        ]
        wanted = [spec for spec in wanted if spec["key"] != {"_id": 1}]
        if wanted:
            catalogue.carry_out(at.db, {"createIndexes": self.name, "indexes": wanted}, subject)
        return catalogue.none_counted()

    def is_done(self, db: Database[Document]) -> bool | None:
        """It is gone."""
        return catalogue.collection(db, self.name) is None

    def preview(self, db: Database[Document]) -> Preview:
        """Say how much is lost."""
        if catalogue.collection(db, self.name) is None:
            return Preview(notes=(f"{self.name} does not exist: nothing to drop.",))
        held = catalogue.storage(db, self.name)
        count = db[self.name].estimated_document_count()
        note = f"{count:,} documents ({held['size']:,} bytes) are removed; a snapshot is taken before."
        notes = (note, *catalogue.orphaned_views(db, self.name))
        return Preview(matched=count, scanned=count, risk="high", notes=notes)

    def lint(self) -> Iterable[Fault]:
        """Check the name. What it destroys is asked about by the rule on losses (MO102)."""
        yield from catalogue.name_faults(self.name)

    def _listed(self, db: Database[Document]) -> catalogue.Listed | None:
        listed = catalogue.collection(db, self.name)
        if listed is not None and listed.type == "view":
            raise OperationError(f"{self.name} is a view, not a collection. Drop it with RunCommand.")
        return listed
