"""Does a collection's file hold much free space? That is what ``freeStorageSize`` says; comparing sizes says only how well data compresses."""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

MEGABYTE = 1024 * 1024


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the free share of files that are large enough to matter (option ``megabytes``)."""
    for name, size in sorted(facts.need("sizes").items()):
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
    Limits(0.5, 0.95, options={"megabytes": 100}), verdict,
)  # fmt: skip
