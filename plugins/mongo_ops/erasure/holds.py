"""Legal holds: what must not be erased yet, for a person or for a set of documents. Placed and released, both audited.

A person is held by keyed references, documents by a filter. ``active`` inside a batch's transaction sees every hold that was placed
before the batch began. A hold blocks documents and says why; it never deletes, and release never lifts another hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mongo_ops import audit
from mongo_ops.erasure import hold_scopes, ledger, register
from mongo_ops.erasure.hold_scopes import (
    DocumentScope,
    HoldRefusedError,
    SubjectScope,
    of_documents,
    of_request,
    of_subject,
)
from mongo_ops.erasure.model import Actor, State
from mongo_ops.erasure.transitions import audited, transition_all
from mongo_ops.mongo.documents import Document, digest
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

__all__ = [
    "HOLDS", "DocumentScope", "Hold", "HoldRefusedError", "Holds", "SubjectScope",
    "active", "listing", "of_documents", "of_request", "of_subject", "place", "prepare", "release",
]  # fmt: skip
HOLDS = "ops_legal_holds"
WAITING = (State.HELD, State.COMPLETED_WITH_RETENTION)
"""Requests that a released hold may have kept from being finished."""
_REASON_CODE = re.compile(r"[a-z][a-z0-9_]{1,59}")
MOST_AUTHORITY = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """One legal hold as stored. ``review_at`` is when somebody must look whether it is still needed."""

    id: str
    scope: SubjectScope | DocumentScope
    reason_code: str
    authority: str
    placed_at: datetime
    review_at: datetime
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Holds:
    """The active holds at one moment. ``digest`` changes with any of them."""

    references: frozenset[str]
    filters: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = field(repr=False)
    digest: str

    def of(self, *references: str) -> bool:
        """Whether a person is held. For a request its ``subject_ref`` is enough; without one give the references of all epochs."""
        return not self.references.isdisjoint(references)

    def exclusion(self, collection: str) -> Document | None:
        """Return the filter that leaves held documents out, to be combined by ``$and``; None when none are held there."""
        held = self.filters.get(collection, ())
        return {"$nor": [dict(query) for _, query in held]} if held else None

    def on(self, collection: str) -> tuple[str, ...]:
        """Return the ids of the document holds on a collection. A request that left documents out names them in ``outcome.holds``."""
        return tuple(hold_id for hold_id, _ in self.filters.get(collection, ()))


def prepare(db: Database[Document]) -> None:
    """Make what placing holds needs. Outside of a transaction."""
    audit.prepare(db)
    ledger.prepare(db)
    db[HOLDS].create_index([("active", 1)], name="active")


def place(
    db: Database[Document],
    environment: str,
    scope: SubjectScope | DocumentScope,
    *,
    reason_code: str,
    authority: str,
    review_at: datetime,
    actor: Actor,
    now: datetime,
) -> Hold:
    """Place a hold and return it. It counts for every batch that begins from now on.

    Args:
        db: the environment's database.
        environment: its name.
        scope: from ``of_subject``, ``of_request`` or ``of_documents``.
        reason_code: a word, such as ``litigation`` or ``tax_audit``.
        authority: who demands it, with a file number; names no data subject.
        review_at: when to look at it again; later than ``now``.
        actor: who places it.
        now: the present.

    Raises:
        HoldRefusedError: nothing was written.
    """
    if not _REASON_CODE.fullmatch(reason_code):
        raise HoldRefusedError(
            "The reason code of a hold is one word (lower-case letters, digits, `_`), such as litigation."
        )
    if not 0 < len(authority.strip()) <= MOST_AUTHORITY or "@" in authority:
        raise HoldRefusedError(
            f"A hold names the authority that demands it, in up to {MOST_AUTHORITY} characters, without an address."
        )
    if review_at.tzinfo is None or review_at <= now:
        raise HoldRefusedError("A hold needs a day in the future on which it is reviewed; holds do not last for ever.")
    prepare(db)
    hold = Hold(register.new_id("eh"), scope, reason_code, authority.strip(), now, review_at)
    event = ledger.Event(
        "hold.placed", hold.id, environment, facts={**_facts(scope), "reason_code": reason_code, "review_at": review_at}
    )

    def body(session: ClientSession) -> Hold:
        db[HOLDS].insert_one(_document(hold), session=session)
        ledger.note(db, session, [event])
        audit.append(db, session, audited(event, actor, authority=hold.authority))
        return hold

    return transact(db, body)


def release(
    db: Database[Document], environment: str, hold_id: str, *, reason: str, actor: Actor, now: datetime
) -> tuple[str, ...]:
    """Release a hold and re-open the requests that it kept from being finished; return their ids.

    Those are: for a person, their requests that are held or completed with retention; for documents, the requests that name the hold
    in ``outcome.holds``. A request stays as it is while another hold is on the person, or while the person has another open request.

    Args:
        db: the environment's database.
        environment: its name.
        hold_id: which.
        reason: why, in words; goes into the audit log only.
        actor: who releases it.
        now: the present.

    Raises:
        HoldRefusedError: no reason, or no active hold of that id; nothing was written.
    """
    if not reason.strip():
        raise HoldRefusedError("A release needs its reason.")
    prepare(db)

    def body(session: ClientSession) -> tuple[str, ...]:
        change = {"$set": {"active": False, "released_at": now}}
        document = db[HOLDS].find_one_and_update({"_id": hold_id, "active": True}, change, session=session)
        if document is None:
            raise HoldRefusedError("There is no active hold of that id. `mongo-ops erase holds` shows what there is.")
        reopened = _kept_by(db, session, _hold(document))
        event = ledger.Event("hold.released", hold_id, environment, facts={"reopened": len(reopened)})
        if reopened:
            transition_all(db, session, reopened, State.RECEIVED, now=now, hold=hold_id)
        ledger.note(db, session, [event])
        audit.append(db, session, audited(event, actor, reason=reason))
        return reopened

    return transact(db, body)


def active(db: Database[Document], session: ClientSession | None = None) -> Holds:
    """Return the holds in force: in a transaction, those placed before it began.

    A person held under an older key is recognised in a newer request, and the other way round, by what the requests link.
    """
    found = [_hold(document) for document in db[HOLDS].find({"active": True}, session=session).sort("_id", 1)]
    held = {reference for one in found if isinstance(one.scope, SubjectScope) for reference in one.scope.references}
    if held:
        linked = db[register.REQUESTS].find({"references": {"$in": sorted(held)}}, {"references": 1}, session=session)
        held |= {reference for document in linked for reference in document["references"]}
    filters: dict[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {}
    for one in found:
        if isinstance(one.scope, DocumentScope):
            name = one.scope.collection
            filters[name] = (*filters.get(name, ()), (one.id, one.scope.filter))
    return Holds(frozenset(held), filters, digest({"holds": [one.id for one in found]}))


def listing(db: Database[Document], *, review_before: datetime | None = None) -> Iterator[Hold]:
    """Yield the active holds, the next to be reviewed first; with ``review_before`` those whose review is due by then."""
    query: Document = {"active": True}
    if review_before is not None:
        query["review_at"] = {"$lt": review_before}
    with db[HOLDS].find(query).sort([("review_at", 1), ("_id", 1)]) as cursor:
        yield from map(_hold, cursor)


def _kept_by(db: Database[Document], session: ClientSession, hold: Hold) -> tuple[str, ...]:
    """Return the requests that may go on now. The hold itself is released already in this transaction."""
    query: Document = {"state": {"$in": [str(state) for state in WAITING]}}
    if isinstance(hold.scope, SubjectScope):
        query["references"] = {"$in": list(hold.scope.references)}
    else:
        query["outcome.holds"] = hold.id
    candidates = list(db[register.REQUESTS].find(query, {"references": 1, "state": 1}, session=session).sort("_id", 1))
    left = active(db, session)
    free = [one for one in candidates if not left.of(*one["references"])]
    busy = _with_another_open(db, session, free)
    taken: set[str] = set()
    reopened = []
    for one in free:
        if one["_id"] not in busy and taken.isdisjoint(one["references"]):
            taken.update(one["references"])
            reopened.append(one["_id"])
    return tuple(reopened)


def _with_another_open(db: Database[Document], session: ClientSession, free: Sequence[Document]) -> frozenset[str]:
    known = sorted({reference for one in free for reference in one["references"]})
    cursor = db[register.REQUESTS].find(
        {"references": {"$in": known}, "open": True}, {"references": 1}, session=session
    )
    owners = {reference: document["_id"] for document in cursor for reference in document["references"]}
    return frozenset(one["_id"] for one in free if _others(owners, one))


def _others(owners: Mapping[str, str], request: Document) -> bool:
    return any(owners.get(reference, request["_id"]) != request["_id"] for reference in request["references"])


def _facts(scope: SubjectScope | DocumentScope) -> Mapping[str, Any]:
    if isinstance(scope, SubjectScope):
        return {"scope": "subject", "references": list(scope.references)}
    return {"scope": "documents", "collection": scope.collection, "filter_digest": digest({"filter": scope.filter})}


def _document(hold: Hold) -> Document:
    scope: Document = (
        {"references": list(hold.scope.references)}
        if isinstance(hold.scope, SubjectScope)
        else {"collection": hold.scope.collection, "filter": hold_scopes.as_text(hold.scope.filter)}
    )
    return {
        "_id": hold.id,
        "active": True,
        "scope": scope,
        "reason_code": hold.reason_code,
        "authority": hold.authority,
        "placed_at": hold.placed_at,
        "review_at": hold.review_at,
        "released_at": None,
    }


def _hold(document: Mapping[str, Any]) -> Hold:
    scope = document["scope"]
    return Hold(
        id=document["_id"],
        scope=(
            SubjectScope(tuple(scope["references"]))
            if "references" in scope
            else DocumentScope(scope["collection"], hold_scopes.parse(scope["filter"]))
        ),
        reason_code=document["reason_code"],
        authority=document["authority"],
        placed_at=document["placed_at"],
        review_at=document["review_at"],
        released_at=document["released_at"],
    )
