"""A shard key: how it is written, which index supports it, and what speaks against it. Pure: facts in, sentences out.

Rules: https://www.mongodb.com/docs/manual/core/sharding-shard-key/ and /core/sharding-choose-a-shard-key/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mongo_ops.partitions.errors import RequestError
from mongo_ops.partitions.model import Picture, Zone
from mongo_ops.partitions.spread import KeySpread

HASHED = "hashed"
FEW, MUCH = 1000, 0.05
"""Our marks: fewer values than this, or one value with more than this share, are worth a sentence before anybody decides."""
GROWING = frozenset({"date", "objectId", "timestamp"})
"""Types whose new values are usually the largest."""
_FIELD = re.compile(r"\s*([^\s:$,][^\s:,]*)\s*(?::\s*(1|hashed)\s*)?")


@dataclass(frozen=True)
class ShardKey:
    """The fields of a shard key with 1 or ``hashed`` each, in their order."""

    fields: tuple[tuple[str, int | str], ...]

    @classmethod
    def parse(cls, text: str) -> ShardKey:
        """Read ``country, user_id:hashed``.

        Raises:
            RequestError: it is not of that form.
        """
        found = [_FIELD.fullmatch(part) for part in text.split(",")]
        if not all(found):
            raise RequestError(
                "A shard key is written like `country, user_id:hashed`: fields, each ascending or hashed."
            )
        fields = tuple((one[1], HASHED if one[2] == HASHED else 1) for one in found if one)
        names = [name for name, _ in fields]
        if len(set(names)) < len(names) or sum(1 for _, way in fields if way == HASHED) > 1:
            raise RequestError("A shard key names each field once, and at most one of them is hashed.")
        return cls(fields)

    @property
    def pattern(self) -> dict[str, int | str]:
        """The key as commands take it."""
        return dict(self.fields)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of its fields."""
        return tuple(name for name, _ in self.fields)

    @property
    def is_hashed(self) -> bool:
        """Whether one of its fields is hashed."""
        return any(way == HASHED for _, way in self.fields)

    def is_(self, pattern: Mapping[str, Any] | None) -> bool:
        """Whether a collection that is sharded by ``pattern`` is sharded by this key."""
        return pattern is not None and _same(list(pattern.items()), list(self.fields))


def supports(index: Mapping[str, Any], key: ShardKey) -> bool:
    """Whether an index supports a shard key: it begins with it and knows every document, in the simple order of values."""
    hampered = index.get("sparse") or index.get("hidden") or "partialFilterExpression" in index
    collated = index.get("collation", {}).get("locale", "simple") != "simple"
    if hampered or collated:
        return False
    return _same(list(index["key"].items())[: len(key.fields)], list(key.fields))


def unique_against(indexes: Sequence[Mapping[str, Any]], key: ShardKey) -> tuple[str, ...]:
    """Return the unique indexes that a cluster could not enforce: those that do not begin with the shard key.

    The index on ``_id`` is not among them: a cluster enforces it on each shard only, which is another sentence.
    """
    others = (index for index in indexes if index.get("unique") and list(index["key"]) != ["_id"])
    return tuple(index["name"] for index in others if key.is_hashed or not supports({"key": index["key"]}, key))


def against(spread: KeySpread, key: ShardKey) -> Iterator[str]:
    """Yield what somebody should know before deciding for this key."""
    looked = "all" if spread.sampled == spread.count else "a sample of"
    if spread.sampled and spread.distinct < FEW:
        yield (
            f"Only {spread.distinct:,} different values in {looked} {spread.sampled:,} documents: there can never be more chunks than values."
        )
    if spread.top > MUCH:
        yield (
            f"One value has {100 * spread.top:.1f} % of the documents: they can never be split and stay on one shard. Add a field to the key."
        )
    first, way = key.fields[0]
    growing = sum(number for kind, number in spread.types.items() if kind in GROWING)
    if way != HASHED and growing > spread.sampled / 2:
        yield f"{first} grows with time: every insert goes to the last chunk, so to one shard. Put another field first, or hash it."
    if spread.missing:
        yield f"{spread.missing:,} of {spread.sampled:,} documents have no value at {first}: they all count as null, in one chunk."
    if "_id" not in key.paths:
        yield "_id is not part of the key: its uniqueness is enforced on each shard only."


def zone_faults(zones: Sequence[Zone], shards: Sequence[str], key: ShardKey) -> Iterator[str]:
    """Yield what is wrong with zones: unknown shards, bounds that are not of the key."""
    for zone in zones:
        unknown = sorted(set(zone.shards) - set(shards))
        if unknown:
            yield f"Zone {zone.name} names shards that the cluster has not: {', '.join(unknown)}."
        for bound in (zone.lower, zone.upper):
            if tuple(bound) != key.paths[: len(bound)] or not bound:
                yield f"The bounds of zone {zone.name} must name the fields of the key in their order: {', '.join(key.paths)}."
                break


def picture(spread: KeySpread, text: str) -> Picture:
    """Return the histogram of the most frequent values, by rank. The values themselves are not shown: they may be personal."""
    bars = [(f"{rank}. value", count) for rank, count in enumerate(spread.frequent, start=1)]
    rest = spread.sampled - sum(spread.frequent)
    if rest > 0:
        bars.append((f"other {spread.distinct - len(spread.frequent):,}", rest))
    return Picture(
        title=f"Documents by value of ({text}); {spread.distinct:,} values in {spread.sampled:,} documents",
        bars=tuple(bars),
    )


def _same(one: Sequence[tuple[str, Any]], other: Sequence[tuple[str, Any]]) -> bool:
    """Compare key patterns: 1, 1.0 and NumberLong(1) are the same way."""
    return len(one) == len(other) and all(a[0] == b[0] and a[1] == b[1] for a, b in zip(one, other, strict=True))
