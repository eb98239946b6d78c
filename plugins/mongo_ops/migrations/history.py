"""What the database remembers about migrations: current state in ``ops_migrations``, every event in ``ops_history``.

``ops_history`` is append-only. Both are written only inside a transaction that asserts the lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import OperationFailure
from pymongo.write_concern import WriteConcern

from mongo_ops import __version__
from mongo_ops.migrations.model import MigrationFile, OperationRecord, Record, State

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

NAMESPACE_EXISTS = 48
MIGRATIONS = "ops_migrations"
HISTORY = "ops_history"
COLLECTIONS = (MIGRATIONS, HISTORY, "ops_leases", "ops_checkpoints")


@dataclass(frozen=True)
class Actor:
    """Who acts: a user name and where it comes from (``airflow`` or ``os``)."""

    name: str
    kind: Literal["airflow", "os", "system"]


@dataclass(frozen=True)
class Occasion:
    """On whose behalf and in which run something happens; goes into every history event."""

    actor: Actor
    run_id: str
    plan_digest: str | None = None
    reason: str | None = None


def prepare(db: Database[Document]) -> None:
    """Create the collections that transactions will write to; does nothing when they exist."""
    there = set(db.list_collection_names(filter={"name": {"$in": list(COLLECTIONS)}}))
    quick = db.with_options(
        write_concern=WriteConcern(w=1)
    )  # the majority write that follows waits for all of them at once
    for name in COLLECTIONS:
        if name not in there and name != HISTORY:  # its index makes it
            try:
                quick.create_collection(name, check_exists=False)
            except OperationFailure as error:
                if error.code != NAMESPACE_EXISTS:  # another run, started at the same moment, was quicker
                    raise
    if HISTORY not in there:
        quick[HISTORY].create_index([("migration", 1), ("at", 1)])


def load_all(db: Database[Document]) -> tuple[Record, ...]:
    """Return every migration's current state, oldest version first."""
    found = (_record(document) for document in db[MIGRATIONS].find())
    return tuple(sorted(found, key=lambda record: (int(record.version), record.name)))


def load_one(db: Database[Document], name: str, session: ClientSession | None = None) -> Record | None:
    """Return one migration's state, or None when it is pending."""
    document = db[MIGRATIONS].find_one({"_id": name}, session=session)
    return _record(document) if document else None


def next_order(db: Database[Document], session: ClientSession) -> int:
    """Return the number of the next application; the lease keeps two runs from getting the same one."""
    newest = db[MIGRATIONS].find_one({}, {"order": 1}, sort=[("order", -1)], session=session)
    return int((newest or {}).get("order", 0)) + 1


def save(
    db: Database[Document], session: ClientSession, name: str, fields: Mapping[str, Any], now: Sequence[str] = ()
) -> None:
    """Set fields of a migration's state document; those named in ``now``, and ``updated_at``, are the server's time."""
    values: dict[str, Any] = {key: {"$literal": value} for key, value in fields.items()}
    values |= dict.fromkeys((*now, "updated_at"), "$$NOW")
    db[MIGRATIONS].update_one({"_id": name}, [{"$set": values}], upsert=True, session=session)


def event(name: str, what: str, occasion: Occasion, **facts: Any) -> Document:
    """Return a history event: {migration, event, run_id, actor, code_version, plan_digest, ...facts}."""
    made: Document = {"migration": name, "event": what, "run_id": occasion.run_id, "code_version": __version__}
    made |= {"actor": {"name": occasion.actor.name, "kind": occasion.actor.kind}, "plan_digest": occasion.plan_digest}
    if occasion.reason:
        made["reason"] = occasion.reason
    return made | facts


def append(db: Database[Document], session: ClientSession, events: Sequence[Document]) -> None:
    """Add events with the server's time as ``at``, in one round trip. They are never updated and never deleted."""
    db[HISTORY].bulk_write([_stamped(one) for one in events], session=session)


def _stamped(one: Document) -> UpdateOne:
    values = {key: {"$literal": value} for key, value in one.items()}
    return UpdateOne({"_id": ObjectId()}, [{"$set": {**values, "at": "$$NOW"}}], upsert=True)


def fresh_operations(file: MigrationFile) -> list[Document]:
    """Return the operations' records before any ran."""
    return [operation_document(op.kind, op.digest(), "pending") for op in file.migration.operations]


def operation_document(kind: str, digest: str, state: str) -> Document:
    """Return an operation's record as stored."""
    return {"kind": kind, "digest": digest, "state": state, "found": {}, "counts": {}, "seconds": 0.0}


def operation_documents(operations: Sequence[OperationRecord]) -> list[Document]:
    """Return operations' records as stored."""
    return [
        {
            "kind": o.kind,
            "digest": o.digest,
            "state": o.state,
            "found": o.found,
            "counts": o.counts,
            "seconds": o.seconds,
        }
        for o in operations
    ]


def _record(document: Mapping[str, Any]) -> Record:
    operations = tuple(
        OperationRecord(o["kind"], o["digest"], o["state"], o["found"], o["counts"], o["seconds"])
        for o in document.get("operations", ())
    )
    return Record(
        name=document["_id"],
        state=State(document["state"]),
        checksum=document["checksum"],
        direction=document.get("direction", "forward"),
        order=int(document.get("order", 0)),
        application=int(document.get("application", 0)),
        operations=operations,
        attempt=int(document.get("attempt", 0)),
        error=document.get("error"),
        applied_at=document.get("applied_at"),
        baseline=bool(document.get("baseline", False)),
        source=document.get("source", ""),
        helpers={helper["path"]: helper["source"] for helper in document.get("helpers", ())},
    )
