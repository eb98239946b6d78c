"""Walk a collection in chunks, a bounded slice at a time; each chunk's work and its checkpoint commit in one transaction.

The checkpoints are those of ``ops_checkpoints``, in the same form as those of exactly-once batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from mongo_ops.errors import RunError
from mongo_ops.mongo import keyrange
from mongo_ops.mongo.batches import CHECKPOINTS, Counts
from mongo_ops.mongo.keyrange import End, KeyRange
from mongo_ops.mongo.throttle import next_size
from mongo_ops.online import replay

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.pace import Pace
    from mongo_ops.online.work import Budget, Work

    SavePoint = Callable[[ClientSession, Counts], None]
    Chunk = Callable[[KeyRange, SavePoint, bool], None]

FIRST_SIZE = 200


@dataclass(frozen=True)
class Walked:
    """What a slice of a walk came to: whether the walk is over, why it waits, and where it is."""

    done: bool
    waiting: str | None
    documents: int
    total: int
    changed: int
    rate: float


def first_point(work: Work, id: str, first: Any, end: End, total: int) -> Document:
    """Return a walk's first checkpoint: from ``first`` up to ``end``."""
    return {
        "_id": id, "digest": work.file.checksum, "collection": work.spec.collection, "next": first, "upper": end.key,
        "upper_inclusive": end.inclusive, "size": FIRST_SIZE, "done": 0, "total": total, "batches": 0, "seconds": 0.0,
        "finished": False,
    }  # fmt: skip


def empty_point(work: Work, id: str) -> Document:
    """Return the checkpoint of a walk over nothing."""
    return {
        "_id": id, "digest": work.file.checksum, "collection": work.spec.collection, "size": FIRST_SIZE, "done": 0,
        "total": 0, "batches": 0, "seconds": 0.0, "finished": True,
    }  # fmt: skip


def begin(work: Work, id: str, name: str) -> None:
    """Write the first checkpoint of a walk over all that ``name`` holds now, unless there is one."""
    if work.db[CHECKPOINTS].find_one({"_id": id}, {"_id": 1}) is not None:
        return
    collection = work.db[name]
    ends = keyrange.bounds(collection)
    total = collection.estimated_document_count()
    point = first_point(work, id, ends[0], End(ends[1]), total) if ends else empty_point(work, id)
    work.lease.transaction(
        lambda session: work.db[CHECKPOINTS].insert_one({**point, "collection": name}, session=session)
    )


def advance(work: Work, pace: Pace, budget: Budget, id: str, chunk: Chunk) -> Walked:
    """Work on a walk until it is over, there is a reason to wait, or the budget is spent.

    Args:
        work: the tools.
        pace: looked at before each chunk.
        budget: of this slice.
        id: the checkpoint's.
        chunk: commits the work of a range together with the checkpoint that it is handed; the flag says whether the range can be halved.

    Raises:
        RunError: the checkpoint moved under this run.
    """
    point = work.db[CHECKPOINTS].find_one({"_id": id})
    if point is None:
        raise RunError(f"The checkpoint {id} is gone; abort {work.name} and start it again.")
    while not point["finished"]:
        reason = pace.look()
        if reason is not None or budget.spent:
            return _walked(point, reason)
        point = _one(work, pace, point, chunk)
    return _walked(point, None)


def _one(work: Work, pace: Pace, point: Document, chunk: Chunk) -> Document:
    collection = work.db[point["collection"]]
    end, size = End(point["upper"], inclusive=point["upper_inclusive"]), min(point["size"], _largest(work, pace))
    span = keyrange.next_range(collection, point["next"], end, size)
    walked = collection.count_documents(span.filter, session=work.session) if span.final else size
    began = time.monotonic()
    after = {**point, "finished": span.final, "next": point["next"] if span.final else span.stop}
    after |= {"batches": point["batches"] + 1, "epoch": work.lease.epoch}

    def save_point(session: ClientSession, counts: Counts) -> None:
        after["done"] = point["done"] + walked
        after["changed"] = int(point.get("changed", 0)) + counts.modified + counts.inserted
        _save(work, point, after, session)

    try:
        chunk(span, save_point, size > 1)
    except (replay.TooManyConflictsError, PyMongoError) as error:
        if size < 2 or not replay.smaller_may_pass(error):  # noqa: PLR2004 - one document cannot be halved
            raise
        return {**point, "size": size // 2}
    seconds = time.monotonic() - began
    after["size"] = next_size(size, seconds, work.spec.limits.chunk_seconds, largest=_largest(work, pace))
    after["seconds"] = point["seconds"] + seconds
    pace.rest(seconds)
    return after


def _largest(work: Work, pace: Pace) -> int:
    return max(1, min(int(pace.control.chunk), int(work.state["largest"])))


def _save(work: Work, before: Document, after: Document, session: ClientSession) -> None:
    fields = {name: {"$literal": value} for name, value in after.items() if name != "_id"}
    saved = work.db[CHECKPOINTS].update_one(
        {"_id": before["_id"], "batches": before["batches"]},
        [{"$set": {**fields, "updated_at": "$$NOW"}}],
        session=session,
    )
    if saved.matched_count != 1:
        raise RunError(f"The checkpoint {before['_id']} moved under this run; run again to resume.")


def _walked(point: Document, reason: str | None) -> Walked:
    rate = point["done"] / point["seconds"] if point["seconds"] else 0.0
    return Walked(
        point["finished"],
        reason,
        point["done"],
        max(point["total"], point["done"]),
        int(point.get("changed", 0)),
        rate,
    )


def forget(work: Work, session: ClientSession) -> None:
    """Remove this attempt's checkpoints, which name documents by ``_id``."""
    prefix = work.walk_prefix
    work.db[CHECKPOINTS].delete_many({"_id": {"$gte": prefix, "$lt": prefix[:-1] + "0"}}, session=session)
