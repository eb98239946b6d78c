"""Write to the audit log: each entry commits together with what it describes, at the end of one chain.

The chain's end is one document in ``ops_audit_head``. A writer moves it in the caller's transaction, so two writers at once
conflict and one of them starts over; the chain cannot fork and has no gaps. Nothing here ever removes an entry.

Another collection can carry a chain of its own (``log=``), with a head of its own and the same guarantees.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from bson import Int64, ObjectId
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError

from mongo_ops.audit.chain import GENESIS, SALT_BYTES, seal
from mongo_ops.audit.model import AuditEntry, Head
from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo.documents import CODEC, Document
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo import MongoClient
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

AUDIT_LOG = "audit_log"
HEADS = "ops_audit_head"
CHAINED = {"chain.seq": {"$exists": True}}
INDEX = "chain.seq_1"
DUPLICATE_KEY = 11000
_prepared: WeakKeyDictionary[MongoClient[Document], set[tuple[str, str]]] = WeakKeyDictionary()


class HeadFaultError(PlanError):
    """The head document is gone or was set back while chained entries exist: the chain cannot go on from it."""


class NothingToResealError(PlanError):
    """The head document is in order, so it must not be made anew."""


class NotPreparedError(RunError):
    """The audit collections do not exist yet; ``prepare`` makes them."""


def prepare(db: Database[Document], *, log: str = AUDIT_LOG) -> None:
    """Make the collections, the index and the head if they are missing. Outside of a transaction; once per process.

    An ``audit_log`` full of the application's own entries stays as it is. ``log`` is the collection that carries the chain.

    Raises:
        HeadFaultError: there are chained entries and no head.
    """
    known = _prepared.setdefault(db.client, set())
    if (db.name, log) in known:
        return
    entries(db, log).create_index([("chain.seq", 1)], name=INDEX, unique=True, partialFilterExpression=CHAINED)
    _begin_chain(db, log)
    known.add((db.name, log))


def _begin_chain(db: Database[Document], log: str) -> None:
    has_entries = (
        entries(db, log).find_one(CHAINED, {"_id": 1}) is not None
    )  # before the head is read: a head comes first
    heads = db[HEADS]
    if heads.find_one({"_id": log}) is not None:
        return
    if has_entries:
        raise _head_fault(db, log, "is gone although there are chained entries")
    with contextlib.suppress(DuplicateKeyError):
        heads.insert_one({"_id": log, "seq": Int64(GENESIS.seq), "hash": GENESIS.hash})


def _head_fault(db: Database[Document], log: str, what: str) -> HeadFaultError:
    return HeadFaultError(
        f"The head of the {name_of(log)} ({db.name}.{HEADS}) {what}: somebody changed it. Look with `mongo-ops audit verify`, "
        "compare with the last anchor, then go on with `mongo-ops audit reseal`."
    )


def name_of(log: str) -> str:
    """Return what sentences call the chain in that collection."""
    return "audit chain" if log == AUDIT_LOG else f"chain in {log}"


def append(db: Database[Document], session: ClientSession, entry: AuditEntry, *, log: str = AUDIT_LOG) -> Head:
    """Append an entry inside the caller's transaction and return the new head; as ``append_all``."""
    return append_all(db, session, (entry,), log=log)


