"""Move the stream's place on while the parts of a backfill are filled at once: the oplog must not run out under them.

Nothing can be replayed into a copy that others fill: a delete could overtake the insert of what it deletes. So the keys are kept, in one
transaction with the place, and made right when all parts are over; in place nothing can be overtaken, and they are made right at once.
Whoever works on a part may do this: its transaction goes through only if the place is where it began to read and the parts are not over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ReplaceOne

from mongo_ops.online import names, replay, writers
from mongo_ops.online.model import Phase
from mongo_ops.online.stream import BATCH, mark
from mongo_ops.online.work import Budget, server_time, taken_by_another

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.online.pace import Pace
    from mongo_ops.online.stream import Seen
    from mongo_ops.online.work import Work


class OvertakenError(Exception):
    """Another part's process has moved the place on; it never leaves this module."""


def prepare(work: Work) -> None:
    """Make an empty collection for the keys."""
    name = names.kept(work.spec.collection)
    work.db.drop_collection(name)
    with taken_by_another():
        work.db.create_collection(name, check_exists=False)


def move_on(work: Work, budget: Budget) -> None:
    """Read the stream to its end and keep its keys with its place; stop where another process does the same."""
    work.reload()
    if work.phase is not Phase.BACKFILL:
        return
    this = mark(work)
    with replay.open_replay(work) as stream:
        while not budget.spent:
            before = dict(work.state["token"])
            seen = stream.read(mark=this, most=min(BATCH, int(work.state["largest"])), seconds=min(1.0, budget.left))
            if seen.defined:
                replay.insist_on_collections(work)
            try:
                _keep(work, before, seen)
            except OvertakenError:
                return
            if seen.reached:
                return


def _keep(work: Work, before: dict[str, Any], seen: Seen) -> None:
    at = seen.at or server_time(work.db)
    keys = list(seen.changed.get(work.spec.collection, ()))

    def claim(session: ClientSession, counts: Counts | None = None) -> None:
        del counts
        unmoved = {"_id": work.name, "phase": Phase.BACKFILL.value, "token": {"$eq": before}}
        place = {"token": {"$literal": dict(seen.token)}, "token_at": at, "updated_at": "$$NOW"}
        if work.db[names.STATES].update_one(unmoved, [{"$set": place}], session=session).matched_count != 1:
            raise OvertakenError

    def body(session: ClientSession) -> None:
        claim(session)
        if keys:
            rows: list[Any] = [ReplaceOne({"_id": {"$eq": key}}, {}, upsert=True) for key in keys]
            work.db[names.kept(work.spec.collection)].bulk_write(rows, ordered=False, session=session)

    if work.spec.ghost:
        work.lease.transaction(body)
    else:
        replay.apply(work, writers.forward(work), keys, claim)
    work.state.update(token=dict(seen.token), token_at=at)


def make_right(work: Work, pace: Pace, budget: Budget) -> tuple[bool, str | None]:
    """Make right what was kept, now that all parts are over; say whether that is done, and why it waits."""
    kept, writer = work.db[names.kept(work.spec.collection)], writers.forward(work)
    while rows := list(kept.find({}, limit=min(BATCH, int(work.state["largest"])), session=work.session)):
        reason = pace.look()
        if reason is not None or budget.spent:
            return False, reason
        keys = [row["_id"] for row in rows]

        def forget(session: ClientSession, counts: Counts, keys: list[Any] = keys) -> None:
            del counts
            kept.delete_many({"_id": {"$in": keys}}, session=session)

        replay.apply(work, writer, keys, forget)
    return True, None
