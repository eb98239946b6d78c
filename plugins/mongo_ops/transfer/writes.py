"""The commands that write a chunk, by mode. Field names of documents are data, whatever they look like. Pure.

A document goes into a command as its bytes. Where the server would read a name beginning with ``$`` or holding a dot as an
operator or a path, the document is wrapped in ``$literal``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from mongo_ops.mongo import faults
from mongo_ops.mongo.documents import CODEC
from mongo_ops.storage.load import RAW
from mongo_ops.transfer.import_model import ImportRequest, Tally
from mongo_ops.transfer.raw import elements, value


class RefusedError(Exception):
    """One document cannot be written: its place in the batch, and why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index)
        self.index, self.reason = index, reason


def command(name: str, request: ImportRequest, documents: Sequence[bytes]) -> dict[str, Any]:
    """Return the command that writes the documents in order, stopping at the first that is refused.

    Raises:
        RefusedError: a document has no value at a field of the key.
    """
    options = {"ordered": True, "bypassDocumentValidation": request.validation == "bypass"}
    if request.mode == "insert":
        return {"insert": name, **options, "documents": [RawBSONDocument(one, RAW) for one in documents]}
    updates = [_update(index, document, request) for index, document in enumerate(documents)]
    return {"update": name, **options, "updates": updates}


def tally(request: ImportRequest, sent: int, reply: Mapping[str, Any]) -> Tally:
    """Return what a reply says was done.

    Raises:
        RefusedError: a document was refused.
    """
    refused = reply.get("writeErrors") or ()
    if refused:
        raise RefusedError(int(refused[0]["index"]), faults.reason(refused[0]))
    count = int(reply["n"])
    if request.mode == "insert":
        return Tally(inserted=count)
    upserted = len(reply.get("upserted", ()))
    matched = count - upserted
    return Tally(inserted=upserted, matched=matched, modified=int(reply["nModified"]), missing=sent - count)


def key(document: bytes, fields: Sequence[str], index: int = 0) -> dict[str, Any]:
    """Return the query for a document's key. Values are compared as values: ``{"$eq": ...}``.

    Raises:
        RefusedError: it has none. Null is one in ``_id`` only: elsewhere it would mean every document without the field.
    """
    query: dict[str, Any] = {}
    for field in fields:
        found = _at(document, field)
        if found is None or (found[0] is None and field != "_id"):
            raise RefusedError(index, f"no value at the key {field}")
        query[field] = {"$eq": found[0]}
        if field != "_id":  # an array that holds the value is not the value
            query[field]["$not"] = {"$type": "array"}
    return query


def _update(index: int, document: bytes, request: ImportRequest) -> dict[str, Any]:
    change: Any = RawBSONDocument(document, RAW)
    if request.mode == "merge":
        change = [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"$literal": change}]}}]
    elif any(name.startswith(b"$") for _, name, _, _ in elements(document)):
        change = [{"$replaceWith": {"$literal": change}}]
    return {"q": key(document, request.keys, index), "u": change, "upsert": request.mode != "replace", "multi": False}


def _at(document: bytes, path: str) -> tuple[Any] | None:
    """Return (value,) at a dotted path, or None. Goes through embedded documents, not arrays."""
    name, _, rest = path.partition(".")
    found = value(document, name.encode())
    if found is None:
        return None
    kind, data = found
    if rest:
        return _at(data, rest) if kind == 3 else None  # noqa: PLR2004 - an embedded document
    body = bytes([kind]) + b"v\x00" + data + b"\x00"
    return (
        bson.decode((len(body) + 4).to_bytes(4, "little") + body, CODEC.with_options(document_class=RawBSONDocument))[
            "v"
        ],
    )
