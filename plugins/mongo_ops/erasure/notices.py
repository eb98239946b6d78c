"""Notices to recipients (Art. 19 GDPR): who has to be told of which erasure. An outbox; sending is somebody else's business.

A notice is written in the transaction that concludes the request, so that none is forgotten and none is invented. It names the request,
the subject's reference, collections and categories; whoever sends it looks the person up in the request, where the identity is sealed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from mongo_ops import audit
from mongo_ops.erasure import ledger
from mongo_ops.erasure.model import Actor, CollectionEntry, DataMap, Request, Rule, Tally
from mongo_ops.erasure.paths import covers
from mongo_ops.erasure.transitions import audited
from mongo_ops.errors import PlanError
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

NOTICES = "ops_erasure_notices"
OPEN, TOLD = "open", "told"


class NoticeMissingError(PlanError):
    """There is no such notice, or it was delivered already."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One recipient who has to be told of one erasure. ``id`` is ``<request>/<recipient>``."""

    id: str
    request_id: str
    recipient: str
    subject_ref: str
    collections: tuple[str, ...]
    categories: tuple[str, ...]
    made_at: datetime
    told_at: datetime | None = None


def write(
    db: Database[Document],
    session: ClientSession,
    data_map: DataMap,
    requests: Sequence[Request],
    tallies: Sequence[Tally],
    now: datetime,
) -> int:
    """Write what recipients must be told of these requests, in the caller's transaction; return how many notices that are.

    The same again changes nothing. What comes later (a hold was released, the person came back) opens a notice again.

    Args:
        db: the environment's database.
        session: the transaction that concludes the requests.
        data_map: names the recipients of collections and fields.
        requests: that are concluded.
        tallies: what each rule has done, by request, in all runs.
        now: the present.
    """
    writes = []
    for request in requests:
        for recipient, touched in sorted(_touched(data_map, request.id, tallies).items()):
            writes.append(_write(request, recipient, touched, now))
    if writes:
        db[NOTICES].bulk_write(writes, ordered=False, session=session)
    return len(writes)


def listing(db: Database[Document], *, open_only: bool = True) -> Iterator[Notice]:
    """Yield notices, the oldest first; by default those that are still to be delivered."""
    query = {"state": OPEN} if open_only else {}
    with db[NOTICES].find(query).sort([("made_at", 1), ("_id", 1)]) as cursor:
        yield from map(_notice, cursor)


def mark_told(db: Database[Document], environment: str, notice_id: str, *, actor: Actor, now: datetime) -> Notice:
    """Record that a recipient was told, and return the notice.

    Raises:
        NoticeMissingError: there is no open notice of that id; nothing was written.
    """

    def body(session: ClientSession) -> Notice:
        change = {"$set": {"state": TOLD, "told_at": now}}
        before = db[NOTICES].find_one_and_update({"_id": notice_id, "state": OPEN}, change, session=session)
        if before is None:
            raise NoticeMissingError(
                "There is no open notice of that id. `mongo-ops erase notices` shows what there is."
            )
        facts = {"recipient": before["recipient"]}
        event = ledger.Event("notice.told", before["request"], environment, before["subject_ref"], facts=facts)
        ledger.note(db, session, [event])
        audit.append(db, session, audited(event, actor))
        return _notice({**before, "told_at": now})

    ledger.prepare(db)
    audit.prepare(db)
    return transact(db, body)


def recipients_of(entry: CollectionEntry, rule: Rule) -> Mapping[str, frozenset[str]]:
    """Return to whom what a rule erases was given: recipient -> data categories. What is only kept is told to nobody."""
    if rule.action == "retain" and not rule.changes:
        return {}
    whole = rule.action == "delete"
    changed = {change.path for change in rule.changes}
    notes = {
        path: note
        for path, note in entry.fields.items()
        if note.category != "system" and (whole or any(_meets(path, one) for one in changed))
    }
    found: dict[str, set[str]] = {}
    for note in notes.values():
        for recipient in (*entry.recipients, *note.recipients):
            found.setdefault(recipient, set()).add(note.category)
    return {recipient: frozenset(categories) for recipient, categories in found.items()}


def _meets(field: str, changed: str) -> bool:
    """Say whether a change of one path touches a field of the map: the same, above it or below it."""
    return covers([field], changed) or f"{field}.".startswith(f"{changed}.") or field.startswith(f"{changed}[]")


def _touched(data_map: DataMap, request: str, tallies: Sequence[Tally]) -> dict[str, dict[str, set[str]]]:
    """Return recipient -> collection -> categories of what was erased for a request."""
    found: dict[str, dict[str, set[str]]] = {}
    for one in tallies:
        if not one.by_request.get(request):
            continue
        for entry in data_map.collections.values():
            for rule in (rule for rule in entry.rules if rule.id == one.rule):
                for recipient, categories in recipients_of(entry, rule).items():
                    found.setdefault(recipient, {}).setdefault(entry.name, set()).update(categories)
    return found


def _write(request: Request, recipient: str, touched: Mapping[str, set[str]], now: datetime) -> UpdateOne:
    """Return the write of one notice. It is opened again only when there is more to tell than was told."""
    collections = sorted(touched)
    categories = sorted({one for some in touched.values() for one in some})
    known: list[Any] = [{"$ifNull": ["$collections", []]}, {"$ifNull": ["$categories", []]}]
    more = {
        "$or": [
            {"$not": [{"$setIsSubset": [new, old]}]} for new, old in zip((collections, categories), known, strict=True)
        ]
    }
    is_new = {"$or": [more, {"$ne": ["$reopened", request.reopened]}]}
    fields = {
        "request": request.id,
        "recipient": {"$literal": recipient},
        "subject_ref": request.subject_ref,
        "collections": {"$setUnion": [known[0], collections]},
        "categories": {"$setUnion": [known[1], categories]},
        "made_at": {"$cond": [is_new, now, "$made_at"]},
        "told_at": {"$cond": [is_new, None, "$told_at"]},
        "state": {"$cond": [is_new, OPEN, "$state"]},
        "reopened": request.reopened,
    }
    return UpdateOne({"_id": f"{request.id}/{recipient}"}, [{"$set": fields}], upsert=True)


def _notice(document: Mapping[str, Any]) -> Notice:
    return Notice(
        id=document["_id"],
        request_id=document["request"],
        recipient=document["recipient"],
        subject_ref=document["subject_ref"],
        collections=tuple(sorted(document["collections"])),
        categories=tuple(sorted(document["categories"])),
        made_at=document["made_at"],
        told_at=document["told_at"],
    )
