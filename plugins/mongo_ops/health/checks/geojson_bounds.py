"""Are positions on the earth? Longitude first, then latitude; swapped or in another projection they land nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import EVIDENCE, Check, Finding, Limits, NotApplicableError, shown_ids
from mongo_ops.health.sight import Sight, together


def outside(field: str) -> Mapping[str, Any]:
    """Return the filter of points outside of the earth's bounds, or without two numbers."""
    longitude, latitude = f"{field}.coordinates.0", f"{field}.coordinates.1"
    fine = {longitude: {"$gte": -180, "$lte": 180}, latitude: {"$gte": -90, "$lte": 90}}
    return {f"{field}.type": "Point", "$nor": [fine]}


def read(sight: Sight) -> Mapping[str, Any]:
    """Count them at the places that health.yaml names as ``collection.field``, in collections of at most ``largest`` documents."""
    sizes, most = sight.snapshot.need("sizes"), sight.limits.option("largest")
    places = [tuple(place.split(".", 1)) for place in sight.limits.option("places")]
    here = [(name, field) for name, field in places if sizes.get(name, {"count": most + 1})["count"] <= most]
    if not here:
        raise NotApplicableError("None of the places that health.yaml names is here, or they are too large.")
    group = {"$group": {"_id": None, "n": {"$sum": 1}, "ids": {"$firstN": {"input": "$_id", "n": EVIDENCE}}}}
    found: dict[str, Any] = {}
    for name, field in here:
        found |= {
            f"{name}.{field}": one for _, one in together(sight.db, [(name, [{"$match": outside(field)}, group])])
        }
    return found


def verdict(facts: Mapping[str, Any], limits: Limits) -> Iterator[Finding]:
    """Grade their number."""
    for place, one in facts.items():
        sentence = f"{one['n']:,} points at {place} are outside of longitude -180..180, latitude -90..90."
        yield Finding(limits.grade(one["n"]), sentence, place, one["n"], "documents", shown_ids(one["ids"]))


CHECK = Check(
    "geojson_bounds", "Positions outside of the earth", "data",
    "Look whether longitude and latitude are swapped; mend them in a migration.",
    Limits(1, options={"places": ["geo_events.location"], "largest": 2_000_000}), verdict, read,
)  # fmt: skip
