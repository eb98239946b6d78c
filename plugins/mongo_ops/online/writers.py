"""Bring documents into their new form: in place under a guard, or into the target of a ghost migration.

A writer is asked for the work of one transaction, by range (backfill) or by keys (replay). It works from the documents as they are
now, not from what an event says, so doing it twice changes nothing, and a document that is gone is gone in the target too.
All transactions of a migration assert one lease and so come one after the other: nothing of the backfill can overtake the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne
from pymongo.collation import Collation
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from mongo_ops.mongo.batches import Counts
from mongo_ops.mongo.documents import CODEC
from mongo_ops.online import names
from mongo_ops.online.shape import RAW, Shape, stages
from mongo_ops.online.stream import key_bytes

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.model import Transform
    from mongo_ops.online.work import Work

Apply = Callable[["ClientSession"], Counts]
DUPLICATE_KEY = 11000
AT_ONCE = 500


class Writer(Protocol):
    """What backfill and replay need."""

    def fill(self, where: Mapping[str, Any]) -> Apply:
        """Return the work for a range of the source."""
        ...

    def sync(self, keys: Sequence[Any]) -> Apply:
        """Return the work that makes these keys right, whatever happened to them."""
        ...

    def keys_of(self, where: Mapping[str, Any]) -> list[Any]:
        """Return the source's keys in a range."""
        ...

    def in_the_way(self, error: PyMongoError) -> list[Any]:
        """Return the source keys of documents whose stale values made a write fail as a duplicate."""
        ...


class InPlace:
    """Applies the transform where the documents are.

    A pipeline is computed by the server from each document as it is; where nothing would change, nothing is written. A function's result
    replaces the document in the transaction that read it, so a writer in between makes that transaction start over.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._transform: Transform = work.spec.transform
        self._name = work.spec.collection

    def fill(self, where: Mapping[str, Any]) -> Apply:
        """Transform the documents of a range."""
        return lambda session: self._apply(where, session)

    def sync(self, keys: Sequence[Any]) -> Apply:
        """Transform these documents, as far as they are there."""
        return lambda session: self._apply({"_id": {"$in": list(keys)}}, session)

    def keys_of(self, where: Mapping[str, Any]) -> list[Any]:
        """Return the keys in a range."""
        return [row["_id"] for row in self._work.db[self._name].find(where, {"_id": 1}, session=self._work.session)]

    def in_the_way(self, error: PyMongoError) -> list[Any]:
        """Nothing: documents of one collection are never in each other's way for long."""
        del error
        return []

    def _apply(self, where: Mapping[str, Any], session: ClientSession) -> Counts:
        collection = self._work.db[self._name]
        self._work.own.note(session)
        if not callable(self._transform):
            done = collection.update_many(where, stages(self._transform), session=session)
            return Counts(matched=done.matched_count, modified=done.modified_count)
        before = {key_bytes(one["_id"]): one for one in collection.with_options(RAW).find(where, session=session)}
        writes: list[Any] = []
        for key, after in Shape(self._transform).pairs(self._work.db, self._name, where, session):
            if before[key_bytes(key)].raw != after:
                writes.append(ReplaceOne({"_id": key}, RawBSONDocument(after, RAW)))
        if writes:
            collection.bulk_write(writes, ordered=False, session=session)
        return Counts(matched=len(before), modified=len(writes))


