"""Insert reference data that the migration file itself carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Mode, Operation, OperationError, Preview
from mongo_ops.migrations.operations.before_images import chunks
from mongo_ops.migrations.operations.estimate import DOCUMENTS_PER_SECOND
from mongo_ops.mongo.documents import Document, canonical

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts

LIMIT = 1_000
"""More documents than this belong into an import, not into a program."""


@dataclass(frozen=True)
class _Comparison:
    """How the given documents meet the database: new ones, equal ones, and pairs (given, stored) that differ."""

    new: tuple[Document, ...]
    equal: int
    different: tuple[tuple[Document, Document], ...]


@dataclass(frozen=True)
class InsertDocuments(Operation):
    """Insert ``documents``, recognised by their ``key`` fields (top-level; an index on them helps).

    A document that is there with equal content counts as matched. Other content under the same key is counted and
    refused, or with ``upsert`` replaced: all but key and ``_id`` becomes as given. The reverse deletes what was inserted
    (changed since or not; snapshotted before) and puts replaced documents back as they were. All in one transaction.
    """

    mode: ClassVar[Mode] = Mode.TRANSACTION
    collection: str
    documents: Sequence[Mapping[str, Any]]
    _: KW_ONLY
    key: tuple[str, ...] = ("_id",)
    upsert: bool = False

    def describe(self) -> str:
        """Say how many documents are inserted."""
        rest = "replacing what differs" if self.upsert else "refusing what differs"
        return f"Insert {len(self.documents):,} documents into {self.collection} by {', '.join(self.key)}, {rest}"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def destroys(self) -> tuple[Loss, ...]:
        """The reverse deletes or restores the documents with these keys."""
        return (
            (Loss(self.collection, {"$or": [self._by_key(one) for one in self.documents]}),) if self.documents else ()
        )

    def forward(self, at: Bench) -> Counts:
        """Insert, and replace with ``upsert``.

        Raises:
            OperationError: a document is there with other content, or a key is there several times.
        """
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        seen = self._compare(at.db, at.session)
        if seen.different and not self.upsert:
            raise OperationError(self._refusal(len(seen.different)))
        images: list[Document] = []
        if seen.new:
            made = at.db[self.collection].insert_many(seen.new, session=at.session)
            images += [{"_id": key, "had": False} for key in made.inserted_ids]
        for given, stored in seen.different:
            itself = {"_id": stored["_id"]}
            at.db[self.collection].replace_one(itself, {**given, **itself}, session=at.session)
            images.append({**itself, "had": True, "value": stored})
        if images:
            at.images.insert_many(images, session=at.session)
        changed = len(seen.different)
        return Counts(matched=seen.equal + changed, modified=changed, inserted=len(seen.new))

    def reverse(self, at: Bench) -> Counts:
        """Delete what was inserted, put back what was replaced."""
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        done = Counts()
        inserted: list[Any] = []
        for image in list(at.images.find({}, session=at.session)):
            if image["had"]:
                put = at.db[self.collection].replace_one({"_id": image["_id"]}, image["value"], session=at.session)
                done += Counts(matched=put.matched_count, modified=put.modified_count)
            else:
                inserted.append(image["_id"])
        if inserted:
            gone = at.db[self.collection].delete_many({"_id": {"$in": inserted}}, session=at.session)
            done += Counts(deleted=gone.deleted_count)
        at.images.delete_many({}, session=at.session)
        return done

    def is_done(self, db: Database[Document]) -> bool:
        """Say whether every document is there as given."""
        return self._compare(db, None).equal == len(self.documents)

    def preview(self, db: Database[Document]) -> Preview:
        """Compare the documents with what is there."""
        try:
            seen = self._compare(db, None)
        except OperationError as error:
            return Preview(stop=str(error))
        different = len(seen.different)
        written = len(seen.new) + different
        stop = self._refusal(different) if different and not self.upsert else None
        seconds = written / DOCUMENTS_PER_SECOND
        notes = (f"{seen.equal:,} of {len(self.documents):,} documents are there already.",) if seen.equal else ()
        return Preview(matched=written, scanned=len(self.documents), seconds=seconds, notes=notes, stop=stop)

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the documents and their keys."""
        if not self.documents:
            yield Fault("MO302", "There are no documents to insert.")
        if len(self.documents) > LIMIT:
            yield Fault("MO312", f"{len(self.documents):,} documents; above {LIMIT:,}, use an import or CopyDocuments.")
        lacking = sum(any(name not in one for name in self.key) for one in self.documents)
        if lacking or not self.key:
            yield Fault("MO310", f"{lacking:,} documents lack a key field ({', '.join(self.key)}).")
            return
        keys = {canonical(self._by_key(one)) for one in self.documents}
        if len(keys) < len(self.documents):
            yield Fault("MO311", f"{len(self.documents) - len(keys):,} documents repeat a key ({', '.join(self.key)}).")

    def _by_key(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {name: document[name] for name in self.key}

    def _refusal(self, count: int) -> str:
        return (
            f"{count:,} documents are in {self.collection} already, with the same {', '.join(self.key)} and other content. "
            "Set upsert=True to replace them, or correct the file."
        )

    def _compare(self, db: Database[Document], session: ClientSession | None) -> _Comparison:
        new, different, equal = [], [], 0
        for part in chunks(map(dict, self.documents)):
            stored = self._stored(db, part, session)
            if not stored:
                new += part
                continue
            for given in part:
                found = stored[canonical(self._by_key(given))]
                if len(found) > 1:
                    raise OperationError(
                        f"{self.collection} has a key ({', '.join(self.key)}) several times; it identifies nothing."
                    )
                if not found:
                    new.append(given)
                elif canonical({**given, "_id": found[0]["_id"]}) == canonical(found[0]):
                    equal += 1
                else:
                    different.append((given, found[0]))
        return _Comparison(tuple(new), equal, tuple(different))

    def _stored(
        self, db: Database[Document], given: Sequence[Document], session: ClientSession | None
    ) -> Mapping[str, list[Document]]:
        """Return what is stored under each document's key, by the key's canonical form, with one query for all. Empty: nothing.

        The server calls more values equal than the canonical form does (1 and 1.0, a value and an array that holds it).
        When it finds a document that the form cannot assign, each key is asked for on its own.
        """
        several: dict[str, Any] = {"$or": [self._filter(one) for one in given]}
        if len(self.key) == 1:
            several = {self.key[0]: {"$in": [one[self.key[0]] for one in given]}}
        found = iter(db[self.collection].find(several, session=session))
        first = next(found, None)
        if first is None:
            return {}
        stored: dict[str, list[Document]] = {canonical(self._by_key(one)): [] for one in given}
        for document in chain([first], found):
            form = canonical({name: document.get(name) for name in self.key})
            if form not in stored:
                break
            stored[form].append(document)
        else:
            return stored
        alone = {canonical(self._by_key(one)): self._filter(one) for one in given}
        return {form: list(db[self.collection].find(where, session=session).limit(2)) for form, where in alone.items()}

    def _filter(self, document: Mapping[str, Any]) -> dict[str, Any]:
        return {name: {"$eq": value} for name, value in self._by_key(document).items()}
