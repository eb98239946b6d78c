"""Take people's keys out of the checkpoints of walks. A checkpoint names documents by ``_id``, and that may be a person's.

The key of a document that is gone stands for the same place as its neighbour: ``next`` moves to the next key that is there, ``upper`` to
the one before. So a walk that is half done, or the way back of one that is finished, still covers exactly what it covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.keyrange import BY_ID

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease


def forget(work: Work, lease: Lease) -> int:
    """Delete this run's own checkpoints and move the others away from the people's keys; return how many were moved."""
    lease.transaction(lambda session: _drop_own(work, session))
    moved = 0
    for point in list(_concerned(work)):
        lease.transaction(lambda session: _move(work, session, point))  # noqa: B023 - used at once
        moved += 1
    return moved


def _drop_own(work: Work, session: ClientSession) -> None:
    prefix = f"erasure/{work.run}/"
    work.db[CHECKPOINTS].delete_many({"_id": {"$gte": prefix, "$lt": f"erasure/{work.run}0"}}, session=session)


def _concerned(work: Work) -> Iterator[Document]:
    fields = {"collection": 1, "next": 1, "upper": 1, "upper_inclusive": 1, "finished": 1}
    for point in work.db[CHECKPOINTS].find({"next": {"$exists": True}, "upper": {"$exists": True}}, fields):
        if any(_is_theirs(work, point[name]) for name in ("next", "upper")):
            yield point


def _is_theirs(work: Work, value: Any) -> bool:
    key = key_of(value)
    return key is not None and any((identifier.name, key) in work.index for identifier in work.data_map.traced)


def _move(work: Work, session: ClientSession, point: Document) -> None:
    collection = work.db[point["collection"]]
    gone = {
        name
        for name in ("next", "upper")
        if _is_theirs(work, point[name]) and collection.find_one({"_id": point[name]}, {"_id": 1}) is None
    }
    if gone:
        change = _moved(collection, point, gone)
        work.db[CHECKPOINTS].update_one({"_id": point["_id"]}, change, session=session)


def _moved(collection: Any, point: Document, gone: set[str]) -> Document:
    """Return the update that makes a checkpoint mean the same without the keys that are gone."""
    upper: Document | None = {"_id": point["upper"]}
    bound: Document = {}
    if "upper" in gone:  # up to a document that is not there: up to the one before, and with it
        upper = _neighbour(collection, point["upper"], -1)
        bound = {"upper_inclusive": True}
    if upper is None:  # the walk covered nothing that is left
        return {"$set": {"finished": True}, "$unset": {"next": "", "upper": ""}}
    bound["upper"] = upper["_id"]
    after = _neighbour(collection, point["next"], 1) if "next" in gone else {"_id": point["next"]}
    left = point["finished"] or "upper" not in gone or _between(collection, point["next"], point["upper"])
    if after is None or not left:
        return {"$set": {**bound, "next": upper["_id"], "finished": True}}
    return {"$set": {**bound, "next": after["_id"]}}


def _between(collection: Any, start: Any, end: Any) -> bool:
    """Say whether there is a document from ``start`` to before ``end``."""
    if start == end:  # which the server refuses as bounds
        return False
    cursor = collection.find({}, {"_id": 1}).hint(BY_ID).min([("_id", start)]).max([("_id", end)])
    return next(iter(cursor.limit(1)), None) is not None


def _neighbour(collection: Any, key: Any, way: int) -> Document | None:
    """Return the document next to a key that is gone, whatever the types of the keys."""
    cursor = collection.find({}, {"_id": 1}).hint(BY_ID).sort("_id", way).limit(1)
    bounded = cursor.min([("_id", key)]) if way > 0 else cursor.max([("_id", key)])
    found: Document | None = next(iter(bounded), None)
    return found