def append_all(
    db: Database[Document], session: ClientSession, new: Sequence[AuditEntry], *, log: str = AUDIT_LOG
) -> Head:
    """Append entries, in their order, inside the caller's transaction and return the new head. Three round trips for all.

    Call it last in the transaction: from here to the commit every other writer of the log has to wait.

    Raises:
        NotPreparedError: ``prepare(db)`` was not called before the transaction.
        HeadFaultError: somebody set the head back; nothing is written.
        PyMongoError: a conflict among others; let it pass, the transaction is then retried.
    """
    if not session.in_transaction:
        raise ValueError("audit.append needs the transaction of what it describes; audit.record brings its own.")
    if not new:
        raise ValueError("audit.append_all needs at least one entry.")
    heads = db.get_collection(HEADS, codec_options=CODEC)
    moved = heads.find_one_and_update(
        {"_id": log},
        [{"$set": {"seq": {"$add": ["$seq", Int64(len(new))]}, "at": "$$NOW"}}],
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    if moved is None:
        _prepared.pop(db.client, None)
        raise NotPreparedError(
            f"{db.name} has no {name_of(log)} yet. Call audit.prepare(db) before the transaction; run again."
        )
    before = Head(int(moved["seq"]) - len(new), moved["hash"])
    documents = _sealed(new, before, moved["at"])
    head = Head(int(moved["seq"]), documents[-1]["chain"]["hash"])
    try:
        entries(db, log).insert_many(documents, session=session)
    except BulkWriteError as error:
        if _first_code(error) != DUPLICATE_KEY:
            raise
        # writers hold the head from here to the commit, so none of them can have been quicker
        raise _head_fault(db, log, "was set back behind the last entry") from None
    at_previous = {"_id": log, "seq": moved["seq"], "hash": before.hash}
    if heads.update_one(at_previous, {"$set": {"hash": head.hash}}, session=session).matched_count != 1:
        raise RunError(f"The head of the {name_of(log)} moved within one transaction; nothing was written. Run again.")
    return head


def _sealed(new: Sequence[AuditEntry], previous: Head, at: datetime) -> list[Document]:
    documents = []
    for entry in new:
        salts = {name: secrets.token_bytes(SALT_BYTES) for name in entry.personal_values}
        documents.append(seal(entry, ObjectId(), previous, at, salts))
        previous = Head(previous.seq + 1, documents[-1]["chain"]["hash"])
    return documents


def _first_code(error: BulkWriteError) -> int | None:
    failures = (error.details or {}).get("writeErrors", [])
    return failures[0].get("code") if failures else None


def record(db: Database[Document], entry: AuditEntry, *, log: str = AUDIT_LOG) -> Head:
    """Append an entry in a transaction of its own and return the new head. For events without another write.

    Raises:
        HeadFaultError: the chain cannot be continued; see ``prepare``.
    """
    prepare(db, log=log)
    return transact(db, lambda session: append(db, session, entry, log=log))


def reseal(db: Database[Document], entry: AuditEntry, *, log: str = AUDIT_LOG) -> Head:
    """Put a removed or set-back head behind the last entry there is, and record that as ``entry``. Return the new head.

    What was cut off before stays gone, and only an anchor can tell. So look with ``verify`` first.

    Raises:
        NothingToResealError: the head is where it belongs, or ahead of the entries; nothing was written.
    """

    def body(session: ClientSession) -> Head:
        found = entries(db, log).find_one({"chain.seq": {"$type": "long"}}, sort=[("chain.seq", -1)], session=session)
        last = Head(found["chain"]["seq"], found["chain"]["hash"]) if found else GENESIS
        head = read_head(db, session, log=log)
        if head is not None and head["seq"] >= last.seq:
            raise NothingToResealError(f"The head of {db.name} stands at entry {head['seq']}, not behind {last.seq}.")
        fields = {"seq": Int64(last.seq), "hash": last.hash}
        db[HEADS].update_one({"_id": log}, {"$set": fields}, upsert=True, session=session)
        return append(db, session, entry, log=log)

    return transact(db, body)


def erase_personal(
    db: Database[Document], session: ClientSession | None, query: Mapping[str, Any], names: Iterable[str] | None = None
) -> int:
    """Erase personal values, with their salts, of the chained entries that match; return how many values. The chain holds.

    Args:
        db: the environment's database.
        session: the caller's transaction, or None.
        query: which entries, e.g. ``{"personal.subject.value": ...}`` or ``{"entity_id": ...}``.
        names: which values; all of them by default.
    """
    chosen = None if names is None else sorted(names)
    matching: Document = {"$and": [CHAINED, {"personal": {"$type": "object"}}, dict(query)]}
    wanted: Document = {"$objectToArray": "$personal"}
    change: Document = {"$set": {"personal": {}}}
    if chosen is not None:
        wanted = {"$filter": {"input": wanted, "cond": {"$in": ["$$this.k", {"$literal": chosen}]}}}
        change = {"$unset": {f"personal.{name}": "" for name in chosen}}
    counting = [{"$match": matching}, {"$group": {"_id": None, "values": {"$sum": {"$size": wanted}}}}]
    found = next(iter(entries(db).aggregate(counting, session=session)), {"values": 0})
    entries(db).update_many(matching, change, session=session)
    return int(found["values"])


def read_head(db: Database[Document], session: ClientSession | None = None, *, log: str = AUDIT_LOG) -> Document | None:
    """Return the head document as it is stored, or None."""
    return db.get_collection(HEADS, codec_options=CODEC).find_one({"_id": log}, session=session)


def entries(db: Database[Document], log: str = AUDIT_LOG) -> Collection[Document]:
    """Return the collection, reading and writing values the way they are hashed."""
    return db.get_collection(log, codec_options=CODEC)
