"""The erasure ledger: what happened to each request, append-only, gapless, hash-chained, and without the person.

It is a chain of the audit package in a collection of its own, so it is verified and anchored the same way. It holds references,
counts, digests and names of rules; actors are in the audit log. Never updates or deletes an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mongo_ops import __version__, audit

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

LEDGER = "ops_erasure_ledger"
ENTITIES = {"er": "erasure_request", "eb": "erasure_batch", "eh": "legal_hold", "et": "retention_run"}
_TELLING = re.compile(
    r"@|\b[0-9a-f]{24}\b|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a request (or a batch, or a hold).

    ``facts`` are counts, digests, states, names of rules and legal grounds; never a value of a document. They are hashed into
    the chain for good.
    """

    what: str
    entity: str
    environment: str
    subject_ref: str | None = None
    result: str = "done"
    run_id: str | None = None
    plan_digest: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def prepare(db: Database[Document]) -> None:
    """Make the collection, its index and its head if they are missing. Outside of a transaction.

    Raises:
        audit.HeadFaultError: there are entries and no head.
    """
    audit.prepare(db, log=LEDGER)


def note(db: Database[Document], session: ClientSession, events: Iterable[Event]) -> None:
    """Append events, in their order, inside the caller's transaction: three round trips for all of them, none for none.

    Call it late in the transaction: from here to the commit every other writer of the ledger has to wait.

    Raises:
        ValueError: a fact looks like an identifier of a person; the message names the fact only.
    """
    entries = [_entry(event) for event in events]
    if entries:
        audit.append_all(db, session, entries, log=LEDGER)


def verify(db: Database[Document], anchor: audit.Head | tuple[int, str] | None = None) -> audit.Verification:
    """Check every entry; as ``audit.verify``."""
    return audit.verify(db, anchor, log=LEDGER)


def insist_on_impersonal(facts: Mapping[str, Any]) -> None:
    """Refuse facts that are, or look like, identifiers: other types than text, number, date, and texts with an id or an e-mail.

    Raises:
        ValueError: names the fact, never its value.
    """
    for name, value in facts.items():
        if not _impersonal(value):
            raise ValueError(f"The fact `{name}` looks like an identifier of a person, which evidence must not hold.")


def _impersonal(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float | datetime):
        return True
    if isinstance(value, str):
        return _TELLING.search(value) is None
    if isinstance(value, Mapping):
        return all(_impersonal(str(key)) and _impersonal(inner) for key, inner in value.items())
    return isinstance(value, Sequence) and not isinstance(value, bytes) and all(map(_impersonal, value))


def _entry(event: Event) -> audit.AuditEntry:
    insist_on_impersonal(event.facts)
    return audit.AuditEntry(
        action=f"erasure.{event.what}",
        entity_type=ENTITIES[event.entity.partition("_")[0]],
        entity_id=event.entity,
        environment=event.environment,
        result=event.result,
        run_id=event.run_id,
        plan_digest=event.plan_digest,
        details={"subject_ref": event.subject_ref, "code_version": __version__, **event.facts},
    )
