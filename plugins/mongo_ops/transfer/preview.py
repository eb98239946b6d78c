"""Look into a sample of an import's files before anything is written. Shows names of fields and counts, never values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson

from mongo_ops import storage
from mongo_ops.mongo.documents import CODEC
from mongo_ops.storage import Folder
from mongo_ops.transfer import place, writes
from mongo_ops.transfer.compression import Reader
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.formats.base import Chunk
from mongo_ops.transfer.import_model import ImportPart, ImportPlan, ImportTarget

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

FILES, ROWS, FIELDS = 3, 200, 100
"""Sampled: files per collection, rows per file, and fields that are shown."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a sample of one collection's rows shows.

    ``fields`` maps outermost fields to their BSON types, ``present`` counts rows whose key is in the collection already,
    ``invalid`` those that the collection's validator refuses, ``rejected`` those that are no documents.
    """

    collection: str
    rows: int
    fields: dict[str, tuple[str, ...]]
    present: int
    invalid: int
    rejected: int


Preview = tuple[Seen, ...]


def look(target: Target, folder: Folder, plan: ImportPlan) -> Preview:
    """Return what a sample of each collection's files shows."""
    return tuple(_look(target, folder, plan, loading) for loading in plan.targets if loading.kind != "view")


def _look(target: Target, folder: Folder, plan: ImportPlan, loading: ImportTarget) -> Seen:
    documents: list[bytes] = []
    rejected = 0
    for part in [part for part in plan.parts if part.collection == loading.name][:FILES]:
        chunk = _first(folder, part)
        documents += chunk.documents[:ROWS]
        rejected += len(chunk.rejects)
    types: dict[str, Counter[str]] = {}
    for document in documents:
        for name, value in bson.decode(document, CODEC).items():
            types.setdefault(name, Counter())[type(value).__name__] += 1
    return Seen(
        collection=loading.name,
        rows=len(documents),
        fields={name: tuple(sorted(found)) for name, found in list(types.items())[:FIELDS]},
        present=_present(target, plan, loading, documents) if loading.exists else 0,
        invalid=_invalid(target, loading, documents),
        rejected=rejected,
    )


def _first(folder: Folder, part: ImportPart) -> Chunk:
    """Return the first chunk of a file; an empty one of an empty file."""
    with storage.reading(place.below(folder, part.file)) as source:
        reader = Reader(source, part.compression, part.file, part.content_bytes)
        decoder = registry.decoder(part.format, part.columns, strict=part.sha256 is None)
        return next(decoder(reader, part.file), Chunk(0))


def _present(target: Target, plan: ImportPlan, loading: ImportTarget, documents: list[bytes]) -> int:
    """Count the rows whose key is there. Views of time series and capped collections have no key to look up quickly."""
    if loading.kind != "collection":
        return 0
    keys: list[dict[str, Any]] = []
    for document in documents:
        try:
            keys.append(writes.key(document, plan.request.keys))
        except writes.RefusedError:
            continue
    found = 0
    for start in range(0, len(keys), 100):
        found += target.db[loading.name].count_documents({"$or": keys[start : start + 100]})
    return found


def _invalid(target: Target, loading: ImportTarget, documents: list[bytes]) -> int:
    validator = loading.options.get("validator")
    if not validator or not documents:
        return 0
    rows = {"$documents": {"$literal": [bson.decode(document, CODEC) for document in documents[:ROWS]]}}
    counted = target.db.aggregate([rows, {"$match": {"$nor": [validator]}}, {"$count": "rows"}])
    return int(next(iter(counted), {"rows": 0})["rows"])
