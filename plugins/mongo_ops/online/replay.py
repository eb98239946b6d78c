"""Replay what writers do: read keys from the stream, make them right in the target, move the stream's place on. In that order.

The changes and the place commit in one transaction, so a kill repeats the whole batch or nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from mongo_ops.mongo.batches import Counts, is_too_much
from mongo_ops.online import steps, writers
from mongo_ops.online.errors import CollisionError, NotDrainedError, SourceChangedError
from mongo_ops.online.model import Phase
from mongo_ops.online.stream import BATCH, Seen, Stream, key_bytes, mark
from mongo_ops.online.work import Budget, server_time

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.online.pace import Pace
    from mongo_ops.online.work import Work
    from mongo_ops.online.writers import Apply, Writer

    Save = Callable[[ClientSession, Counts], None]

ROUNDS = 5
TRIES = 4
CAUGHT_UP_SECONDS = 1.0
SWAPPED = frozenset({Phase.SOAK, Phase.ROLLING_BACK})


class TooManyConflictsError(Exception):
    """Hot documents: the same transaction, but smaller, will come through. Never leaves this package."""


def smaller_may_pass(error: Exception) -> bool:
    """Say whether to try again with fewer documents."""
    return isinstance(error, TooManyConflictsError) or (isinstance(error, PyMongoError) and is_too_much(error))


def commit_batch(work: Work, writer: Writer, keys: Sequence[Any], save: Save) -> Counts:
    """Make the keys right and save the place (of the stream, or of a walk) in one transaction.

    When a unique value is in the way, its holder is made right in the same transaction: the source gave the value to another
    document meanwhile.

    Raises:
        CollisionError: two documents of the source want the same place in the target.
    """
    wanted, in_vain = list(keys), 0
    while in_vain < ROUNDS:
        try:
            return commit(work, writer.sync(wanted) if wanted else _nothing_to_do, save, divisible=len(wanted) > 1)
        except (DuplicateKeyError, BulkWriteError) as error:
            if writers.duplicate(error) is None:
                raise
            holders = writer.in_the_way(error)
        known = {key_bytes(key) for key in wanted}
        fresh = [key for key in holders if key_bytes(key) not in known]
        in_vain += not fresh  # a writer may have moved the value while we read: then the next reading is right
        wanted += fresh
    raise CollisionError(
        f"{work.name}: documents of {work.spec.collection} want the same place in the target: they are equal under its unique index, its _id "
        "or its collation. Make them distinct, or change the spec (abort first)."
    )


def commit(work: Work, apply: Apply, save: Save, *, divisible: bool) -> Counts:
    """Carry the work out and save the place after it, in one transaction that asserts the lease.

    Raises:
        TooManyConflictsError: it is divisible, and writers of the same documents were quicker several times.
    """
    tries = 0

    def body(session: ClientSession) -> Counts:
        nonlocal tries
        tries += 1
        if divisible and tries > TRIES:
            raise TooManyConflictsError
        counts = apply(session)
        save(session, counts)
        return counts

    return work.lease.transaction(body)


def _nothing_to_do(session: ClientSession) -> Counts:
    del session
    return Counts()


def watched(work: Work) -> list[str]:
    """Return the names under which the replay's source may be written: after the swap the new collection has the name."""
    return [work.spec.collection]


def open_replay(work: Work) -> Stream:
    """Return the stream from where the replay stopped."""
    return Stream(work, watched(work), work.state["token"], own=False)


def writer_of(work: Work) -> Writer:
    """Return the writer of the direction that the phase has."""
    return writers.reverse(work) if work.phase in SWAPPED else writers.forward(work)


def pump(work: Work, stream: Stream, writer: Writer, *, until: str | None, budget: Budget) -> tuple[int, bool]:
    """Replay until the mark (without one: until nothing more is there), or the budget is spent.

    Returns:
        How many changes were replayed, and whether the end was reached.
    """
    total = 0
    while True:
        seen = stream.read(mark=until, most=min(BATCH, int(work.state["largest"])), seconds=min(1.0, budget.left))
        if seen.defined:
            insist_on_collections(work)
        apply(work, writer, list(seen.changed.get(work.spec.collection, ())), _saving(work, seen))
        total += seen.events
        steps.reached("replay.batch")
        if seen.reached or (until is None and seen.idle):
            return total, True
        if budget.spent:
            return total, False


def _saving(work: Work, seen: Seen) -> Save:
    """Return what saves the place behind what was seen."""
    at = seen.at or server_time(work.db)

    def save_token(session: ClientSession, counts: Counts) -> None:
        del counts
        work.save(session, token=dict(seen.token), token_at=at)
        if seen.events:
            work.count(session, replayed=seen.events)

    return save_token


def apply(work: Work, writer: Writer, all_keys: list[Any], save: Save) -> None:
    """Make keys right and save the place; in halves when that is too much for one transaction, the place with the last."""
    parts = [all_keys]
    while parts:
        keys, last = parts.pop(0), not parts
        try:
            commit_batch(work, writer, keys, save if last else _nothing)
        except (TooManyConflictsError, PyMongoError) as error:
            if len(keys) < 2 or not smaller_may_pass(error):  # noqa: PLR2004 - one key cannot be halved
                raise
            middle = len(keys) // 2
            parts[:0] = [keys[:middle], keys[middle:]]


def _nothing(session: ClientSession, counts: Counts) -> None:
    """Leave the stream's place: more of the same batch is to come."""
    del session, counts


def insist_on_collections(work: Work) -> None:
    """Refuse to go on when a collection is not where this migration knows it to be.

    Raises:
        SourceChangedError: it was dropped, renamed, or made anew.
    """
    if work.phase in (Phase.CUT_OVER, Phase.ROLLING_BACK):
        return  # we rename ourselves, and each step looks where things are
    live = work.place("target" if work.phase is Phase.SOAK else "source")
    if work.spec.ghost:
        work.place("source" if work.phase is Phase.SOAK else "target")
    if live != work.spec.collection:
        raise SourceChangedError(
            f"{work.name}: {work.spec.collection} was renamed by somebody else. "
            "Give it its name back, or abort this migration and start it again."
        )


def catch_up(work: Work, pace: Pace, budget: Budget) -> tuple[int, bool, str | None]:
    """Replay until the stream's end comes within a second of a mark.

    Returns:
        How many changes were replayed, whether it has caught up, and why it waits if it does.
    """
    total, writer = 0, writer_of(work)
    with open_replay(work) as stream:
        while True:
            reason = pace.look()
            if reason is not None:
                return total, False, reason
            this, short = mark(work), Budget(min(CAUGHT_UP_SECONDS, budget.left))
            changes, reached = pump(work, stream, writer, until=this, budget=short)
            total += changes
            if reached:
                return total, True, None
            if budget.spent:
                return total, False, None


def drain(work: Work, stream: Stream, writer: Writer, this: str, seconds: float) -> int:
    """Replay up to the mark while nobody can write; return how many changes that were.

    Raises:
        NotDrainedError: it took longer than ``seconds``.
    """
    changes, reached = pump(work, stream, writer, until=this, budget=Budget(seconds))
    if not reached:
        raise NotDrainedError(
            f"{work.name}: the stream did not come to its end within {seconds:.0f} s of refused writes. Nothing was swapped; "
            "try again when the load is lower."
        )
    return changes
