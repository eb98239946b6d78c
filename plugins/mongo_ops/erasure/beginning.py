"""Begin a run: make sure that it is still what was approved, leave the tombstones, fence the people, record that it executes.

The tombstones come first. One too many erases nothing that is not there; one too few would let a backup bring somebody back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from pymongo import UpdateOne

from mongo_ops import audit
from mongo_ops.erasure import closure, ledger, references, requests, tombstones
from mongo_ops.erasure.forms import forms
from mongo_ops.erasure.model import Actor, Plan, State, Subject
from mongo_ops.erasure.plan import insist_on_same, insist_on_way
from mongo_ops.erasure.planning import Planned
from mongo_ops.erasure.run import EXECUTING, RESULTS, RUNS
from mongo_ops.erasure.tombstones import Tombstone
from mongo_ops.erasure.transitions import audited
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import as_stored
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.storage import Folder

T = TypeVar("T")
SUPPRESSIONS = "ops_erasure_suppressions"
"""One document per person who must not be written any more: ``_id`` is the keyed hash of the subject identifier."""

CHUNK = 1_000
PASSED = {
    State.PLANNED: {State.PLANNED, State.APPROVED, State.EXECUTING},
    State.APPROVED: {State.APPROVED, State.EXECUTING},
    State.EXECUTING: {State.EXECUTING},
}
"""From where a request need not go through a state any more on its way to be executed."""


def record_plan(planned: Planned, keyring: Keyring, run_id: str, actor: Actor) -> None:
    """Keep what a plan found: the closures, sealed, and the state of its requests. Until here nothing was written.

    Raises:
        NobodyError, PlanStoppedError: nobody is left in the plan, or it would stop half-way; the requests that match nobody are
            recorded as such.
    """
    work, plan = planned.work, planned.plan
    db = work.db
    closure.keep(db, keyring, work.subjects, plan.run_id, planned.traces, planned.sharing)
    _move(db, planned.nobody, State.NOT_FOUND, run_id, plan, actor)
    insist_on_way(plan)
    _move(db, [one.request_id for one in work.subjects], State.PLANNED, run_id, plan, None)


def _move(db: Database[Document], ids: Sequence[str], to: State, run_id: str, plan: Plan, actor: Actor | None) -> None:
    for some in _chunks(ids):

        def move(session: ClientSession, some: Sequence[str] = some) -> None:
            requests.transition_all(db, session, some, to, run_id=run_id, plan_digest=plan.digest, actor=actor)

        transact(db, move)


def begin_run(work: Work, now: Plan, plan: Plan, lease: Lease, folder: Folder, run_id: str, actor: Actor) -> None:
    """Begin, or begin again after a kill.

    Args:
        work: the people as they are now.
        now: the plan as it would be made now.
        plan: the one that was shown, and approved where that is needed.
        lease: of the whole run.
        folder: the environment's storage.
        run_id: the Airflow run, or the command.
        actor: who triggered it.

    Raises:
        PlanChangedError, PlanStoppedError, NobodyError: nothing was written.
    """
    insist_on_same(plan, now)
    insist_on_way(now)
    db = work.db
    tombstones.write(tombstones.at(folder), f"{work.run} {plan.digest}", _stones(work, _begun_at(work, plan)))
    db[RESULTS].create_index([("run", 1), ("rule", 1)], name="run_rule")
    for some in _chunks(work.subjects):
        lease.transaction(lambda session: _start(work, session, some, plan, run_id))  # noqa: B023
    lease.transaction(lambda session: _record(work, session, now, run_id, actor))


def is_begun(db: Database[Document], plan: Plan, run_id: str) -> bool:
    """Say whether this run has begun this plan already: a retry must not compare it with a database it has changed."""
    wanted = {"_id": plan.run_id, "state": EXECUTING, "plan_digest": plan.digest, "run_id": run_id}
    return db[RUNS].find_one(wanted, {"_id": 1}) is not None


def _begun_at(work: Work, plan: Plan) -> datetime:
    """Return when this plan was first begun: a retry writes the same tombstones, under the same name."""
    mine = {"_id": work.run}
    fresh = {"plan_digest": plan.digest, "state": "beginning", "begun_at": datetime.now(UTC)}
    found = work.db[RUNS].find_one({**mine, "plan_digest": plan.digest})
    if found is None:
        work.db[RUNS].replace_one(mine, fresh, upsert=True)
        found = as_stored(fresh)
    begun_at: datetime = found["begun_at"]
    return begun_at


def _start(work: Work, session: ClientSession, some: Sequence[Subject], plan: Plan, run_id: str) -> None:
    ids = [one.request_id for one in some]
    states = {one.id: one.state for one in requests.load_all(work.db, ids, session)}
    db = work.db
    for through in (State.PLANNED, State.APPROVED, State.EXECUTING):
        moving = [one for one in ids if states[one] not in PASSED[through]]
        if moving:
            requests.transition_all(db, session, moving, through, run_id=run_id, plan_digest=plan.digest)
    fences = [
        UpdateOne({"_id": mark}, {"$set": {"request": one.request_id, "since": datetime.now(UTC)}}, upsert=True)
        for one in some
        for mark in _marks(work, one)
    ]
    if fences:
        db[SUPPRESSIONS].bulk_write(fences, ordered=False, session=session)


def _record(work: Work, session: ClientSession, plan: Plan, run_id: str, actor: Actor) -> None:
    fields: Document = {"state": EXECUTING, "plan_digest": plan.digest, "map_digest": plan.map_digest, "run_id": run_id}
    fields["partial"] = list(plan.partial)
    before = work.db[RUNS].find_one({"_id": work.run}, session=session) or {}
    if {name: before.get(name) for name in fields} == fields:
        return
    work.db[RUNS].update_one({"_id": work.run}, {"$set": fields}, upsert=True, session=session)
    facts = {"requests": plan.requests, "excluded": len(plan.excluded), "map_digest": plan.map_digest}
    event = ledger.Event("run.begun", work.run, plan.environment, run_id=run_id, plan_digest=plan.digest, facts=facts)
    ledger.note(work.db, session, [event])
    audit.append(work.db, session, audited(event, actor))


def _stones(work: Work, at: datetime) -> Iterator[Tombstone]:
    """Yield the tombstones of everything that is the person's own; not of what stays (a published artist's key)."""
    for one in work.subjects:
        for name, values in sorted(one.closure.items()):
            identifier = work.data_map.identifiers[name]
            if identifier.trace and not identifier.remains:
                for value in values:
                    for form in forms(identifier, value):
                        mark = references.tombstone_hash(work.keyring, name, form)
                        yield Tombstone(mark, name, one.reference, one.request_id, at)


def _marks(work: Work, one: Subject) -> set[str]:
    identifier = work.data_map.identifiers[work.data_map.subject]
    values = (form for value in one.closure[identifier.name] for form in forms(identifier, value))
    return {references.suppression_hash(work.keyring, identifier.name, value) for value in values}


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
