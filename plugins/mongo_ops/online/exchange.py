"""Cut over and roll back: fence, drain, verify for the last time, swap, lift. The same steps in both directions.

Each step is recorded before it begins. After a kill ``recover`` decides by the record: not yet to be swapped -> as it was, fence lifted;
to be swapped -> swapped, fence lifted. So writes are refused for longer than planned only while nobody comes back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mongo_ops.online import fence, replay, sides, steps, swap, ttl, verify, views
from mongo_ops.online.model import CutOver, FenceKind, Phase
from mongo_ops.online.sides import Sides, Touched
from mongo_ops.online.stream import Stream, mark
from mongo_ops.online.work import Budget, now

if TYPE_CHECKING:
    from mongo_ops.online.work import Work

FEW = 50
ROUNDS = 5
OPENING_SECONDS = 30.0


@dataclass(frozen=True)
class Direction:
    """A way through the exchange: its phases, and the field that says that the swap is decided."""

    name: str
    before: Phase
    during: Phase
    after: Phase
    decided: str
    done: str


@dataclass(frozen=True)
class Open:
    """What was opened and read before the fence closed: both streams stand at its door."""

    both: Sides
    stream: Stream
    watcher: Stream
    touched: Touched


FORWARD = Direction("cut_over", Phase.READY, Phase.CUT_OVER, Phase.SOAK, "swapped", "cut_over")
BACK = Direction("rollback", Phase.SOAK, Phase.ROLLING_BACK, Phase.ROLLED_BACK, "swapped_back", "rolled_back")


def exchange(work: Work, way: Direction, kind: FenceKind) -> CutOver:
    """Carry the exchange out. Whatever goes wrong before the swap, the fence is lifted and all is as before.

    Raises:
        DifferencesError: something differs; nothing was swapped.
        NotDrainedError: it took too long; nothing was swapped.
    """
    for _ in range(ROUNDS):  # so that little is left to do behind the fence
        if verify.delta(work).compared <= FEW:
            break
    both = sides.of(work)
    with replay.open_replay(work) as stream, Stream(work, both.collections, work.state["delta_token"]) as watcher:
        replay.pump(work, stream, replay.writer_of(work), until=(this := mark(work)), budget=Budget(OPENING_SECONDS))
        touched = _all_touched(both, watcher, this, Touched())
        closing = {**fence.described(work, kind), "at": now(work.db)}
        work.move(way.during, f"{way.name}.begun", {"fence": kind.value}, fence=closing, **{way.decided: False})
        steps.reached(f"{way.name}.recorded")
        began = time.monotonic()
        try:
            drained = _behind_fence(work, way, kind, Open(both, stream, watcher, touched))
        except BaseException:
            recover(work)
            raise
    gap = swap.arrange(work, swap.rightful(work))
    fence.lift(work, kind)
    refused = 1000 * (time.monotonic() - began)
    steps.reached(f"{way.name}.swapped")
    came_to = CutOver(round(refused, 1), round(gap, 1), drained, kind)
    _complete(work, way, came_to)
    return came_to


def _behind_fence(work: Work, way: Direction, kind: FenceKind, seen: Open) -> int:
    """Close the fence, drain, compare what changed since the last comparison, and decide to swap. Everything is open already."""
    fence.close(work, kind)
    steps.reached(f"{way.name}.fenced")
    this = mark(work)
    drained = replay.drain(work, seen.stream, replay.writer_of(work), this, work.spec.fence.longest_seconds)
    steps.reached(f"{way.name}.drained")
    verify.insist_equal(work, _all_touched(seen.both, seen.watcher, this, seen.touched))
    work.commit(**{way.decided: True})
    steps.reached(f"{way.name}.verified")
    return drained


def _all_touched(both: Sides, watcher: Stream, this: str, found: Touched) -> Touched:
    """Return all keys that changed up to the mark; they are few, since what came before was compared a moment ago."""
    while True:
        more, reached = verify.collected(both, watcher, this, Touched())
        found = Touched(found.sources + more.sources, found.targets + more.targets)
        if reached:
            return found


def recover(work: Work) -> None:
    """Bring a cut-over or rollback that was interrupted to one of its two ends, and lift the fence. Does nothing otherwise."""
    work.reload()
    way = next((one for one in (FORWARD, BACK) if work.phase is one.during), None)
    if way is None:
        return
    closed = work.state["fence"]
    kind = FenceKind(closed["kind"])
    gap = swap.arrange(work, swap.rightful(work))
    fence.lift(work, kind)
    refused = 1000 * (now(work.db) - closed["at"]).total_seconds()  # nobody saw the moments themselves
    if work.state.get(way.decided):
        _complete(work, way, CutOver(round(refused, 1), round(gap, 1), 0, kind))
    else:
        work.move(way.before, f"{way.name}.undone", {"refused_ms": round(refused, 1)}, fence=None)


def _complete(work: Work, way: Direction, came_to: CutOver) -> None:
    """Enter the next phase. The stream's place is where the drain ended: from there on the other side is written."""
    ttl.hand_over(work, to="target" if way is FORWARD else "source")
    views.after_swap(work, back=way is BACK)
    until = now(work.db) + timedelta(hours=work.spec.soak_hours)
    facts = came_to.as_dict()
    measured = {**work.state.get("measured", {}), way.name: facts}
    work.move(
        way.after, way.done, facts, soak_until=until, delta_token=work.state["token"], verifying=None, fence=None, measured=measured,
    )  # fmt: skip
    steps.reached(f"{way.name}.recorded_after")
