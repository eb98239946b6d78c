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
    fields = {"collection": 1, "next": 1, "upper": 1, "upper_inclusive": 1}
    for point in work.db[CHECKPOINTS].find({"upper": {"$exists": True}}, fields):
        if any(_is_theirs(work, point.get(name)) for name in ("next", "upper")):
            yield point


def _is_theirs(work: Work, value: Any) -> bool:
    key = key_of(value)
    return key is not None and any((identifier.name, key) in work.index for identifier in work.data_map.traced)


def _move(work: Work, session: ClientSession, point: Document) -> None:
    collection = work.db[point["collection"]]
    change: Document = {}
    if _is_theirs(work, point["next"]) and collection.find_one({"_id": point["next"]}, {"_id": 1}) is None:
        change["next"] = _neighbour(collection, point["next"], 1)
    if _is_theirs(work, point["upper"]) and collection.find_one({"_id": point["upper"]}, {"_id": 1}) is None:
        change["upper"] = _neighbour(collection, point["upper"], -1)
    gone = {name: "" for name, value in change.items() if value is None}  # nothing is left on that side
    there = {name: value["_id"] for name, value in change.items() if value is not None}
    update = ({"$set": there} if there else {}) | ({"$unset": gone} if gone else {})
    if update:
        work.db[CHECKPOINTS].update_one({"_id": point["_id"]}, update, session=session)


def _neighbour(collection: Any, key: Any, way: int) -> Document | None:
    """Return the document next to a key that is gone, whatever the types of the keys."""
    cursor = collection.find({}, {"_id": 1}).hint(BY_ID).sort("_id", way).limit(1)
    bounded = cursor.min([("_id", key)]) if way > 0 else cursor.max([("_id", key)])
    found: Document | None = next(iter(bounded), None)
    return found