class Ghost:
    """Fills ``target`` with the transformed documents of ``source``; the other way round after the swap.

    The documents are read before the transaction, in the work's causal session: a later change has a later event, which comes later.
    """

    def __init__(
        self, work: Work, source: str, target: str, transform: Transform | None, *, reverse: bool = False
    ) -> None:
        self._work, self._source, self._target = work, source, target
        self._shape = Shape(transform)
        self._ids = names.ids(work.spec.collection) if work.spec.changes_id else None
        self._from, self._to = ("to", "_id") if reverse else ("_id", "to")
        self._made: Sequence[bytes] | None = None

    def fill(self, where: Mapping[str, Any]) -> Apply:
        """Insert the documents of a range. One that is there already fails as a duplicate; then ``sync`` takes the range."""
        if self._ids is not None:
            return self._insert(list(self._shape.pairs(self._work.db, self._source, where, self._work.session)))
        made = list(self._shape.read(self._work.db, self._source, where, self._work.session))
        return lambda session: self._put(made, session)

    def sync(self, keys: Sequence[Any]) -> Apply:
        """Remove what these keys have in the target and insert what the source has for them now."""
        where = {"_id": {"$in": list(keys)}}
        if self._ids is not None:
            insert = self._insert(list(self._shape.pairs(self._work.db, self._source, where, self._work.session)))
            return lambda session: self._forget(keys, session) + insert(session)
        made = list(self._shape.read(self._work.db, self._source, where, self._work.session))

        def apply(session: ClientSession) -> Counts:
            gone = self._work.db[self._target].delete_many(where, session=session)
            return Counts(deleted=gone.deleted_count) + self._put(made, session)

        return apply

    def keys_of(self, where: Mapping[str, Any]) -> list[Any]:
        """Return the source's keys in a range."""
        return [row["_id"] for row in self._work.db[self._source].find(where, {"_id": 1}, session=self._work.session)]

    def in_the_way(self, error: PyMongoError) -> list[Any]:
        """Return the source keys of the target's documents that hold a unique value which one of ours was to get."""
        pattern = duplicate(error)
        if pattern is None or self._made is None:
            return []
        target = self._work.db[self._target]
        index = next((one for one in target.list_indexes() if dict(one["key"]) == pattern), {})
        documents: list[Document] = [bson.decode(one, CODEC) for one in self._made]
        wanted = [among for one in documents if (among := _values(one, list(pattern)))]
        held: dict[bytes, Any] = {}
        for start in range(0, len(wanted), AT_ONCE):
            found = target.find({"$or": wanted[start : start + AT_ONCE]}, {"_id": 1}, collation=_collation(index))
            held |= {key_bytes(row["_id"]): row["_id"] for row in found}
        if self._ids is None:
            return list(held.values())
        entries = self._work.db[self._ids].find({self._to: {"$in": list(held.values())}})
        return [row[self._from] for row in entries]

    def _put(self, made: Sequence[bytes], session: ClientSession) -> Counts:
        self._made = made
        if made:
            collection = self._work.db[self._target]
            collection.insert_many([RawBSONDocument(one, RAW) for one in made], ordered=True, session=session)
        return Counts(inserted=len(made))

    def _insert(self, pairs: Sequence[tuple[Any, bytes]]) -> Apply:
        def apply(session: ClientSession) -> Counts:
            rows = [{self._from: key, self._to: bson.decode(made, CODEC)["_id"]} for key, made in pairs]
            done = self._put([made for _, made in pairs], session)
            if rows and self._ids is not None:
                self._work.db[self._ids].insert_many(rows, session=session)
            return done

        return apply

    def _forget(self, keys: Sequence[Any], session: ClientSession) -> Counts:
        """Remove the target's documents of these source keys, and their entries in the map of keys."""
        if self._ids is None:
            return Counts()
        entries = self._work.db[self._ids]
        known = list(entries.find({self._from: {"$in": list(keys)}}, session=session))
        there = {"_id": {"$in": [row[self._to] for row in known]}}
        gone = self._work.db[self._target].delete_many(there, session=session)
        entries.delete_many({"_id": {"$in": [row["_id"] for row in known]}}, session=session)
        return Counts(deleted=gone.deleted_count)


def duplicate(error: PyMongoError) -> dict[str, Any] | None:
    """Return the key of the unique index that refused a write; None when the error is another one."""
    if isinstance(error, DuplicateKeyError):
        details: Mapping[str, Any] = error.details or {}
    elif isinstance(error, BulkWriteError):
        failures = (error.details or {}).get("writeErrors", [])
        details = failures[0] if failures else {}
    else:
        return None
    return dict(details.get("keyPattern", {"_id": 1})) if details.get("code") == DUPLICATE_KEY else None


def _values(document: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Return a filter for documents that have the same values there; {} when this one has none and is in nobody's way."""
    found = {field: list(_leaves(document, field.split("."))) for field in fields}
    if not any(found.values()):
        return {}
    return {field: {"$in": values} if values else None for field, values in found.items()}


def _leaves(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield what an index finds at a path: arrays are looked into."""
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _leaves(value[path[0]], path[1:])


def _collation(index: Mapping[str, Any]) -> Collation | None:
    found = index.get("collation")
    return Collation(**{name: value for name, value in found.items() if name != "version"}) if found else None


def forward(work: Work) -> Writer:
    """Return the writer of the migration's own direction."""
    spec = work.spec
    if not spec.ghost:
        return InPlace(work)
    return Ghost(work, work.place("source"), work.place("target"), spec.transform)


def reverse(work: Work) -> Writer:
    """Return the writer of the reverse sync: from the new collection, which has the name now, into the old one."""
    return Ghost(work, work.place("target"), work.place("source"), work.spec.inverse, reverse=True)
