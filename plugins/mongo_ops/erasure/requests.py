"""Erasure requests: receive, find, extend, gather into a batch, move. The identity is sealed before anything is stored.

Two requests of one person at once become one: an index allows one open request per keyed reference. Nothing here shows, logs or
stores a value that names a person; the run knows a request by its id only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bson import Binary
from pymongo.errors import DuplicateKeyError

from mongo_ops import audit
from mongo_ops.erasure import deadlines, ledger, references, vault
from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.model import Actor, DataMap, Request, State
from mongo_ops.erasure.register import (
    BATCHES,
    REQUESTS,
    RequestMissingError,
    from_document,
    listing,
    load,
    load_all,
    members,
    new_id,
    of_references,
    prepare,
)
from mongo_ops.erasure.transitions import (
    OpenRequestExistsError,
    WrongStateError,
    audited,
    transition,
    transition_all,
)
from mongo_ops.errors import PlanError
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

__all__ = [
    "BATCHES",
    "REQUESTS",
    "OpenRequestExistsError",
    "RequestMissingError",
    "RequestRefusedError",
    "WrongStateError",
    "extend",
    "listing",
    "load",
    "load_all",
    "make_batch",
    "members",
    "of_references",
    "prepare",
    "receive",
    "subject_value",
    "transition",
    "transition_all",
]
READY = (State.RECEIVED, State.PARTIAL, State.FAILED)
"""States from which a new run takes a request up without anybody doing something first."""
BATCH_LIMIT = 10_000
_SOURCE = re.compile(r"[a-z][a-z0-9_.-]{0,39}")


class RequestRefusedError(PlanError):
    """What was given cannot become a request, or a request's deadline cannot be extended. Nothing was written."""


def receive(
    db: Database[Document],
    environment: str,
    data_map: DataMap,
    keyring: Keyring,
    value: Any,
    source: str,
    actor: Actor,
    now: datetime,
    *,
    received_at: datetime | None = None,
) -> Request:
    """Store a person's request, with the identity sealed, and return it.

    The same person's open request is returned instead when there is one, with ``again`` set; that they asked again is audited.

    Args:
        db: the environment's database.
        environment: its name.
        data_map: says what kind of identifier ``value`` is.
        keyring: needs `vault` and `subject`.
        value: the subject identifier's typed value, as ``identifiers.parse_subject`` gives it.
        source: the channel it came through, a word such as ``web``, ``letter`` or ``support``.
        actor: who enters it.
        now: the present.
        received_at: when it reached the controller, for what came by letter; the deadline counts from there. ``now`` by default.

    Raises:
        RequestRefusedError, NoReferenceError, KeyMissingError, KeyExchangedError: nothing was written.
    """
    received = received_at or now
    _check(source, received, now)
    known = references.references_of(keyring, data_map.subject, value)
    prepare(db, keyring)
    request_id = new_id("er")
    content = {"request": request_id, "identifier": data_map.subject, "value": value}
    document: Document = {
        "_id": request_id,
        "environment": environment,
        "state": str(State.RECEIVED),
        "open": True,
        "subject_ref": known[0],
        "references": list(known),
        "sealed": Binary(vault.seal(keyring, content)),
        "received_at": received,
        "due_at": deadlines.due(received),
        "source": source,
        "reopened": 0,
        "run_id": None,
        "outcome": {},
        "transitions": [{"from": None, "to": str(State.RECEIVED), "at": now, "run_id": None}],
    }

    def body(session: ClientSession) -> Request:
        return _again(db, session, known, source, actor) or _first(db, session, document, actor)

    try:
        return transact(db, body)
    except DuplicateKeyError:  # another process received the same person and committed after our snapshot was taken
        return transact(db, body)


def subject_value(keyring: Keyring, request: Request) -> Any:
    """Return the typed value that names the person, opened. Never print it, never put it where others read.

    Raises:
        KeyMissingError, VaultError: it cannot be opened, or it was sealed for another request.
    """
    opened = vault.open_(keyring, request.sealed)
    if opened.get("request") != request.id:
        raise vault.VaultError(
            f"What is sealed in {request.id} belongs to another request: somebody moved it. Nothing was done; compare with a backup."
        )
    return opened["value"]


