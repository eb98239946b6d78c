"""One bounded slice of each phase, and where it leads. The engine holds the lease around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongo_ops.mongo.lease import acquire
from mongo_ops.online import backfill, collecting, ending, names, pace, replay, verify
from mongo_ops.online.errors import DifferencesError
from mongo_ops.online.model import ABORTABLE, ENDED, ORDER, Phase, SliceResult
from mongo_ops.online.work import Budget, Work, now

if TYPE_CHECKING:
    from mongo_ops.online.walk import Walked

SLICE_SECONDS = 30.0
PUMP_EVERY, PUMP_SECONDS = 10.0, 5.0


def one(work: Work, budget: Budget, part: int) -> SliceResult:
    """Work for a slice on the phase that the migration is in."""
    at = pace.Pace(work)
    if at.control.command == "abort" and work.phase in ABORTABLE:
        ending.begin_abort(work, "asked for by the control document")
    ours = work.phase
    waiting: str | None = None
    done = False
    progress: dict[str, int | float] = {}
    if ours is Phase.BACKFILL:
        return _backfill(work, at, budget, part)
    if ours is Phase.CATCH_UP:
        level, waiting = collecting.make_right(work, at, budget)
        if not level:
            return result(work, ours, done=False, waiting=waiting)
        changes, done, waiting = replay.catch_up(work, at, budget)
        progress = {"changes": changes}
        if done:
            work.move(Phase.VERIFY, "caught_up")
    elif ours is Phase.VERIFY:
        done, waiting, progress = _verify(work, at, budget)
    elif ours in (Phase.READY, Phase.SOAK):
        done, waiting, progress = _stay(work, at, budget)
    elif ours is Phase.ABORTING:
        fence_parts(work)
        return abort(work, budget)
    elif ours is Phase.CONTRACTING:
        return contract(work, budget)
    else:
        done = True
    return result(work, ours, done=done, waiting=waiting, progress=progress)


def _backfill(work: Work, at: pace.Pace, budget: Budget, part: int) -> SliceResult:
    alone = int(work.state["parts"]) == 1
    while True:
        walked = backfill.advance(work, at, Budget(min(PUMP_EVERY, budget.left)), part)
        if walked.done or walked.waiting is not None:
            break
        if alone:  # the stream's place must not grow old while the backfill takes its time
            replay.catch_up(work, at, Budget(PUMP_SECONDS))
        else:
            collecting.move_on(work, Budget(PUMP_SECONDS))
        if budget.spent:
            break
    progress = {
        "documents": walked.documents,
        "of": walked.total,
        "changed": walked.changed,
        "per_s": round(walked.rate),
    }
    waiting = walked.waiting
    if alone and walked.done:
        work.move(Phase.CATCH_UP, "filled", {"documents": walked.documents, "changed": walked.changed})
    work.report(
        f"{work.name}: {walked.documents:,} of about {walked.total:,} documents{f'; waiting: {waiting}' if waiting else ''}"
    )
    return result(work, Phase.BACKFILL, done=walked.done, waiting=waiting, progress=progress)


def _verify(work: Work, at: pace.Pace, budget: Budget) -> tuple[bool, str | None, dict[str, int | float]]:
    _, behind, waiting = replay.catch_up(work, at, budget)
    if waiting is not None or not behind:
        return False, waiting, {}
    done, waiting = verify.advance(work, at, budget)
    found = work.state.get("verifying") or work.state.get("verification") or {}
    if done:
        work.move(Phase.READY, "ready")
    return done, waiting, {name: found[name] for name in ("documents", "moving", "differing") if name in found}


def _stay(work: Work, at: pace.Pace, budget: Budget) -> tuple[bool, str | None, dict[str, int | float]]:
    """Keep both sides in step while a person decides, or while the rollback window is open."""
    ours = work.phase
    changes, level, waiting = replay.catch_up(work, at, budget)
    progress: dict[str, int | float] = {"changes": changes}
    if waiting is not None or not level:
        return False, waiting, progress
    try:
        found = verify.delta(work)
    except DifferencesError:
        if ours is Phase.READY:
            work.move(Phase.VERIFY, "differences", verifying=None)
        raise
    progress |= {"compared": found.compared, "moving": found.moving}
    if ours is Phase.SOAK and now(work.db) >= work.state["soak_until"]:
        return True, "the rollback window is over; `mongo-ops online contract` ends the migration", progress
    waiting = (
        "somebody has to approve"
        if ours is Phase.READY
        else f"the rollback window is open until {work.state['soak_until']:%Y-%m-%d %H:%M} UTC"
    )
    return ours is Phase.READY, waiting, progress


def elsewhere(work: Work, wanted: Phase) -> SliceResult:
    """Answer a call for another phase than the one that is on."""
    if work.phase is Phase.BACKFILL and wanted is Phase.CATCH_UP and int(work.state["parts"]) > 1:
        left = backfill.unfinished(work)
        if not left:
            work.move(Phase.CATCH_UP, "filled", {"parts": work.state["parts"]})
            return one(work, Budget(SLICE_SECONDS), 0)
        return result(work, wanted, done=False, waiting=f"{len(left)} parts of the backfill are not over")
    past = work.phase in ORDER and wanted in ORDER and ORDER.index(work.phase) > ORDER.index(wanted)
    waiting = None if past else f"the migration is in {work.phase}"
    return result(work, wanted, done=past, waiting=waiting)


def contract(work: Work, budget: Budget) -> SliceResult:
    """Go on with a contract."""
    if work.phase is Phase.DONE:
        return result(work, Phase.CONTRACTING, done=True)
    if work.spec.ghost:
        ending.finish_ghost(work)
        return result(work, Phase.CONTRACTING, done=True)
    walked = ending.contract(work, pace.Pace(work), budget)
    return _walked(work, Phase.CONTRACTING, walked)


def abort(work: Work, budget: Budget) -> SliceResult:
    """Go on with an abort."""
    return _walked(work, Phase.ABORTING, ending.abort(work, _Unhindered(work), budget))


def _walked(work: Work, phase: Phase, walked: Walked | None) -> SliceResult:
    progress = {"documents": walked.documents, "of": walked.total} if walked else {}
    return result(work, phase, done=work.phase in ENDED, waiting=walked.waiting if walked else None, progress=progress)


def result(
    work: Work,
    phase: Phase,
    *,
    done: bool,
    waiting: str | None = None,
    progress: dict[str, Any] | None = None,
) -> SliceResult:
    """Return what a slice came to, and report it."""
    made = SliceResult(phase, done, waiting, progress or {}, work.phase)
    work.report(f"{work.name}: {made}")
    return made


class _Unhindered(pace.Pace):
    """The pace of an abort: neither a pause nor the abort that was asked for holds it back."""

    def look(self) -> str | None:
        """Nothing holds an abort back."""
        return None


def fence_parts(work: Work) -> None:
    """Take the leases of a mapped backfill away from whoever works on a part; a zombie then changes nothing."""
    if int(work.state["parts"]) > 1:
        for part in range(int(work.state["parts"])):
            resource = f"{names.resource(work.spec.collection)}#{part}"
            acquire(work.db, resource, work.lease.holder, ttl=work.target.environment.lease_ttl).release()
