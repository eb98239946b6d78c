"""Bring the documents that were there at the start into the new form, in bounded slices. What comes later is the stream's business.

The end of each walk was fixed when the migration began, so inserts cannot keep it running for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo.errors import BulkWriteError, DuplicateKeyError

from mongo_ops.mongo import keyrange
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.keyrange import BY_ID, End
from mongo_ops.online import replay, steps, walk, writers

if TYPE_CHECKING:
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.keyrange import KeyRange
    from mongo_ops.online.pace import Pace
    from mongo_ops.online.walk import SavePoint, Walked
    from mongo_ops.online.work import Budget, Work

SAMPLES_PER_PART = 50


def first_points(work: Work, prefix: str, parts: int) -> list[Document]:
    """Return the first checkpoints of the backfill: the key range as it is now, cut into at most ``parts`` parts."""
    collection = work.db[work.spec.collection]
    ends = keyrange.bounds(collection)
    if ends is None:
        return [walk.empty_point(work, point_id(prefix, 0))]
    total = collection.estimated_document_count()
    cuts = _cuts(work, ends[0], parts)
    points = []
    for number, first in enumerate(cuts):
        last = number + 1 == len(cuts)
        end = End(ends[1]) if last else End(cuts[number + 1], inclusive=False)
        points.append(walk.first_point(work, point_id(prefix, number), first, end, total // len(cuts)))
    return points


def _cuts(work: Work, first: Any, parts: int) -> list[Any]:
    """Return where the parts begin; in the server's order, whatever the keys' types."""
    if parts <= 1:
        return [first]
    pipeline: list[Document] = [
        {"$sample": {"size": SAMPLES_PER_PART * parts}},
        {"$project": {"_id": 1}},
        {"$sort": dict(BY_ID)},
        {"$group": {"_id": "$_id"}},
        {"$sort": dict(BY_ID)},
    ]
    keys = [row["_id"] for row in work.db[work.spec.collection].aggregate(pipeline)]
    inner = [keys[len(keys) * number // parts] for number in range(1, parts) if len(keys) > parts]
    return [first, *[key for key in inner if key != first]]


def point_id(prefix: str, part: int) -> str:
    """Return the id of a part's checkpoint."""
    return f"{prefix}backfill#{part}"


def advance(work: Work, pace: Pace, budget: Budget, part: int) -> Walked:
    """Work on one part of the backfill."""
    writer = writers.forward(work)

    def chunk(span: KeyRange, save: SavePoint, divisible: bool) -> None:  # noqa: FBT001 - walk calls it
        try:
            replay.commit(work, writer.fill(span.filter), save, divisible=divisible)
        except (DuplicateKeyError, BulkWriteError) as error:
            if writers.duplicate(error) is None:
                raise
            replay.commit_batch(work, writer, [*writer.keys_of(span.filter), *writer.in_the_way(error)], save)
        steps.reached("backfill.chunk")

    return walk.advance(work, pace, budget, point_id(work.walk_prefix, part), chunk)


def unfinished(work: Work) -> list[int]:
    """Return the parts that are not over yet."""
    wanted = [point_id(work.walk_prefix, part) for part in range(int(work.state["parts"]))]
    over = {row["_id"] for row in work.db[CHECKPOINTS].find({"_id": {"$in": wanted}, "finished": True}, {"_id": 1})}
    return [number for number, name in enumerate(wanted) if name not in over]
