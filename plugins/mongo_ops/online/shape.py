"""Turn documents of one shape into the other while reading them: by pipeline on the server, or by a pure function here.

Yields raw BSON with ``_id`` in front, byte for byte what an insert of it would store. Never writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import bson
from bson.raw_bson import RawBSONDocument

from mongo_ops.migrations.faults import explain
from mongo_ops.mongo.documents import CODEC
from mongo_ops.online.errors import SpecError

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.model import Transform

RAW = CODEC.with_options(document_class=RawBSONDocument)
ID_FIRST = b"_id\0"
LENGTH = 4
FIXED = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
LATE = "ops_new"


def split(batch: Any) -> Iterator[bytes]:
    """Yield the documents of a raw batch, which is bytes although the driver's annotations say otherwise."""
    position, end = 0, len(batch)
    while position < end:
        size = int.from_bytes(batch[position : position + LENGTH], "little")
        yield batch[position : position + size]
        position += size


def id_bytes(document: bytes) -> bytes:
    """Return type and value of a document's ``_id``, which stands first, as bytes."""
    kind, start = document[4], 9
    size = FIXED.get(kind)
    if size is None:
        number = int.from_bytes(document[start : start + LENGTH], "little")
        if kind == 0x02:  # noqa: PLR2004 - a string: its length counts the final zero
            size = LENGTH + number
        elif kind == 0x05:  # noqa: PLR2004 - binary: a subtype byte more
            size = LENGTH + 1 + number
        elif kind in (0x03, 0x04):
            size = number
        else:
            return bson.encode({"": bson.decode(document, CODEC)["_id"]}, codec_options=CODEC)
    return document[4:5] + document[start : start + size]


def as_inserted(document: bytes) -> bytes:
    """Return the document as the server would store it: with ``_id`` in front.

    Raises:
        SpecError: it has none.
    """
    if document[5:9] == ID_FIRST:
        return document
    fields = bson.decode(document, CODEC)
    if "_id" not in fields:
        raise SpecError("The transform removes _id; every document needs one.")
    return bson.encode({"_id": fields.pop("_id"), **fields}, codec_options=CODEC)


def is_pipeline(transform: Transform | None) -> bool:
    """Whether the server can carry it out."""
    return transform is not None and not callable(transform)


def stages(transform: Transform | None) -> list[Document]:
    """Return a pipeline's stages; none for a function."""
    return [] if transform is None or callable(transform) else [dict(stage) for stage in transform]


class Shape:
    """A transform over the documents of one collection."""

    def __init__(self, transform: Transform | None) -> None:
        self._transform = transform
        self._stages = stages(transform)

    def read(
        self, db: Database[Document], name: str, where: Mapping[str, Any], session: ClientSession | None
    ) -> Iterator[bytes]:
        """Yield the new form of each document that matches."""
        collection = db.get_collection(name, codec_options=CODEC)
        if callable(self._transform):
            for batch in collection.find_raw_batches(where, session=session):
                for document in split(batch):
                    yield self._call(document)
            return
        for batch in collection.aggregate_raw_batches([{"$match": dict(where)}, *self._stages], session=session):
            for document in split(batch):
                yield as_inserted(document)

    def pairs(
        self, db: Database[Document], name: str, where: Mapping[str, Any], session: ClientSession | None
    ) -> Iterator[tuple[Any, bytes]]:
        """Yield the old ``_id`` with the new form of each document that matches."""
        if callable(self._transform):
            for batch in db.get_collection(name, codec_options=CODEC).find_raw_batches(where, session=session):
                for document in split(batch):
                    yield bson.decode(document, CODEC)["_id"], self._call(document)
            return
        itself = {"$expr": {"$eq": ["$_id", "$$id"]}}
        again = {"from": name, "let": {"id": "$_id"}, "pipeline": [{"$match": itself}, *self._stages], "as": LATE}
        lookup: Sequence[Document] = [{"$match": dict(where)}, {"$lookup": again}, {"$project": {LATE: 1}}]
        found: Collection[Any] = db.get_collection(name, codec_options=RAW)
        for row in found.aggregate(lookup, session=session):
            for document in row[LATE]:
                yield bson.decode(row.raw, CODEC)["_id"], as_inserted(document.raw)

    def _call(self, document: bytes) -> bytes:
        if not callable(self._transform):
            return as_inserted(document)
        try:
            made = self._transform(bson.decode(document, CODEC))
        except Exception as error:  # noqa: BLE001 - somebody's function; its text may hold values
            raise explain(error, "The transform") from None
        if not isinstance(made, dict):
            raise SpecError("The transform must return a document.")
        return as_inserted(bson.encode(made, codec_options=CODEC))