def extend(
    db: Database[Document], request_id: str, *, reason: str, notified_at: datetime, actor: Actor, now: datetime
) -> Request:
    """Extend an open request's deadline by two months, once, and return the request. The reason goes into the audit log only.

    Args:
        db: the environment's database.
        request_id: which.
        reason: complexity or number of requests, in words.
        notified_at: when the person was told; within a month of receipt.
        actor: who decided it.
        now: the present.

    Raises:
        ExtensionRefusedError: no reason, or the notice came too late.
        RequestRefusedError: it is not open, or was extended already.
    """

    def body(session: ClientSession) -> Request:
        request = load(db, request_id, session)
        due_at = deadlines.extended(request.received_at, reason=reason, notified_at=notified_at)
        fields = {"due_at": due_at, "extension": {"at": now, "notified_at": notified_at}}
        open_once = {"_id": request_id, "open": True, "extension": {"$exists": False}}
        if db[REQUESTS].update_one(open_once, {"$set": fields}, session=session).matched_count != 1:
            raise RequestRefusedError(
                f"{request_id} is not open, or was extended already; a deadline is extended once."
            )
        facts = {"due_at": due_at, "notified_at": notified_at}
        event = ledger.Event("request.extended", request_id, request.environment, request.subject_ref, facts=facts)
        ledger.note(db, session, [event])
        audit.append(db, session, audited(event, actor, reason=reason))
        return load(db, request_id, session)

    return transact(db, body)


def make_batch(
    db: Database[Document],
    environment: str,
    *,
    actor: Actor,
    now: datetime,
    requests: Sequence[str] | None = None,
    limit: int = BATCH_LIMIT,
) -> str:
    """Gather open requests into a batch, which never changes afterwards, and return its id.

    Args:
        db: the environment's database.
        environment: its name.
        actor: who gathers them.
        now: the present.
        requests: which; by default those that are ready for a run, the most urgent first.
        limit: how many at most.

    Raises:
        RequestRefusedError: there is nothing to gather, or one of those named is not open.
    """
    chosen = tuple(dict.fromkeys(requests)) if requests is not None else _ready(db, limit)
    if not chosen or len(chosen) > limit:
        raise RequestRefusedError(
            f"A batch takes 1 to {limit:,} requests, not {len(chosen):,}."
            if chosen
            else "No request is ready for a run."
        )
    batch_id = new_id("eb")
    document = {"_id": batch_id, "environment": environment, "requests": list(chosen), "made_at": now}

    def body(session: ClientSession) -> str:
        still_open = db[REQUESTS].count_documents({"_id": {"$in": list(chosen)}, "open": True}, session=session)
        if still_open != len(chosen):
            raise RequestRefusedError(
                f"{len(chosen) - still_open:,} of {len(chosen):,} requests are not there or not open. Leave them out."
            )
        db[BATCHES].insert_one(document, session=session)
        event = ledger.Event("batch.made", batch_id, environment, facts={"requests": len(chosen)})
        audit.append(db, session, audited(event, actor))
        return batch_id

    return transact(db, body)


def _ready(db: Database[Document], limit: int) -> tuple[str, ...]:
    ready = db[REQUESTS].find({"state": {"$in": [str(state) for state in READY]}}, {"_id": 1})
    return tuple(one["_id"] for one in ready.sort([("due_at", 1), ("_id", 1)]).limit(limit + 1))[:limit]


def _check(source: str, received: datetime, now: datetime) -> None:
    if not _SOURCE.fullmatch(source):
        raise RequestRefusedError(
            "The source of a request is one word for its channel (lower-case letters, digits, `_.-`), such as web or letter."
        )
    if received.tzinfo is None or received > now:
        raise RequestRefusedError("A request is received now or earlier, at a moment with a time zone.")


def _again(
    db: Database[Document], session: ClientSession, known: Sequence[str], source: str, actor: Actor
) -> Request | None:
    """Return the open request of the person and note that they asked again; None when there is none."""
    mine = {"references": {"$in": list(known)}, "open": True}
    document = db[REQUESTS].find_one_and_update(
        mine, {"$addToSet": {"references": {"$each": list(known)}}}, session=session
    )
    if document is None:
        return None
    request = replace(from_document(document), again=True)
    event = ledger.Event("request.received_again", request.id, request.environment, facts={"source": source})
    audit.append(db, session, audited(event, actor))
    return request


def _first(db: Database[Document], session: ClientSession, document: Document, actor: Actor) -> Request:
    db[REQUESTS].insert_one(document, session=session)
    facts = {"source": document["source"], "received_at": document["received_at"], "due_at": document["due_at"]}
    event = ledger.Event(
        "request.received", document["_id"], document["environment"], document["subject_ref"], facts=facts
    )
    ledger.note(db, session, [event])
    audit.append(db, session, audited(event, actor))
    return load(db, document["_id"], session)
