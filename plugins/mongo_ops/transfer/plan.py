"""Decide how an export is cut into parts and what must be refused. Pure: facts in, a plan or a sentence out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import bson
from bson import MaxKey

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer.model import FORMATS, CollectionFacts, Edge, ExportRequest, Part

PART_BYTES = 1024 * 1024 * 1024
MOST_PARTS = 64
SAMPLES_PER_PART = 100
BYTES_PER_SECOND = 40_000_000
"""What an export reads in the worst case that was seen, to guess whether it fits the server's history window."""
_UNSCANNABLE = ("$text", "$near", "$nearSphere", "$geoNear", "$where", "$function")


class ExportRefusedError(PlanError):
    """This export cannot be made as asked; nothing was written."""


def check_request(request: ExportRequest) -> None:
    """Refuse what no database could give.

    Raises:
        ExportRefusedError: with what to change.
    """
    if request.format not in FORMATS:
        raise ExportRefusedError(f"There is no format {request.format!r}. Choose one of {', '.join(FORMATS)}.")
    if not request.collections:
        raise ExportRefusedError('Name at least one collection, or "*" for all of them.')
    if request.partitions is not None and not 1 <= request.partitions <= MOST_PARTS:
        raise ExportRefusedError(f"partitions must be 1 to {MOST_PARTS}.")
    if request.consistency not in ("snapshot", "prefer_snapshot", "fuzzy"):
        raise ExportRefusedError("consistency must be snapshot, prefer_snapshot or fuzzy.")
    if word := operator(request.where, _UNSCANNABLE):
        raise ExportRefusedError(
            f"The filter uses {word}, which works neither in an `_id` scan nor at a cluster time. Filter by other operators."
        )


def operator(value: Any, words: Sequence[str]) -> str | None:
    """Return the first of these operators that a filter uses."""
    if isinstance(value, Mapping):
        return next((key for key in value if key in words), None) or next(
            filter(None, (operator(inner, words) for inner in value.values())), None
        )
    if isinstance(value, list | tuple):
        return next(filter(None, (operator(inner, words) for inner in value)), None)
    return None


def part_count(facts: CollectionFacts, request: ExportRequest) -> int:
    """Return into how many parts a collection is cut. Views, time series and capped collections are never cut."""
    if facts.kind != "collection" or facts.count == 0:
        return 1
    if request.partitions is not None:
        return request.partitions
    if request.where:
        return 1
    return max(1, min(MOST_PARTS, round(facts.bytes / PART_BYTES)))


def cuts(samples: Sequence[tuple[Any, int]], count: int) -> tuple[Any, ...]:
    """Return at most ``count - 1`` keys that cut the collection into parts of about equal bytes.

    Args:
        samples: (``_id``, bytes of its document) in the server's order of ``_id``; keys may repeat.
        count: parts wanted. Fewer come out when single documents or few keys leave nothing to cut.
    """
    total = sum(size for _, size in samples)
    found: list[Any] = []
    held, seen = 0, _encoded(samples[0][0]) if samples else b""
    for key, size in samples:
        goal = total * (len(found) + 1) / count
        if held >= goal and len(found) < count - 1 and not isinstance(key, MaxKey) and _encoded(key) != seen:
            found.append(key)
            seen = _encoded(key)
        held += size
    return tuple(found)


def parts(number: int, name: str, keys: Sequence[Any]) -> tuple[Part, ...]:
    """Return the parts between these cuts, the first and the last open to the outside, numbered from ``number``."""
    edges = [None, *map(Edge, keys), None]
    return tuple(Part(number + i, name, i, edges[i], edges[i + 1]) for i in range(len(edges) - 1))


def window_note(size: int, window: float | None) -> str | None:
    """Return why a snapshot may not last until the end of the export, or None.

    Args:
        size: bytes of BSON to read.
        window: ``minSnapshotHistoryWindowInSeconds`` of the server; None when it may not be seen.
    """
    if window is None:
        return None
    needed = math.ceil(size / BYTES_PER_SECOND)
    if needed <= window:
        return None
    return (
        f"reading {size / 1e9:,.1f} GB may take {needed:,} s, but the server keeps the history of only {window:,.0f} s. Raise "
        f"it first: db.adminCommand({{setParameter: 1, minSnapshotHistoryWindowInSeconds: {2 * needed}}}), or ask for "
        "prefer_snapshot or fuzzy"
    )


def _encoded(key: Any) -> bytes:
    return bson.encode({"": key}, codec_options=CODEC)
