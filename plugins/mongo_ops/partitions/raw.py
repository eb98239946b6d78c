"""Documents as the server's own bytes: found inside a transaction, and compared byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import bson
from bson.raw_bson import RawBSONDocument

from mongo_ops.mongo.documents import CODEC
from mongo_ops.storage.load import RAW

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document


def collection_of(db: Database[Document], name: str) -> Collection[RawBSONDocument]:
    """Return a collection whose documents stay bytes."""
    return cast("Collection[RawBSONDocument]", db.get_collection(name, codec_options=RAW))


def find(db: Database[Document], name: str, query: Mapping[str, Any], session: ClientSession) -> list[RawBSONDocument]:
    """Return the documents of a batch."""
    return list(collection_of(db, name).find(query, session=session))


def namesakes(
    db: Database[Document], name: str, some: Sequence[RawBSONDocument], session: ClientSession
) -> dict[bytes, RawBSONDocument]:
    """Return, by ``key_of`` each of some documents, the one of the same ``_id`` in a collection, where there is one.

    The server decides what is the same: to it 1 and 1.0 are, and in a collection with a collation ``a`` and ``A`` may be.
    """
    keys = {key_of(one): one["_id"] for one in some}
    found = {key_of(one): one for one in find(db, name, {"_id": {"$in": list(keys.values())}}, session)}
    there = {key: found[key] for key in keys if key in found}
    if len(there) < len(found):
        for key in keys.keys() - there.keys():
            for one in find(db, name, {"_id": {"$in": [keys[key]]}}, session):
                there[key] = one
    return there


def documents(some: list[bytes]) -> list[RawBSONDocument]:
    """Return bytes as documents."""
    return [RawBSONDocument(one, RAW) for one in some]


def key_of(document: RawBSONDocument) -> bytes:
    """Return a document's ``_id`` as bytes that tell it from any other, type included."""
    return bson.encode({"_id": document["_id"]}, codec_options=CODEC)
