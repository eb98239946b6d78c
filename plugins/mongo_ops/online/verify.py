"""Verify that the target is what the transform makes of the source. Separate from what wrote it, except for the transform itself.

The complete verification goes through the keys range by range, each in a snapshot of its own. A document that differs is looked at
again after the replay has caught up; it counts as different only when nobody changed it meanwhile. What changes after its range was
compared is found in the stream, on either side, and compared later: at each visit while waiting, and for the last time behind the fence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.keyrange import BY_ID
from mongo_ops.online import compare, replay, sides, steps
from mongo_ops.online.compare import MODULUS, NAMED, shown
from mongo_ops.online.errors import DifferencesError, NotDrainedError
from mongo_ops.online.model import Verification
from mongo_ops.online.sides import Sides, Touched
from mongo_ops.online.stream import Stream, key_bytes, mark
from mongo_ops.online.work import Budget

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.pace import Pace
    from mongo_ops.online.work import Work
    from mongo_ops.online.writers import Writer

RANGE = 10_000
GENERATIONS = 5
KEYS_AT_ONCE = 1000
MOST_TOUCHED = 20_000
LONGEST = 60.0
NOTHING: Document = {"documents": 0, "bytes": 0, "sum": "0", "moving": 0, "differing": 0, "ids": []}


@dataclass(frozen=True)
class Delta:
    """What a look at changed documents came to: how many keys were compared, which differ for good, how many still move."""

    compared: int
    keys: tuple[Any, ...]
    moving: int


def last(state: Document) -> Verification | None:
    """Return the last complete verification that the state holds."""
    found = state.get("verification")
    return Verification(**{**found, "ids": tuple(found["ids"])}) if found else None


def advance(work: Work, pace: Pace, budget: Budget) -> tuple[bool, str | None]:
    """Work on a complete verification; say whether it is over, and why it waits.

    Raises:
        DifferencesError: it is over and documents differ. The next call verifies anew.
    """
    both = sides.of(work)
    if work.state.get("verifying") is None:
        _begin(work)
    while True:
        reason = pace.look()
        if reason is not None:
            return False, reason
        over = _range(work, both)
        steps.reached("verify.range")
        if over:
            break
        if budget.spent:
            return False, None
    _end(work)
    return True, None


def _begin(work: Work) -> None:
    """Note the stream's place: what changes from here on will be compared again."""
    number = int((work.state.get("verification") or {}).get("number", 0)) + 1

    def body(session: ClientSession) -> None:
        work.save(session, verifying={**NOTHING, "number": number}, delta_token=work.state["token"])
        work.db[CHECKPOINTS].delete_one({"_id": _point_id(work)}, session=session)

    work.lease.transaction(body)


def _point_id(work: Work) -> str:
    return f"{work.walk_prefix}verify"


def _range(work: Work, both: Sides) -> bool:
    """Compare one range of keys and save what was found; say whether it was the last one."""
    point = work.db[CHECKPOINTS].find_one({"_id": _point_id(work)}) or {}
    first = {"key": point["next"]} if "next" in point else {}
    stop = _stop(work, both, first) if both.ranged() else {}
    where = sides.between(first, stop)
    with compare.snapshot(work, capped=bool(work.state["source"].get("capped"))) as session:
        found = compare.compare(both.wanted(where), both.actual(where), session)
        odd = Touched(both.sources_of(found.keys, session) if found.keys else (), found.keys)
    delta = recheck(work, both, odd) if found.keys else Delta(0, (), 0)
    so_far = work.state["verifying"]
    total = {
        **so_far,
        "documents": so_far["documents"] + found.documents,
        "bytes": so_far["bytes"] + found.bytes,
        "sum": f"{(int(so_far['sum'], 16) + found.total) % MODULUS:x}",
        "moving": so_far["moving"] + delta.moving,
        "differing": so_far["differing"] + len(delta.keys),
        "ids": [*so_far["ids"], *map(shown, delta.keys)][:NAMED],
    }

    def body(session: ClientSession) -> None:
        work.save(session, verifying=total)
        after = {"collection": both.source, "finished": not stop, **({"next": stop["key"]} if stop else {})}
        work.db[CHECKPOINTS].replace_one({"_id": _point_id(work)}, after, upsert=True, session=session)

    work.lease.transaction(body)
    work.report(f"{work.name}: verified {total['documents']:,} documents, {total['differing']:,} differ")
    return not stop


def _stop(work: Work, both: Sides, first: Document) -> Document:
    """Return where the range ends that begins at ``first``; {} when it is the last."""
    found = work.db[both.source].find({}, {"_id": 1}, session=work.session).hint(BY_ID).sort(BY_ID)
    if first:
        found = found.min([("_id", first["key"])])
    row = next(iter(found.skip(RANGE).limit(1)), None)
    return {"key": row["_id"]} if row else {}


def _end(work: Work) -> None:
    """Record the verification."""
    found = dict(work.state["verifying"])
    found["sums"] = found.pop("sum")
    record = {**found, "digest": digest(work, found)}

    def body(session: ClientSession) -> None:
        work.save(session, verification=record, verifying=None)
        work.db[CHECKPOINTS].delete_one({"_id": _point_id(work)}, session=session)
        facts = {name: record[name] for name in ("number", "documents", "moving", "differing", "digest")}
        work.note(session, "verified", facts)

    work.lease.transaction(body)
    steps.reached("verify.recorded")
    if record["differing"]:
        raise DifferencesError(f"{work.name}, verification {record['number']}", record["ids"], record["differing"])


