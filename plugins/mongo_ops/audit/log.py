"""Write to the audit log: each entry commits together with what it describes, at the end of one chain.

The chain's end is one document in ``ops_audit_head``. A writer moves it in the caller's transaction, so two writers at once
conflict and one of them starts over; the chain cannot fork and has no gaps. Nothing here ever removes an entry.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from bson import Int64, ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from mongo_ops.audit.chain import GENESIS, SALT_BYTES, seal
from mongo_ops.audit.model import AuditEntry, Head
from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

AUDIT_LOG = "audit_log"
HEADS = "ops_audit_head"
CHAINED = {"chain.seq": {"$exists": True}}
INDEX = "chain.seq_1"
NAMESPACE_EXISTS = 48
_prepared: WeakKeyDictionary[MongoClient[Document], set[str]] = WeakKeyDictionary()


class HeadFaultError(PlanError):
    """The head document is gone or was set back while chained entries exist: the chain cannot go on from it."""


class NothingToResealError(PlanError):
    """The head document is in order, so it must not be made anew."""


class NotPreparedError(RunError):
    """The audit collections do not exist yet; ``prepare`` makes them."""


def prepare(db: Database[Document]) -> None:
    """Make the collections, the index and the head if they are missing. Outside of a transaction; once per process.

    An ``audit_log`` full of the application's own entries stays as it is.

    Raises:
        HeadFaultError: there are chained entries and no head.
    """
    known = _prepared.setdefault(db.client, set())
    if db.name in known:
        return
    present = set(db.list_collection_names(filter={"name": {"$in": [AUDIT_LOG, HEADS]}}))
    quick = db.with_options(write_concern=WriteConcern(w=1))  # the index, a majority write, waits for them at once
    for name in {AUDIT_LOG, HEADS} - present:
        try:
            quick.create_collection(name, check_exists=False)
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS:  # another process was quicker
                raise
    entries(db).create_index([("chain.seq", 1)], name=INDEX, unique=True, partialFilterExpression=CHAINED)
    _begin_chain(db)
    known.add(db.name)


def _begin_chain(db: Database[Document]) -> None:
    has_entries = entries(db).find_one(CHAINED, {"_id": 1}) is not None  # before the head is read: a head comes first
    heads = db[HEADS]
    if heads.find_one({"_id": AUDIT_LOG}) is not None:
        return
    if has_entries:
        raise _head_fault(db, "is gone although there are chained entries")
    with contextlib.suppress(DuplicateKeyError):
        heads.insert_one({"_id": AUDIT_LOG, "seq": Int64(GENESIS.seq), "hash": GENESIS.hash})


def _head_fault(db: Database[Document], what: str) -> HeadFaultError:
    return HeadFaultError(
        f"The head of the audit chain ({db.name}.{HEADS}) {what}: somebody changed it. Look with `mongo-ops audit verify`, "
        "compare with the last anchor, then go on with `mongo-ops audit reseal`."
    )


def append(db: Database[Document], session: ClientSession, entry: AuditEntry) -> Head:
    """Append an entry inside the caller's transaction and return the new head. Three round trips.

    Call it last in the transaction: from here to the commit every other writer of the log has to wait.

    Raises:
        NotPreparedError: ``prepare(db)`` was not called before the transaction.
        HeadFaultError: somebody set the head back; nothing is written.
        PyMongoError: a conflict among others; let it pass, the transaction is then retried.
    """
    if not session.in_transaction:
        raise ValueError("audit.append needs the transaction of what it describes; audit.record brings its own.")
    heads = db.get_collection(HEADS, codec_options=CODEC)
    moved = heads.find_one_and_update(
        {"_id": AUDIT_LOG},
        [{"$set": {"seq": {"$add": ["$seq", 1]}, "at": "$$NOW"}}],
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    if moved is None:
        _prepared.pop(db.client, None)
        raise NotPreparedError(
            f"{db.name} has no audit chain yet. Call audit.prepare(db) before the transaction; run again."
        )
    previous = Head(moved["seq"] - 1, moved["hash"])
    salts = {name: secrets.token_bytes(SALT_BYTES) for name in entry.personal_values}
    document = seal(entry, ObjectId(), previous, moved["at"], salts)
    try:
        entries(db).insert_one(document, session=session)
    except DuplicateKeyError:  # writers hold the head from here to the commit, so none of them can have been quicker
        raise _head_fault(db, "was set back behind the last entry") from None
    head = Head(int(moved["seq"]), document["chain"]["hash"])
    at_previous = {"_id": AUDIT_LOG, "seq": moved["seq"], "hash": previous.hash}
    if heads.update_one(at_previous, {"$set": {"hash": head.hash}}, session=session).matched_count != 1:
        raise RunError("The head of the audit chain moved within one transaction; nothing was written. Run again.")
    return head


def record(db: Database[Document], entry: AuditEntry) -> Head:
    """Append an entry in a transaction of its own and return the new head. For events without another write.

    Raises:
        HeadFaultError: the chain cannot be continued; see ``prepare``.
    """
    prepare(db)
    return _transact(db, lambda session: append(db, session, entry))


def _transact(db: Database[Document], body: Callable[[ClientSession], Head]) -> Head:
    with db.client.start_session() as session:
        return session.with_transaction(
            body, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority")
        )


def reseal(db: Database[Document], entry: AuditEntry) -> Head:
    """Put a removed or set-back head behind the last entry there is, and record that as ``entry``. Return the new head.

    What was cut off before stays gone, and only an anchor can tell. So look with ``verify`` first.

    Raises:
        NothingToResealError: the head is where it belongs, or ahead of the entries; nothing was written.
    """

    def body(session: ClientSession) -> Head:
        found = entries(db).find_one({"chain.seq": {"$type": "long"}}, sort=[("chain.seq", -1)], session=session)
        last = Head(found["chain"]["seq"], found["chain"]["hash"]) if found else GENESIS
        head = read_head(db, session)
        if head is not None and head["seq"] >= last.seq:
            raise NothingToResealError(f"The head of {db.name} stands at entry {head['seq']}, not behind {last.seq}.")
        fields = {"seq": Int64(last.seq), "hash": last.hash}
        db[HEADS].update_one({"_id": AUDIT_LOG}, {"$set": fields}, upsert=True, session=session)
        return append(db, session, entry)

    return _transact(db, body)


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


def read_head(db: Database[Document], session: ClientSession | None = None) -> Document | None:
    """Return the head document as it is stored, or None."""
    return db.get_collection(HEADS, codec_options=CODEC).find_one({"_id": AUDIT_LOG}, session=session)


def entries(db: Database[Document]) -> Collection[Document]:
    """Return the collection, reading and writing values the way they are hashed."""
    return db.get_collection(AUDIT_LOG, codec_options=CODEC)
