"""Move documents into another collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Mode, Operation, Preview
from mongo_ops.migrations.operations.copy_documents import differing, not_yet_in, other_content
from mongo_ops.migrations.operations.estimate import estimate, refuse

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class MoveDocuments(Operation):
    """Move the documents of ``source`` that match ``where`` into ``target``, under the same ``_id``.

    A batch's copies and deletions commit together, so a document is in exactly one of the two at any instant. Equal
    content in the target already is left there; other content under the same ``_id`` is counted and refused. The
    reverse moves back what was moved, as it is by then; what the target held before stays there too.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    source: str
    target: str
    _: KW_ONLY
    where: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Say what it moves where."""
        return f"Move documents of {self.source}{fields.where_clause(self.where)} into {self.target}"

    def writes(self) -> tuple[str, ...]:
        """Return both collections."""
        return (self.source, self.target)

    def forward(self, at: Bench) -> Counts:
        """Move, batch by batch.

        Raises:
            OperationError: the target has other content under the same ``_id``.
        """
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        refuse(self._obstacle(at.db))
        before_images.prepare(at, self.target)
        source, target = before_images.raw(at.db[self.source]), before_images.raw(at.db[self.target])

        def apply(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
            done = Counts()
            for some in before_images.chunks(source.find(selected, session=session, hint=[("_id", 1)])):
                missing = not_yet_in(target, some, session)
                new = {id(one) for one in missing}
                if missing:
                    target.insert_many(missing, session=session)
                at.images.insert_many([{"_id": one["_id"], "had": id(one) not in new} for one in some], session=session)
                gone = source.delete_many({"_id": {"$in": [one["_id"] for one in some]}}, session=session)
                done += Counts(matched=len(some), inserted=len(missing), deleted=gone.deleted_count)
            return done

        return at.batches(self.source, self.where, apply, self.digest())

    def reverse(self, at: Bench) -> Counts:
        """Move back what was moved.

        Raises:
            OperationError: the source has other content under the same ``_id`` by now.
        """
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        source, target = before_images.raw(at.db[self.source]), before_images.raw(at.db[self.target])

        def act(session: ClientSession, images: Sequence[Mapping[str, Any]]) -> Counts:
            moved = {"_id": {"$in": [image["_id"] for image in images]}}
            back = list(target.find(moved, session=session))
            missing = not_yet_in(source, back, session)
            if missing:
                source.insert_many(missing, session=session)
            ours = {"_id": {"$in": [image["_id"] for image in images if not image["had"]]}}
            gone = target.delete_many(ours, session=session)
            return Counts(matched=len(back), inserted=len(missing), deleted=gone.deleted_count)

        return before_images.undo(at, self.digest(), act)

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents to move, and those that the target has with other content."""
        return estimate(db, self.source, self.where, stop=self._obstacle(db), risk="medium")

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the two names and the filter."""
        if self.source == self.target:
            yield Fault("MO309", f"{self.source} is both source and target.")
        yield from fields.javascript_faults(self.where)

    def _obstacle(self, db: Database[Document]) -> str | None:
        target = before_images.raw(db[self.target])
        if target.find_one({}, {"_id": 1}) is None:
            return None
        found = 0
        for some in before_images.chunks(before_images.raw(db[self.source]).find(dict(self.where))):
            found += len(differing(target, some, None))
        return other_content(self.target, found) if found else None