def digest(work: Work, found: Document) -> str:
    """Return what a person approves: it binds the spec's program, the database, this attempt and what was compared."""
    bound = [
        work.name, work.file.checksum, work.target.environment.name, work.target.database, work.state["attempt"],
        found["number"], found["documents"], found["bytes"], found["sums"], found["differing"],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def recheck(work: Work, both: Sides, touched: Touched) -> Delta:
    """Compare some keys after the replay has caught up, again and again while they move. Those that differ unmoved differ for good."""
    left, compared = touched, len(touched)
    writer = replay.writer_of(work)
    for _ in range(GENERATIONS):
        with replay.open_replay(work) as stream:
            _pump(work, stream, writer)
            since = work.state["token"]
            odd = _compare_keys(work, both, left)
            if not odd:
                return Delta(compared, (), 0)
            _pump(work, stream, writer)
        moved = _touched(work, both, since)
        moving = {key_bytes(key) for key in both.completed(moved, work.session).targets}
        still = [key for key in odd if key_bytes(key) not in moving]
        if still:
            return Delta(compared, tuple(still), len(odd) - len(still))
        with compare.snapshot(work, capped=bool(work.state["source"].get("capped"))) as session:
            left = Touched(both.sources_of(odd, session), tuple(odd))
    return Delta(compared, (), len(left.targets))


def _compare_keys(work: Work, both: Sides, touched: Touched) -> list[Any]:
    """Return the target's keys that differ, among these."""
    odd: dict[bytes, Any] = {}
    for part in _parts(touched):
        with compare.snapshot(work, capped=bool(work.state["source"].get("capped"))) as session:
            found = compare.compare(*both.by_keys(both.completed(part, session)), session)
        odd |= {key_bytes(key): key for key in found.keys}
    return list(odd.values())


def _parts(touched: Touched) -> list[Touched]:
    """Cut into parts of bounded size. A key and its counterpart may come apart: each part is completed before it is compared."""
    if touched.sources == touched.targets:
        return [Touched(one, one) for one in _cut(touched.sources)]
    sources = [Touched(sources=one) for one in _cut(touched.sources)]
    return sources + [Touched(targets=one) for one in _cut(touched.targets)]


def _cut(keys: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(keys[start : start + KEYS_AT_ONCE]) for start in range(0, len(keys), KEYS_AT_ONCE)]


def _pump(work: Work, stream: Stream, writer: Writer) -> None:
    changes, reached = replay.pump(work, stream, writer, until=mark(work), budget=Budget(LONGEST))
    if not reached:
        raise NotDrainedError(f"{work.name}: after {changes:,} changes the replay is still behind; run again.")


def _touched(work: Work, both: Sides, since: Document) -> Touched:
    """Return the keys that changed on either side since that place in the stream."""
    with Stream(work, both.collections, since) as stream:
        return collected(both, stream, mark(work), Touched())[0]


def collected(both: Sides, stream: Stream, this: str, found: Touched) -> tuple[Touched, bool]:
    """Return ``found`` with the keys that changed on either side, and whether the mark was reached; at most about ``MOST_TOUCHED`` keys.

    Raises:
        NotDrainedError: it took too long.
    """
    budget = Budget(LONGEST)
    while len(found) < MOST_TOUCHED:
        seen = stream.read(mark=this, seconds=min(1.0, budget.left))
        found = Touched(
            found.sources + seen.changed.get(both.source, ()), found.targets + seen.changed.get(both.target, ())
        )
        if seen.reached:
            return found, True
        if budget.spent:
            raise NotDrainedError(
                f"The changes since the last comparison could not be read within {LONGEST:.0f} s; run again."
            )
    return found, False


def insist_equal(work: Work, touched: Touched) -> None:
    """Compare these keys while nobody can write.

    Raises:
        DifferencesError: some differ.
    """
    both = sides.of(work)
    odd = _compare_keys(work, both, both.completed(touched, work.session))
    if odd:
        raise DifferencesError(work.name, [shown(key) for key in odd[:NAMED]], len(odd))


def delta(work: Work) -> Delta:
    """Compare what changed since the last comparison, on either side, and move that place on as far as nothing differs.

    Many changes are compared portion by portion, so memory does not grow with them.

    Raises:
        DifferencesError: documents differ for good.
    """
    both, writer, this = sides.of(work), replay.writer_of(work), mark(work)
    with replay.open_replay(work) as stream:
        _, reached = replay.pump(work, stream, writer, until=this, budget=Budget(LONGEST))
    if not reached:
        raise NotDrainedError(f"{work.name}: the replay is still behind; run again.")
    total = Delta(0, (), 0)
    with Stream(work, both.collections, work.state["delta_token"]) as watcher:
        over = False
        while not over:
            touched, over = collected(both, watcher, this, Touched())
            found = _compared(work, both, both.completed(touched, work.session))
            if found.keys:
                raise DifferencesError(work.name, [shown(key) for key in found.keys[:NAMED]], len(found.keys))
            total = Delta(total.compared + found.compared, (), total.moving + found.moving)
            work.commit(delta_token=dict(watcher.place))
    return total


def _compared(work: Work, both: Sides, touched: Touched) -> Delta:
    """Compare these keys, those that differ again after the replay has caught up."""
    odd = _compare_keys(work, both, touched)
    if not odd:
        return Delta(len(touched.targets), (), 0)
    with compare.snapshot(work, capped=bool(work.state["source"].get("capped"))) as session:
        again = Touched(both.sources_of(odd, session), tuple(odd))
    second = recheck(work, both, again)
    return Delta(len(touched.targets), second.keys, second.moving)
