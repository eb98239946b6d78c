"""Cut a collection into ranges of ``_id``, whatever types the keys have.

Ordinary comparison operators see only values of one BSON type ("type bracketing"), so a range whose ends differ in type is
named by its keys instead. Index bounds (``min``/``max`` with a hint) do cross types and find the cuts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.collection import Collection

    from mongo_ops.mongo.documents import Document

BY_ID = [("_id", 1)]
_BRACKETS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("bool", (bool,)),
    ("number", (int, float, Int64, Decimal128)),
    ("string", (str,)),
    ("object", (dict,)),
    ("binary", (bytes, Binary, UUID)),
    ("objectId", (ObjectId,)),
    ("date", (datetime, DatetimeMS)),
    ("timestamp", (Timestamp,)),
)


@dataclass(frozen=True, slots=True)
class End:
    """Where a walk ends: at ``key``, which belongs to it when ``inclusive``."""

    key: Any
    inclusive: bool = True


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from ``start`` (inclusive) up to ``stop`` (exclusive), or up to the walk's end when ``stop`` is None.

    ``filter`` selects exactly those documents, in a query or an update.
    """

    start: Any
    stop: Any | None
    filter: Mapping[str, Any]


def bracket(key: Any) -> str | None:
    """Return the comparison bracket of a key, or None when operators cannot range over it (null, NaN, MinKey, ...)."""
    if isinstance(key, MinKey | MaxKey) or key is None:
        return None
    if isinstance(key, float) and math.isnan(key):
        return None
    if isinstance(key, Decimal128) and key.to_decimal().is_nan():
        return None
    return next((name for name, types in _BRACKETS if isinstance(key, types)), None)


def bounds(collection: Collection[Document]) -> tuple[Any, Any] | None:
    """Return the smallest and the largest ``_id`` as a pair, or None for an empty collection."""
    ends = [list(collection.find({}, {"_id": 1}).sort("_id", way).limit(1)) for way in (1, -1)]
    if not ends[0] or not ends[1]:
        return None
    return ends[0][0]["_id"], ends[1][0]["_id"]


def next_range(collection: Collection[Document], start: Any, end: End, size: int) -> KeyRange:
    """Return the range of at most ``size`` keys that begins at ``start`` and never passes ``end``."""
    stop = None
    if not _same(start, end.key):
        cut = collection.find({}, {"_id": 1}).hint(BY_ID).min([("_id", start)]).max([("_id", end.key)]).skip(size).limit(1)
        stop = next((row["_id"] for row in cut), None)
    last = end if stop is None else End(stop, inclusive=False)
    if bracket(start) is not None and bracket(start) == bracket(last.key):
        return KeyRange(start, stop, {"_id": {"$gte": start, ("$lte" if last.inclusive else "$lt"): last.key}})
    return KeyRange(start, stop, {"_id": {"$in": _keys(collection, start, last)}})


def _keys(collection: Collection[Document], start: Any, last: End) -> list[Any]:
    """List the keys of one mixed range: at most a batch of them."""
    keys: list[Any] = []
    if not _same(start, last.key):
        found = collection.find({}, {"_id": 1}).hint(BY_ID).min([("_id", start)]).max([("_id", last.key)])
        keys = [row["_id"] for row in found]
    return [*keys, last.key] if last.inclusive else keys


def _same(one: Any, other: Any) -> bool:
    return bracket(one) == bracket(other) and (one is other or bool(one == other))
