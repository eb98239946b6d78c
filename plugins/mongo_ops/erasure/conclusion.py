"""Say for each request of a run what it came to, and leave the evidence: certificate, ledger entry, state. Erases nothing.

A request is complete only when the verification found nothing left of it. What a hold kept, what a rule skipped, what could not be
looked at, is said in its state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from mongo_ops.erasure import closure, holds, ledger, notices, periods, requests
from mongo_ops.erasure.certificate import certificate, retains
from mongo_ops.erasure.model import Plan, Request, State, Tally
from mongo_ops.erasure.run import EXECUTING, RUNS, tally
from mongo_ops.erasure.verify import Verification
from mongo_ops.erasure.work import Work
from mongo_ops.errors import PlanError, RunError
from mongo_ops.storage import AlreadyWrittenError, writing

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.holds import Holds
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.storage import Folder

CERTIFICATES = "ops_erasure_certificates"
COMPLETE = frozenset({State.COMPLETED, State.COMPLETED_WITH_RETENTION})
CHUNK = 500


class NotVerifiedError(PlanError):
    """A run is to be concluded that nobody has looked at."""


@dataclass(frozen=True)
class Concluded:
    """What a run came to: how many requests are in which state, and the first reasons why some are not complete."""

    states: Mapping[str, int]
    reasons: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every request is complete."""
        return bool(self.states) and set(self.states) <= {str(state) for state in COMPLETE}


class HoldsChangedError(RunError):
    """A legal hold was placed or released while the run was concluded."""


def keep(db: Database[Document], session: ClientSession, plan: Plan, seen: Verification) -> None:
    """Keep what a verification saw."""
    mine = {"_id": plan.run_id, "plan_digest": plan.digest}
    db[RUNS].update_one(mine, {"$set": {"verification": seen.as_value()}}, session=session)


def kept(db: Database[Document], plan: Plan) -> Verification:
    """Return what the verification of this plan saw.

    Raises:
        NotVerifiedError: there was none.
    """
    found = db[RUNS].find_one({"_id": plan.run_id, "plan_digest": plan.digest, "verification": {"$exists": True}})
    if found is None:
        raise NotVerifiedError(
            f"{plan.run_id} was not verified, so nothing can be certified. Run the verification first."
        )
    return Verification.of_value(found["verification"])


def conclude(
    work: Work,
    plan: Plan,
    members: Sequence[str],
    seen: Verification,
    traces: Mapping[str, int],
    lease: Lease,
    folder: Folder,
    run_id: str,
) -> Concluded:
    """Conclude every request of the run; called again after a kill it goes on with those that are left.

    Raises:
        HoldsChangedError: a hold was placed or released meanwhile; a retry looks at the holds again.
    """
    tallies = [tally(work.db, closure.runs(work.db, members), rule.id) for rule in work.data_map.rules]
    held, sharing = holds.active(work.db), closure.sharing(work.db, members)
    gaps = _gaps(work, plan)
    at = datetime.now(UTC)
    states: dict[str, int] = {}
    for start in range(0, len(members), CHUNK):
        some = [
            one
            for one in requests.load_all(work.db, members[start : start + CHUNK])
            if one.state in (State.EXECUTING, State.VERIFYING)
        ]
        issued: list[dict[str, Any]] = []
        outcomes = {
            one.id: State.PARTIAL
            if (gaps or one.id in sharing) and not held.of(one.subject_ref)
            else outcome(work, seen, tallies, held, one)
            for one in some
        }
        for one in some:
            if outcomes[one.id] in COMPLETE:
                until = periods.after(at, work.data_map.backups_period)
                made = certificate(
                    one, outcomes[one.id], plan, work.data_map, tallies, seen, traces.get(one.id, 0), run_id, at, until
                )
                issued.append(made)
        _put_aside(folder, work.run, plan.digest, start, issued)

        def write(session: ClientSession) -> None:  # used at once
            _write(work, session, plan, some, outcomes, issued, seen, held, run_id)  # noqa: B023
            notices.write(work.db, session, work.data_map, some, tallies, at)  # noqa: B023

        lease.transaction(write)
    for one in requests.load_all(work.db, members):
        states[str(one.state)] = states.get(str(one.state), 0) + 1
    lease.transaction(lambda session: _end(work, session))
    shared = [f"{len(sharing):,} requests share a value with somebody else."] if sharing else []
    reasons = (*gaps, *shared, *([] if seen.ok else [str(seen)]))
    return Concluded(states, tuple(reasons[:5]))


