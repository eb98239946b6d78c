"""Move requests from state to state: compare-and-set, along the allowed ways, each move in the ledger. One transaction of the caller's.

With a session of ``Lease.transaction`` a move happens only while the run still has its lease. Never decides where a request goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

from mongo_ops import audit
from mongo_ops.erasure import deadlines, ledger, register
from mongo_ops.erasure.model import OPEN, Actor, Request, State
from mongo_ops.erasure.states import origins
from mongo_ops.errors import PlanError, RunError

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

SHOWN = 5  # requests that an error names


class WrongStateError(PlanError):
    """A request is in a state from which there is no such way."""


class OpenRequestExistsError(PlanError):
    """Re-opening would give a person two open requests."""


def transition(
    db: Database[Document],
    session: ClientSession,
    request_id: str,
    to: State,
    *,
    run_id: str | None = None,
    plan_digest: str | None = None,
    outcome: Mapping[str, Any] | None = None,
    actor: Actor | None = None,
    now: datetime | None = None,
    **facts: Any,
) -> Request:
    """Move one request and return it as it then is. As ``transition_all``."""
    transition_all(
        db, session, (request_id,), to,
        run_id=run_id, plan_digest=plan_digest, outcome=outcome, actor=actor, now=now, **facts,
    )  # fmt: skip
    return register.load(db, request_id, session)


def transition_all(
    db: Database[Document],
    session: ClientSession,
    request_ids: Sequence[str],
    to: State,
    *,
    run_id: str | None = None,
    plan_digest: str | None = None,
    outcome: Mapping[str, Any] | None = None,
    actor: Actor | None = None,
    now: datetime | None = None,
    **facts: Any,
) -> tuple[str, ...]:
    """Move requests, all or none, and return those that moved. The number of round trips does not depend on how many they are.

    A request that the same run has moved there already stays as it is, so that a retry can say the same again.

    Args:
        db: the environment's database.
        session: the caller's transaction.
        request_ids: which; each once.
        to: the new state. ``RECEIVED`` re-opens; ``CLOSED`` destroys the sealed identity.
        run_id: the run that moves them; kept in the request.
        plan_digest: the plan that was approved or carried out, for the evidence.
        outcome: what became of it, counts and names only; replaces the former one.
        actor: the person who decided it, for the audit log; None when the run's course did.
        now: the moment; the present by default.
        facts: counts, digests and names for the ledger.

    Raises:
        RequestMissingError, WrongStateError: nothing was moved.
        OpenRequestExistsError: re-opened although the person has another open request.
    """
    ledger.insist_on_impersonal({**(outcome or {}), **facts})
    moment = now or datetime.now(UTC)
    found = _found(db, session, request_ids)
    moving = [one for one in found if not (one["state"] == to and run_id is not None and one["run_id"] == run_id)]
    _insist_on_ways(moving, to)
    if not moving:
        return ()
    ids = [one["_id"] for one in moving]
    _move(db, session, ids, to, moment, run_id, outcome)
    events = [
        ledger.Event(
            f"request.{to}", one["_id"], one["environment"], one["subject_ref"],
            run_id=run_id, plan_digest=plan_digest, facts={"from": one["state"], **facts},
        )
        for one in moving
    ]  # fmt: skip
    ledger.note(db, session, events)
    if actor is not None:
        audit.append_all(db, session, [audited(event, actor) for event in events])
    return tuple(ids)


def audited(event: ledger.Event, actor: Actor, **personal: Any) -> audit.AuditEntry:
    """Return the audit entry of a decision: the ledger's event, with who decided it and what was said of people."""
    return audit.AuditEntry(
        action=f"erasure.{event.what}",
        entity_type=ledger.ENTITIES[event.entity.partition("_")[0]],
        entity_id=event.entity,
        actor=actor.name,
        actor_kind=actor.kind,
        environment=event.environment,
        result=event.result,
        run_id=event.run_id,
        plan_digest=event.plan_digest,
        details=event.facts,
        personal=personal,
    )


def _found(db: Database[Document], session: ClientSession, request_ids: Sequence[str]) -> list[Document]:
    if len(set(request_ids)) != len(request_ids):
        raise ValueError("A request was named twice.")
    fields = {"state": 1, "run_id": 1, "environment": 1, "subject_ref": 1}
    documents = db[register.REQUESTS].find({"_id": {"$in": list(request_ids)}}, fields, session=session)
    known = {document["_id"]: document for document in documents}
    for request_id in request_ids:
        if request_id not in known:
            raise register.missing(request_id)
    return [known[request_id] for request_id in request_ids]


def _insist_on_ways(moving: Iterable[Document], to: State) -> None:
    allowed = origins(to)
    wrong = [f"{one['_id']} is {one['state']}" for one in moving if State(one["state"]) not in allowed]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise WrongStateError(
            f"No way leads to {to}: {', '.join(wrong[:SHOWN])}{more}. Only {', '.join(sorted(allowed)) or 'nothing'} leads there. "
            "Another run has moved it meanwhile, or it is done; look at it and start a new run if something is left."
        )


def _move(
    db: Database[Document],
    session: ClientSession,
    ids: Sequence[str],
    to: State,
    now: datetime,
    run_id: str | None,
    outcome: Mapping[str, Any] | None,
) -> None:
    step = {"from": "$state", "to": str(to), "at": now, "run_id": {"$literal": run_id}}
    fields: Document = {
        "state": str(to),
        "open": to in OPEN,
        "transitions": {"$concatArrays": ["$transitions", [step]]},
    }
    if run_id is not None:
        fields["run_id"] = {"$literal": run_id}
    if outcome is not None:
        fields["outcome"] = {"$literal": dict(outcome)}
    if to is State.RECEIVED:
        fields |= _reopened(now)
    if to is State.CLOSED:  # nothing is owed any more: neither the identity nor the link between epochs is needed
        fields |= {"sealed": "$$REMOVE", "references": ["$subject_ref"]}
    matching = {"_id": {"$in": list(ids)}, "state": {"$in": [str(state) for state in origins(to)]}}
    try:
        moved = db[register.REQUESTS].update_many(matching, [{"$set": fields}], session=session)
    except DuplicateKeyError:
        raise OpenRequestExistsError(
            "A request cannot be opened again: the same person has another open request, which does the same. Go on with that one."
        ) from None
    if moved.matched_count != len(ids):
        raise RunError("A request changed within one transaction; nothing was written. Run again.")


def _reopened(now: datetime) -> Document:
    """A deadline that has passed starts anew; one that has not still counts."""
    due_at = {"$cond": [{"$gt": ["$due_at", now]}, "$due_at", deadlines.due(now)]}
    return {"reopened": {"$add": ["$reopened", 1]}, "run_id": None, "outcome": {"$literal": {}}, "due_at": due_at}
