"""The collection of erasure requests: its indexes, its documents as values, and looking them up. Changes no request.

A document holds the state, dates, keyed references and the sealed identity; no name, no identifier, no free text. ``references``
are those of all epochs that were known at receipt, so that a person is found again after a rotation; ``open`` mirrors the state for
the index that keeps a person from having two open requests.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mongo_ops import audit
from mongo_ops.erasure import keycheck, ledger
from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.model import Request, State
from mongo_ops.errors import PlanError

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

REQUESTS = "ops_erasure_requests"
BATCHES = "ops_erasure_batches"
ID_CHARS, ID_BYTES = 26, 17
AT_ONCE = 500
ONE_OPEN = "one_open_request"


class RequestMissingError(PlanError):
    """There is no such request."""


def prepare(db: Database[Document], keyring: Keyring) -> None:
    """Make what receiving requests needs: indexes, audit log, ledger; and recognise the keys. Outside of a transaction.

    Raises:
        KeyExchangedError: this database was used with other keys.
    """
    keycheck.recognise(db, keyring)
    audit.prepare(db)
    ledger.prepare(db)
    requests = db[REQUESTS]
    requests.create_index(
        [("references", 1), ("open", 1)], name=ONE_OPEN, unique=True, partialFilterExpression={"open": True}
    )
    requests.create_index([("references", 1)], name="references")
    requests.create_index([("state", 1), ("due_at", 1)], name="state_due")


def new_id(prefix: str) -> str:
    """Return a fresh random id: the prefix and 26 lower-case base32 characters (130 bits)."""
    text = base64.b32encode(secrets.token_bytes(ID_BYTES)).decode().lower()
    return f"{prefix}_{text[:ID_CHARS]}"


def load(db: Database[Document], request_id: str, session: ClientSession | None = None) -> Request:
    """Return one request.

    Raises:
        RequestMissingError: there is none of that id.
    """
    document = db[REQUESTS].find_one({"_id": request_id}, session=session)
    if document is None:
        raise missing(request_id)
    return from_document(document)


def load_all(
    db: Database[Document], request_ids: Sequence[str], session: ClientSession | None = None
) -> Iterator[Request]:
    """Yield requests in the order of their ids, looked up a few hundred at a time.

    Raises:
        RequestMissingError: one of them is not there.
    """
    for start in range(0, len(request_ids), AT_ONCE):
        some = request_ids[start : start + AT_ONCE]
        found = {one["_id"]: one for one in db[REQUESTS].find({"_id": {"$in": list(some)}}, session=session)}
        for request_id in some:
            if request_id not in found:
                raise missing(request_id)
            yield from_document(found[request_id])


def listing(
    db: Database[Document], *, states: Iterable[State] | None = None, overdue_at: datetime | None = None
) -> Iterator[Request]:
    """Yield requests, the most urgent first.

    Args:
        db: the environment's database.
        states: only these; all by default.
        overdue_at: only open requests whose deadline had passed at that moment.
    """
    query: Document = {} if states is None else {"state": {"$in": [str(state) for state in states]}}
    if overdue_at is not None:
        query = {"$and": [query, {"open": True, "due_at": {"$lt": overdue_at}}]}
    with db[REQUESTS].find(query).sort([("due_at", 1), ("_id", 1)]).allow_disk_use(True) as cursor:
        yield from map(from_document, cursor)


def of_references(db: Database[Document], references: Iterable[str]) -> tuple[Request, ...]:
    """Return all requests of a person, the oldest first."""
    found = db[REQUESTS].find({"references": {"$in": list(references)}}).sort([("received_at", 1), ("_id", 1)])
    return tuple(map(from_document, found))


def members(db: Database[Document], request_or_batch_id: str) -> tuple[str, ...]:
    """Return the requests that an id stands for: a batch's, or the one itself.

    Raises:
        RequestMissingError: there is no such request or batch.
    """
    if not request_or_batch_id.startswith("eb_"):
        return (load(db, request_or_batch_id).id,)
    batch = db[BATCHES].find_one({"_id": request_or_batch_id})
    if batch is None:
        raise missing(request_or_batch_id)
    return tuple(batch["requests"])


def from_document(document: Mapping[str, Any]) -> Request:
    """Return the stored request as a value."""
    return Request(
        id=document["_id"],
        environment=document["environment"],
        state=State(document["state"]),
        subject_ref=document["subject_ref"],
        sealed=bytes(document.get("sealed", b"")),
        received_at=document["received_at"],
        due_at=document["due_at"],
        source=document["source"],
        reopened=int(document["reopened"]),
        run_id=document["run_id"],
        outcome=document["outcome"],
    )


def missing(request_id: str) -> RequestMissingError:
    """Return the error for an unknown id; an id that is none may be a person's identifier and is not repeated."""
    prefix, _, rest = request_id.partition("_")
    known = prefix in {"er", "eb"} and len(rest) == ID_CHARS
    named = f"no {request_id}" if known else "no such request, and what was given is no request's id (er_...)"
    return RequestMissingError(f"There is {named} in this environment. `mongo-ops erase list` shows what there is.")