def _gaps(work: Work, plan: Plan) -> tuple[str, ...]:
    """Return why nobody of this run can be complete: as the plan says, and as it was recorded when the run began."""
    recorded = work.db[RUNS].find_one({"_id": work.run, "plan_digest": plan.digest}, {"partial": 1}) or {}
    return tuple(dict.fromkeys((*plan.partial, *recorded.get("partial", ()))))


def outcome(work: Work, seen: Verification, tallies: Sequence[Tally], held: Holds, request: Request) -> State:
    """Return what a request came to. Any skip is partial."""
    if held.of(request.subject_ref):
        return State.HELD
    if request.id in seen.offenders or request.id in seen.unseen or seen.blind:
        return State.PARTIAL
    if (
        request.id in seen.held and seen.holds != held.digest
    ):  # what was kept then may be free now, and nobody has erased it
        return State.PARTIAL
    if request.id in seen.held or retains(request.id, work.data_map, tallies, seen):
        return State.COMPLETED_WITH_RETENTION
    return State.COMPLETED


def _write(
    work: Work,
    session: ClientSession,
    plan: Plan,
    some: Sequence[Request],
    outcomes: Mapping[str, State],
    issued: Sequence[Mapping[str, Any]],
    seen: Verification,
    held: Holds,
    run_id: str,
) -> None:
    db = work.db
    names = _insist_on_holds(work, session, held)
    if issued:
        writes = [
            UpdateOne({"_id": one["request_id"]}, {"$push": {"certificates": dict(one)}}, upsert=True) for one in issued
        ]
        db[CERTIFICATES].bulk_write(writes, ordered=False, session=session)
    for state in sorted(set(outcomes.values())):
        verifying = [one.id for one in some if outcomes[one.id] is state and one.state is State.EXECUTING]
        if verifying:
            requests.transition_all(db, session, verifying, State.VERIFYING, run_id=run_id, plan_digest=plan.digest)
        for facts in ({}, {"holds": names}):  # the holds' release re-opens these requests
            ids = [one.id for one in some if outcomes[one.id] is state and (one.id in seen.held) is bool(facts)]
            requests.transition_all(db, session, ids, state, run_id=run_id, plan_digest=plan.digest, outcome=facts)
    ledger.note(db, session, _events(plan, issued, run_id))
    done = [one.id for one in some if outcomes[one.id] in COMPLETE and one.id not in seen.held]
    closure.forget(db, session, done)  # what a hold kept is still to be found when it is released


def _insist_on_holds(work: Work, session: ClientSession, held: Holds) -> list[str]:
    """Make sure that no hold changes before this is committed; return those on documents.

    Each is written to, so that a release at the same time conflicts with this transaction and comes before or after it.
    """
    if holds.active(work.db, session).digest != held.digest:
        raise HoldsChangedError(
            f"A legal hold was placed or released while {work.run} was concluded. Run the conclusion again."
        )
    names = sorted({name for some in held.filters.values() for name, _ in some})
    if names:
        kept = {"$set": {"kept_in": work.run}}
        work.db[holds.HOLDS].update_many({"_id": {"$in": names}, "active": True}, kept, session=session)
    return names


def _events(plan: Plan, issued: Sequence[Mapping[str, Any]], run_id: str) -> Iterator[ledger.Event]:
    for one in issued:
        yield ledger.Event(
            "certificate.issued", one["request_id"], plan.environment, one["subject_ref"],
            run_id=run_id, plan_digest=plan.digest, facts={"certificate": one["digest"], "outcome": one["outcome"]},
        )  # fmt: skip


def _end(work: Work, session: ClientSession) -> None:
    work.db[RUNS].update_one({"_id": work.run, "state": EXECUTING}, {"$set": {"state": "concluded"}}, session=session)


def _put_aside(folder: Folder, run: str, digest: str, start: int, issued: Sequence[Mapping[str, Any]]) -> None:
    """Keep a copy of the certificates outside of the database, as JSON lines."""
    if not issued:
        return
    name = f"{run}-{digest[:16]}-{start:06}-{issued[0]['digest'][:12]}.jsonl"
    try:
        with writing(folder / "erasure" / "certificates" / name) as sink:
            for one in issued:
                sink.write(f"{json.dumps(one, sort_keys=True)}\n".encode())
    except AlreadyWrittenError:  # by a try that was killed afterwards
        return


def certificates(db: Database[Document], request_id: str) -> list[Document]:
    """Return a request's certificates, the newest last; several when it was re-opened."""
    found = db[CERTIFICATES].find_one({"_id": request_id})
    return list(found["certificates"]) if found else []
