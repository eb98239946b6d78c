"""Is an index covered by another one? Only when every query that it serves is served by the other: options decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import IndexFacts, Snapshot

PLAIN = frozenset({1, -1})
SAME = ("collation", "partialFilterExpression", "sparse", "hidden")
OWN_PURPOSE = ("unique", "expireAfterSeconds", "prepareUnique", "partialFilterExpression", "sparse")


def covered_by(one: IndexFacts, other: IndexFacts) -> bool:
    """Say whether ``other`` serves everything that ``one`` does.

    That is so when ``one``'s key is the beginning of ``other``'s, field by field, in the same or in exactly the opposite directions,
    and nothing else tells them apart: a unique, TTL, sparse or partial index has a purpose of its own, another collation another order.
    Beside a longer one with the same collation an index with a collation is as superfluous as any: the server plans its queries alike.
    """
    key, longer = one.key, other.key[: len(one.key)]
    if one.name in ("_id_", other.name) or not one.ready or not other.ready:
        return False
    if any(one.spec.get(name) is not None and one.spec.get(name) is not False for name in OWN_PURPOSE):
        return False
    if any((one.spec.get(name) or None) != (other.spec.get(name) or None) for name in SAME):
        return False
    if not all(_plain(*part) for part in (*key, *other.key)) or len(longer) < len(key):
        return False
    opposite = tuple((field, -way) for field, way in longer)
    return key in (longer, opposite)


def _plain(field: str, way: Any) -> bool:
    """Say whether a part of a key is an ordinary one: neither text, hashed, 2dsphere nor a wildcard, whose projection is its own."""
    return not isinstance(way, str) and way in PLAIN and "$**" not in field


def redundant(indexes: Sequence[IndexFacts]) -> Iterator[tuple[IndexFacts, IndexFacts]]:
    """Yield (index, the one that covers it); of two that cover each other only the later name."""
    beside: dict[str, list[IndexFacts]] = {}
    for index in indexes:
        beside.setdefault(index.collection, []).append(index)
    for one in indexes:
        for other in beside[one.collection]:
            if covered_by(one, other) and (not covered_by(other, one) or one.name > other.name):
                yield one, other
                break


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """WARN for each index that could go; the server's and this package's own collections are left out."""
    del limits
    for one, other in redundant([index for index in facts.indexes if not index.collection.startswith("ops_")]):
        sentence = (
            f"{one.name} of {one.collection} is covered by {other.name}: it costs every write and serves nothing more."
        )
        yield Finding(Status.WARN, sentence, one.scope)


CHECK = Check(
    "redundant_indexes", "Redundant indexes", "indexes",
    "Hide it (collMod hidden) for a week, watch, then drop it in a migration.", Limits(), verdict,
)  # fmt: skip
