"""Copy documents into another collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Mode, Operation, OperationError, Preview
from mongo_ops.migrations.operations.estimate import estimate, refuse
from mongo_ops.mongo.documents import canonical

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class CopyDocuments(Operation):
    """Copy the documents of ``source`` that match ``where`` into ``target``, under the same ``_id``.

    ``pipeline`` may reshape each document ($set, $addFields, $unset, $project, $replaceWith, $replaceRoot). A document
    that is in the target already with equal content counts as matched; other content under the same ``_id`` is counted
    and refused. The reverse deletes from the target exactly what was copied, changed since or not (the target is
    snapshotted before), and leaves what was there already.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    source: str
    target: str
    _: KW_ONLY
    where: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Sequence[Mapping[str, Any]] = ()

    def describe(self) -> str:
        """Say what it copies where."""
        reshaped = ", reshaped" if self.pipeline else ""
        return f"Copy documents of {self.source}{fields.where_clause(self.where)} into {self.target}{reshaped}"

    def writes(self) -> tuple[str, ...]:
        """Return the target."""
        return (self.target,)

    def reads(self) -> tuple[str, ...]:
        """Return the source."""
        return (self.source,)

    def destroys(self) -> tuple[Loss, ...]:
        """The reverse deletes from the target."""
        return (Loss(self.target),)

    def forward(self, at: Bench) -> Counts:
        """Copy, batch by batch.

        Raises:
            OperationError: the target has other content under the same ``_id``.
        """
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        before_images.prepare(at, self.target)
        if at.images.find_one() is None:  # later, the target may well have moved on from what was copied
            refuse(self._obstacle(at.db))

        target = before_images.raw(at.db[self.target])

        def apply(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
            done = Counts()
            for some in before_images.chunks(self._reshaped(at.db, selected, session)):
                missing = not_yet_in(target, some, session)
                if missing:
                    target.insert_many(missing, session=session)
                    at.images.insert_many([{"_id": one["_id"]} for one in missing], session=session)
                done += Counts(matched=len(some) - len(missing), inserted=len(missing))
            return done

        return at.batches(self.source, self.where, apply, self.digest())

    def reverse(self, at: Bench) -> Counts:
        """Delete what was copied."""
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        def act(session: ClientSession, images: Sequence[Mapping[str, Any]]) -> Counts:
            copied = {"_id": {"$in": [image["_id"] for image in images]}}
            return Counts(deleted=at.db[self.target].delete_many(copied, session=session).deleted_count)

        return before_images.undo(at, self.digest(), act)

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents to copy, and those that the target has with other content."""
        return estimate(db, self.source, self.where, stop=self._obstacle(db))

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the two names, the filter and the pipeline."""
        if self.source == self.target:
            yield Fault("MO309", f"{self.source} is both source and target.")
        yield from fields.javascript_faults(self.where)
        if self.pipeline:
            yield from fields.update_faults(self.pipeline)

    def _reshaped(
        self, db: Database[Document], where: fields.Filter, session: ClientSession | None
    ) -> Iterator[RawBSONDocument]:
        stages = [{"$match": dict(where)}, *map(_keeping_id, self.pipeline)]
        return before_images.raw(db[self.source]).aggregate(stages, session=session, hint={"_id": 1})

    def _obstacle(self, db: Database[Document]) -> str | None:
        target = before_images.raw(db[self.target])
        if target.find_one({}, {"_id": 1}) is None:
            return None
        found = 0
        for some in before_images.chunks(self._reshaped(db, self.where, None)):
            found += len(differing(target, some, None))
        return other_content(self.target, found) if found else None


def _keeping_id(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stage so that it cannot lose the document's ``_id``."""
    if "$replaceWith" in stage:
        return {"$replaceWith": {"$mergeObjects": [stage["$replaceWith"], {"_id": "$_id"}]}}
    if "$replaceRoot" in stage:
        return _keeping_id({"$replaceWith": stage["$replaceRoot"]["newRoot"]})
    return stage


def other_content(collection: str, count: int) -> str:
    """Return the sentence that refuses to overwrite documents."""
    return (
        f"{count:,} documents are in {collection} already, under the same _id and with other content. Remove or rename them "
        "there, or leave them out with where=."
    )


def differing(
    collection: Collection[RawBSONDocument], documents: list[RawBSONDocument], session: ClientSession | None
) -> list[RawBSONDocument]:
    """Return the documents that the collection holds under the same ``_id`` with other content."""
    return _meet(collection, documents, session)[1]


def not_yet_in(
    collection: Collection[RawBSONDocument], documents: list[RawBSONDocument], session: ClientSession | None
) -> list[RawBSONDocument]:
    """Return the documents that the collection lacks; those it holds with equal content are left out.

    Raises:
        OperationError: it holds some with other content, or a document has lost its ``_id``.
    """
    missing, different = _meet(collection, documents, session)
    refuse(other_content(collection.name, len(different)) if different else None)
    return missing


def _meet(
    collection: Collection[RawBSONDocument], documents: list[RawBSONDocument], session: ClientSession | None
) -> tuple[list[RawBSONDocument], list[RawBSONDocument]]:
    """Return the documents that the collection lacks, and those it holds with other content."""
    if any("_id" not in one for one in documents):
        raise OperationError(f"The pipeline takes the _id away, which documents of {collection.name} need.")
    held = collection.find({"_id": {"$in": [one["_id"] for one in documents]}}, session=session)
    there = {_key(one): canonical(one) for one in held}
    if not there:
        return documents, []
    missing = [one for one in documents if _key(one) not in there]
    return missing, [one for one in documents if there.get(_key(one)) not in (None, canonical(one))]


def _key(document: Mapping[str, Any]) -> str:
    return canonical({"_id": document["_id"]})
