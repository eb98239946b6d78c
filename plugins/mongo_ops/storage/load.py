"""Write batches of a snapshot's documents, each decided by its ``_id`` alone, so that doing it twice changes nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC, digest
from mongo_ops.storage import bsonfile

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from mongo_ops.mongo.lease import Lease

Mode = Literal["insert", "replace", "merge_fields"]
RAW = CODEC.with_options(document_class=RawBSONDocument)
DUPLICATE_KEY = 11000


class RestoreConflictError(PlanError):
    """Documents of the same ``_id``, or of the same unique key, are in the way."""


class RestoreRefusedError(PlanError):
    """This snapshot cannot be restored in this way, or not into this collection."""


@dataclass(frozen=True)
class Restored:
    """What was done: documents inserted, replaced or merged, found as they should be, and missing (``merge_fields``)."""

    collection: str
    created: bool = False
    inserted: int = 0
    replaced: int = 0
    unchanged: int = 0
    missing: int = 0

    def __add__(self, other: Restored) -> Restored:
        return Restored(
            self.collection,
            self.created or other.created,
            self.inserted + other.inserted,
            self.replaced + other.replaced,
            self.unchanged + other.unchanged,
            self.missing + other.missing,
        )


@dataclass(frozen=True)
class Compared:
    """A batch beside what the collection holds of it."""

    absent: list[bytes]
    different: list[bytes]
    equal: int


def compare(raw: Collection[Any], batch: Sequence[bytes], session: ClientSession | None) -> Compared:
    """Look up the batch's documents by ``_id``. Equal means the same fields and values, in any order."""
    ids = [_id(document) for document in batch]
    found = {_key(one["_id"]): one.raw for one in raw.find({"_id": {"$in": ids}}, session=session)}
    absent: list[bytes] = []
    different: list[bytes] = []
    for key, document in zip(map(_key, ids), batch, strict=True):
        if key not in found:
            absent.append(document)
        elif found[key] != document and _digest(found[key]) != _digest(document):
            different.append(document)
    return Compared(absent, different, len(batch) - len(absent) - len(different))


@dataclass(frozen=True)
class Loader:
    """Writes batches into ``raw`` (a collection that decodes to raw BSON).

    ``paths`` are the fields of ``merge_fields``; None for whole documents. ``by_id`` is False for time-series collections,
    whose ``_id`` is not unique and not indexed. ``transactional`` is False for those and for capped collections, where the
    lease can only be checked before each batch.
    """

    raw: Collection[Any]
    paths: tuple[str, ...] | None
    overwrite: bool
    by_id: bool
    transactional: bool
    lease: Lease | None

    def write(self, batch: Sequence[bytes]) -> Restored:
        """Write one batch; once more when somebody inserted one of its documents between the look and the write.

        Raises:
            RestoreConflictError, RestoreRefusedError: see ``restore``.
            LeaseLostError: another run took over; the batch was not written.
        """
        for last in (False, True):
            try:
                if self.lease is not None and self.transactional:
                    return self.lease.transaction(lambda session: self._put(batch, session))
                if self.lease is not None:
                    self.lease.check()
                return self._put(batch, None)
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if last or not faults or any(fault["code"] != DUPLICATE_KEY for fault in faults):
                    raise _refused(self.raw.name, faults) from None
        raise AssertionError("unreachable")

    def _put(self, batch: Sequence[bytes], session: ClientSession | None) -> Restored:
        if self.paths is not None:
            return self._merge(batch, self.paths, session)
        seen = compare(self.raw, batch, session) if self.by_id else Compared(list(batch), [], 0)
        if seen.different and not self.overwrite:
            raise conflict(
                self.raw.name, f"{len(seen.different):,} documents were inserted by others during the restore."
            )
        changes: list[Any] = [InsertOne(RawBSONDocument(document, RAW)) for document in seen.absent]
        changes += [ReplaceOne({"_id": _id(document)}, RawBSONDocument(document, RAW)) for document in seen.different]
        if changes:
            self.raw.bulk_write(changes, ordered=True, bypass_document_validation=True, session=session)
        return Restored(self.raw.name, inserted=len(seen.absent), replaced=len(seen.different), unchanged=seen.equal)

    def _merge(self, batch: Sequence[bytes], paths: tuple[str, ...], session: ClientSession | None) -> Restored:
        updates = []
        for document in map(bsonfile.decoded, batch):
            there = {path: value for path in paths for found, value in [_value(document, path)] if found}
            gone = dict.fromkeys((path for path in paths if path not in there), "")
            change = ({"$set": there} if there else {}) | ({"$unset": gone} if gone else {})
            updates.append(UpdateOne({"_id": document["_id"]}, change))
        result = self.raw.bulk_write(updates, ordered=False, bypass_document_validation=True, session=session)
        matched, modified = result.matched_count, result.modified_count
        return Restored(self.raw.name, replaced=modified, unchanged=matched - modified, missing=len(batch) - matched)


def _value(document: Mapping[str, Any], path: str) -> tuple[bool, Any]:
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return False, None
        value = value[name]
    return True, value


def conflict(target: str, what: str) -> RestoreConflictError:
    """Return the error for documents in the way, with what to do."""
    return RestoreConflictError(
        f"{target}: {what} Look at them, then remove them, restore into another collection, or restore with mode `replace`."
    )


def _refused(target: str, faults: Sequence[Mapping[str, Any]]) -> PlanError:
    """Say what the server refused, without the values it names."""
    if faults and all(fault["code"] == DUPLICATE_KEY for fault in faults):
        keys = "; ".join(sorted({", ".join(fault.get("keyPattern", {})) for fault in faults}))
        what = f"other documents have the unique key ({keys}) of documents of the snapshot."
        return conflict(target, f"{what} Earlier batches are restored, and a further run goes on from there.")
    codes = ", ".join(sorted({str(fault["code"]) for fault in faults})) or "write concern"
    return RestoreRefusedError(f"{target}: the server refused documents of the snapshot (code {codes}); see its log.")


def _id(document: bytes) -> Any:
    return bsonfile.decoded(document)["_id"]


def _key(value: Any) -> bytes:
    return bson.encode({"": value}, codec_options=CODEC)


def _digest(document: bytes) -> str:
    return digest(bsonfile.decoded(document))
