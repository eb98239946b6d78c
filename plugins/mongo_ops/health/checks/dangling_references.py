"""Do references point to documents that are there? Of large collections a random sample is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mongo_ops.health.model import EVIDENCE, Check, Finding, Limits, NotApplicableError, shown_ids
from mongo_ops.health.sight import Sight, together


@dataclass(frozen=True)
class Dangling:
    """How many documents of ``place`` point nowhere in ``to``; ``sampled`` when not all were looked at."""

    place: str
    to: str
    documents: int
    ids: Sequence[Any]
    sampled: bool


def stages(path: str, to: str, sample: int | None, where: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the pipeline that counts. ``path`` is ``field`` or ``array[].field``; null is no reference."""
    array, _, field = path.rpartition("[].")
    full = f"{array}.{field}" if array else field
    made: list[Mapping[str, Any]] = [{"$sample": {"size": sample}}] if sample else []
    made.append({"$match": {**where, full: {"$ne": None}}})
    made += [{"$project": {full: 1}}, *([{"$unwind": f"${array}"}] if array else []), {"$match": {full: {"$ne": None}}}]
    there = [{"$project": {"_id": 1}}, {"$limit": 1}]
    made += [
        {"$lookup": {"from": to, "localField": full, "foreignField": "_id", "as": "ops_there", "pipeline": there}},
        {"$match": {"ops_there": []}},
        {"$group": {"_id": None, "n": {"$sum": 1}, "ids": {"$firstN": {"input": "$_id", "n": EVIDENCE}}}},
    ]
    return made


def read(sight: Sight) -> Sequence[Dangling]:
    """Follow the references that health.yaml names."""
    sizes, found, most = sight.snapshot.need("sizes"), [], sight.limits.option("sample")
    for one in sight.limits.option("references"):
        collection, _, path = one["from"].partition(".")
        if collection not in sizes or one["to"] not in sizes:
            continue
        sampled = sizes[collection]["count"] > most
        pipeline = stages(path, one["to"], most if sampled else None, one.get("where", {}))
        rows = list(together(sight.db, [(collection, pipeline)]))
        count: Mapping[str, Any] = rows[0][1] if rows else {"n": 0, "ids": []}
        found.append(Dangling(one["from"], one["to"], count["n"], count["ids"], sampled))
    if not found:
        raise NotApplicableError("None of the collections that health.yaml names is here.")
    return found


def verdict(facts: Sequence[Dangling], limits: Limits) -> Iterator[Finding]:
    """Grade the number of references that point nowhere."""
    for one in facts:
        if one.documents:
            of = " of those sampled" if one.sampled else ""
            sentence = f"{one.documents:,} references{of} of {one.place} point to no document of {one.to}."
            yield Finding(
                limits.grade(one.documents), sentence, one.place, one.documents, "references", shown_ids(one.ids)
            )


CHECK = Check(
    "dangling_references", "References that point nowhere", "data",
    "Find what deletes the one without the other; mend the references in a migration.",
    Limits(1, options={"sample": 20_000, "references": [
        {"from": "tracks.artist_id", "to": "artists"},
        {"from": "playlists.owner_id", "to": "users"},
        {"from": "playlists.tracks[].track_id", "to": "tracks"},
        {"from": "analytics.track_id", "to": "tracks"},
        {"from": "geo_events.user_id", "to": "users"},
    ]}), verdict, read,
)  # fmt: skip
