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

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo.errors import OperationFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.collection import Collection

    from mongo_ops.mongo.documents import Document

BY_ID = [("_id", 1)]
NOT_BEFORE = frozenset(
    {51175, 6137401}
)  # min() is not below max(): what was in front of the end is deleted, or they are equal
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
    """Keys from ``start`` (inclusive) up to ``stop`` (exclusive), or up to the walk's end when it is ``final``.

    ``filter`` selects exactly those documents, in a query or an update. ``stop`` cannot tell the end: null is a key too.
    """

    start: Any
    stop: Any | None
    filter: Mapping[str, Any]
    final: bool


def bracket(key: Any) -> str | None:
    """Return the comparison bracket of a key, or None when operators cannot range over it (null, NaN, MinKey, ...)."""
    if isinstance(key, MinKey | MaxKey | Code) or key is None:  # Code is a str to Python, not to the server
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
    cut = _keys(collection, start, end.key, skip=size, limit=1)
    stop = cut[0] if cut else None
    last, final = (End(stop, inclusive=False), False) if cut else (end, True)
    if bracket(start) is not None and bracket(start) == bracket(last.key):
        return KeyRange(start, stop, {"_id": {"$gte": start, ("$lte" if last.inclusive else "$lt"): last.key}}, final)
    keys = _keys(collection, start, last.key)
    return KeyRange(start, stop, {"_id": {"$in": [*keys, last.key] if last.inclusive else keys}}, final)


def _keys(collection: Collection[Document], start: Any, end: Any, *, skip: int = 0, limit: int = 0) -> list[Any]:
    """List the keys from ``start`` up to ``end`` (exclusive) in index order; none when ``start`` is not before ``end``."""
    found = (
        collection.find({}, {"_id": 1}).hint(BY_ID).min([("_id", start)]).max([("_id", end)]).skip(skip).limit(limit)
    )
    try:
        return [row["_id"] for row in found]
    except OperationFailure as error:
        if error.code not in NOT_BEFORE:
            raise
        return []
