"""Does a collection's file hold much free space? That is what ``freeStorageSize`` says; comparing sizes says only how well data compresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.sight import Sight, together

MEGABYTE = 1024 * 1024
STEP = 10
"""Collections of one command: the server gathers statistics of each index too, milliseconds for each collection."""

FIELDS = ("storageSize", "freeStorageSize")


def read(sight: Sight) -> Mapping[str, Mapping[str, int]]:
    """Ask collection after collection, the largest first, until what is free in the rest is too little for a finding."""
    sizes, free = sight.snapshot.need("sizes"), int(sight.snapshot.need("disk").get("freeStorageSize", 0))
    least = sight.limits.option("megabytes") * MEGABYTE * (sight.limits.warn or 0)
    project = {"$project": {name: f"$storageStats.{name}" for name in FIELDS}}
    stages: list[Mapping[str, Any]] = [{"$collStats": {"storageStats": {}}}, project]
    names = sorted(sizes, key=lambda name: (-sizes[name]["count"], name))
    found: dict[str, dict[str, int]] = {}
    for start in range(0, len(names), STEP):
        if free < least:
            break
        for name, one in together(sight.db, [(name, stages) for name in names[start : start + STEP]]):
            total = found.setdefault(name, dict.fromkeys(FIELDS, 0))
            for field in FIELDS:
                total[field] += one.get(field, 0)
            free -= one.get("freeStorageSize", 0)
    return found


def verdict(facts: Mapping[str, Mapping[str, int]], limits: Limits) -> Iterator[Finding]:
    """Grade the free share of files that are large enough to matter (option ``megabytes``)."""
    for name, size in sorted(facts.items()):
        if size["storageSize"] < limits.option("megabytes") * MEGABYTE:
            continue
        share = size["freeStorageSize"] / size["storageSize"]
        if limits.grade(share) is not Status.OK:
            free = size["freeStorageSize"] / MEGABYTE
            sentence = (
                f"{share:.0%} of the file of {name} is free ({free:,.0f} MB): the disk does not get it back by itself."
            )
            yield Finding(limits.grade(share), sentence, name, share * 100, "%")


CHECK = Check(
    "fragmentation", "Free space in files", "storage",
    "Run compact on a secondary, then step down and repeat; or leave it when the collection will grow again.",
    Limits(0.5, 0.95, options={"megabytes": 100}), verdict, read,
)  # fmt: skip
