"""Will documents under a TTL index ever expire? Only dates do; an index with NaN seconds never removes anything, and says so nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mongo_ops.health.model import EVIDENCE, Check, Finding, Limits, Status, shown_ids
from mongo_ops.health.sight import Sight, together
from mongo_ops.health.snapshot import IndexFacts

NEVER = 2_147_483_647
"""What the server makes of NaN seconds."""


@dataclass(frozen=True)
class Expiring:
    """A TTL index with what is under it: documents that never expire, and that should have expired."""

    index: IndexFacts
    never: Mapping[str, Any]
    late: Mapping[str, Any]


def never_expires(spec: Mapping[str, Any]) -> bool:
    """Say whether the seconds make the index useless."""
    seconds = spec["expireAfterSeconds"]
    return bool(seconds != seconds or seconds >= NEVER)  # noqa: PLR0124 - NaN is unequal to itself


def without_date(spec: Mapping[str, Any], validator: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the filter of what never expires; where the validator allows null or absence, that is how something is kept."""
    field = next(iter(spec["key"]))
    schema = (validator or {}).get("$jsonSchema", {})
    declared = schema.get("properties", {}).get(field, {})
    types = declared.get("bsonType", [])
    fine: list[Mapping[str, Any]] = [{field: {"$type": "date"}}]
    if "null" in ([types] if isinstance(types, str) else types):
        fine.append({field: {"$type": "null"}})
    if declared and field not in schema.get("required", ()):
        fine.append({field: {"$exists": False}})
    return {"$nor": fine}


def read(sight: Sight) -> Sequence[Expiring]:
    """Count both in every collection with a TTL index, of at most ``largest`` documents."""
    sizes, most, now = sight.snapshot.need("sizes"), sight.limits.option("largest"), sight.snapshot.taken_at
    validators = {one["name"]: one["md"]["options"].get("validator") for one in sight.snapshot.collections}
    indexes = [
        one for one in sight.snapshot.indexes if one.is_ttl and sizes.get(one.collection, {"count": 0})["count"] <= most
    ]
    queries: list[tuple[str, Mapping[str, Any]]] = []
    for index in indexes:
        field, within = next(iter(index.spec["key"])), index.spec.get("partialFilterExpression", {})
        never = without_date(index.spec, validators.get(index.collection))
        late: Mapping[str, Any] = {"_id": {"$exists": False}}
        if not never_expires(index.spec):
            grace = index.spec["expireAfterSeconds"] + sight.limits.option("grace_seconds")
            late = {field: {"$lt": now - timedelta(seconds=grace)}}
        queries += [(index.collection, {"$and": [within, never]}), (index.collection, {"$and": [within, late]})]
    counted = _count(sight, queries)
    return [Expiring(index, *counted[2 * place : 2 * place + 2]) for place, index in enumerate(indexes)]


def _count(sight: Sight, queries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Return how many documents each query finds, with the first keys."""
    found: list[Mapping[str, Any]] = [{"n": 0, "ids": []} for _ in queries]
    ids = {"$firstN": {"input": "$_id", "n": EVIDENCE}}
    pipelines: list[tuple[str, list[Mapping[str, Any]]]] = [
        (name, [{"$match": query}, {"$group": {"_id": {"$literal": place}, "n": {"$sum": 1}, "ids": ids}}])
        for place, (name, query) in enumerate(queries)
    ]
    for _, one in together(sight.db, pipelines):
        found[one["_id"]] = one
    return found


def verdict(facts: Sequence[Expiring], limits: Limits) -> Iterator[Finding]:
    """CRIT for a useless index; documents are graded by their number."""
    for one in facts:
        where, field = f"{one.index.name} of {one.index.collection}", next(iter(one.index.spec["key"]))
        if never_expires(one.index.spec):
            yield Finding(
                Status.CRIT,
                f"{where} never removes anything: its expireAfterSeconds is NaN or endless.",
                f"{one.index.scope} seconds",
            )
        if one.never["n"]:
            sentence = f"{one.never['n']:,} documents under {where} never expire: {field} is no date."
            yield Finding(
                limits.grade(one.never["n"]),
                sentence,
                f"{one.index.scope} types",
                one.never["n"],
                "documents",
                shown_ids(one.never["ids"]),
            )
        if one.late["n"]:
            sentence = f"{one.late['n']:,} documents under {where} should have expired and are still there."
            yield Finding(
                limits.grade(one.late["n"]),
                sentence,
                f"{one.index.scope} late",
                one.late["n"],
                "documents",
                shown_ids(one.late["ids"]),
            )


CHECK = Check(
    "ttl_values", "TTL indexes that remove nothing", "indexes",
    "Convert the field to dates in a migration (ConvertField); give the index finite seconds (collMod).",
    Limits(1, options={"largest": 5_000_000, "grace_seconds": 3600}), verdict, read,
)  # fmt: skip
