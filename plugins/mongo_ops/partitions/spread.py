"""How a key is spread: documents per month, or how often each value of a shard key comes. Reads only, in constant memory.

The server counts; what comes back are numbers and types. No value of a document leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mongo_ops.partitions.months import Month

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
SAMPLE = 100_000
RANKS = 10


@dataclass(frozen=True)
class Months:
    """Documents per month of a date field. ``undated`` have no single date there, or one outside of the years 1 to 9999."""

    counts: Mapping[Month, int] = field(default_factory=dict)
    undated: int = 0

    @property
    def total(self) -> int:
        """All documents."""
        return sum(self.counts.values()) + self.undated


@dataclass(frozen=True)
class KeySpread:
    """How often the values of a key come, in a sample or in all documents.

    Attributes:
        sampled: documents looked at; ``count`` are all of them.
        distinct: different values among those.
        frequent: how often the most frequent ones come, the most frequent first.
        missing: documents without a value at the key's first field.
        types: BSON types of the key's first field, and how often.
        arrays: documents with an array at one of the key's fields.
    """

    count: int
    sampled: int
    distinct: int
    frequent: tuple[int, ...]
    missing: int
    types: Mapping[str, int]
    arrays: int

    @property
    def top(self) -> float:
        """The share of the most frequent value."""
        return self.frequent[0] / self.sampled if self.frequent and self.sampled else 0.0


def months(db: Database[Document], collection: str, key: str) -> Months:
    """Count a collection's documents by the month of a date field. Reads every document, or an index that begins with it."""
    value = f"${key}"
    dated = {"$and": [{"$eq": [{"$type": value}, "date"]}, {"$gte": [value, FIRST]}, {"$lte": [value, LAST]}]}
    label = {"$cond": [dated, {"$dateToString": {"format": "%Y_%m", "date": value}}, None]}
    rows = db[collection].aggregate([{"$group": {"_id": label, "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}])
    counts: dict[Month, int] = {}
    undated = 0
    for row in rows:
        month = Month.parse(row["_id"]) if row["_id"] is not None else None
        if month is None:
            undated += row["n"]
        else:
            counts[month] = row["n"]
    return Months(counts, undated)


def of_key(db: Database[Document], collection: str, paths: tuple[str, ...]) -> KeySpread:
    """Count how often the values of a key come, in a sample of ``SAMPLE`` documents where there are more."""
    count = db[collection].estimated_document_count()
    chosen: list[Mapping[str, Any]] = [{"$sample": {"size": SAMPLE}}] if count > SAMPLE else []
    first = f"${paths[0]}"
    arrays = {"$or": [{"$isArray": f"${path}"} for path in paths]}
    shown: Document = {"key": [{"$ifNull": [f"${path}", None]} for path in paths], "type": {"$type": first}}
    facets = {
        "frequent": [{"$group": {"_id": "$key", "n": {"$sum": 1}}}, {"$sort": {"n": -1}}, {"$limit": RANKS},
                     {"$project": {"_id": 0, "n": 1}}],
        "distinct": [{"$group": {"_id": "$key"}}, {"$count": "n"}],
        "types": [{"$group": {"_id": "$type", "n": {"$sum": 1}}}],
        "arrays": [{"$match": {"array": True}}, {"$count": "n"}],
        "sampled": [{"$count": "n"}],
    }  # fmt: skip
    stages = [*chosen, {"$project": {"_id": 0, **shown, "array": arrays}}, {"$facet": facets}]
    row = next(iter(db[collection].aggregate(stages, allowDiskUse=True)))
    types = {one["_id"]: one["n"] for one in row["types"]}
    return KeySpread(
        count=count,
        sampled=_number(row["sampled"]),
        distinct=_number(row["distinct"]),
        frequent=tuple(one["n"] for one in row["frequent"]),
        missing=sum(types.get(name, 0) for name in ("missing", "null", "undefined")),
        types={name: n for name, n in sorted(types.items()) if name not in ("missing", "null", "undefined")},
        arrays=_number(row["arrays"]),
    )


def _number(found: list[Document]) -> int:
    return int(found[0]["n"]) if found else 0
