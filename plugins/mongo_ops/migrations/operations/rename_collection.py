"""Rename a collection."""

from __future__ import annotations

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
class RenameCollection(Operation):
    """Rename a collection; documents, indexes and options stay. A collection of the new name is never overwritten."""

    old: str
    new: str

    def describe(self) -> str:
        """Say from what to what."""
        return f"Rename the collection {self.old} to {self.new}"

    def writes(self) -> tuple[str, ...]:
        """Both names."""
        return (self.old, self.new)

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note whether there is something to rename."""
        listed = catalogue.collection(db, self.old)
        return {"existed": listed is not None, "identity": listed.uuid if listed else None}

    def not_begun(self, db: Database[Document], found: Mapping[str, Any]) -> bool:
        """The very collection that was seen before still has its old name."""
        seen = found.get("identity")
        return seen is not None and catalogue.identity(db, self.old) == seen

    def forward(self, at: Bench) -> Counts:
        """Rename it, unless that is done."""
        return self._rename(at, self.old, self.new)

    def reverse(self, at: Bench) -> Counts:
        """Rename it back."""
        if not catalogue.fact(at.found, "existed", f"The collection {self.old}"):
            return catalogue.none_counted()
        return self._rename(at, self.new, self.old)

    def is_done(self, db: Database[Document]) -> bool | None:
        """The old name is gone and the new one there."""
        return self._named(db, self.new, self.old)

    def is_undone(self, db: Database[Document]) -> bool | None:
        """The new name is gone and the old one there."""
        return self._named(db, self.old, self.new)

    def preview(self, db: Database[Document]) -> Preview:
        """Say what stands in the way and who has to know."""
        if self.is_done(db):
            return Preview(notes=(f"{self.old} is already named {self.new}.",))
        if catalogue.collection(db, self.old) is None:
            return Preview(notes=(f"{self.old} does not exist yet; an earlier operation has to create it.",))
        note = f"Whoever reads or writes {self.old} must use the name {self.new} from that moment on."
        notes = (note, *catalogue.orphaned_views(db, self.old))
        return Preview(risk="medium", notes=notes, stop=self._obstacle(db, self.old, self.new))

    def lint(self) -> Iterable[Fault]:
        """Check both names."""
        yield from catalogue.name_faults(self.old, self.new)
        if self.old == self.new:
            yield Fault("MO207", f"{self.old} would be renamed to itself")

    def _named(self, db: Database[Document], present: str, absent: str) -> bool:
        return catalogue.collection(db, present) is not None and catalogue.collection(db, absent) is None

    def _rename(self, at: Bench, source: str, goal: str) -> Counts:
        catalogue.check_names(source, goal)
        if not self._named(at.db, goal, source):
            if obstacle := self._obstacle(at.db, source, goal):
                raise OperationError(obstacle)
            at.check()
            catalogue.checked(lambda: dict(at.db[source].rename(goal)), f"The collection {source}")
        return catalogue.none_counted()

    def _obstacle(self, db: Database[Document], source: str, goal: str) -> str | None:
        """Return why it cannot be renamed, or None."""
        listed = catalogue.collection(db, source)
        if listed is None:
            return f"{source} does not exist, so it cannot be renamed to {goal}."
        if listed.type != "collection":
            return f"{source} is a {listed.type}; the server renames plain collections only."
        if catalogue.collection(db, goal) is not None:
            return f"{goal} exists already and is never overwritten. Rename or drop it first."
        return None
