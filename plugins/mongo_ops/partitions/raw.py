"""Documents as the server's own bytes: found inside a transaction, and compared byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
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


def documents(some: list[bytes]) -> list[RawBSONDocument]:
    """Return bytes as documents."""
    return [RawBSONDocument(one, RAW) for one in some]


def key_of(document: RawBSONDocument) -> bytes:
    """Return a document's ``_id`` as bytes that tell it from any other, type included."""
    return bson.encode({"_id": document["_id"]}, codec_options=CODEC)
