"""Writing the audit log on a real server: what is stored, that it commits with its subject, many writers, kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from bson import Int64, ObjectId
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener

from mongo_ops import audit
from mongo_ops.audit.chain import GENESIS
from mongo_ops.audit.log import INDEX
from mongo_ops.mongo.lease import Holder, acquire

MODEL_VALIDATOR = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["entity_type", "action", "timestamp"],
        "properties": {
            "entity_type": {"bsonType": "string"},
            "entity_id": {"bsonType": ["objectId", "string", "int", "null"]},
            "action": {"bsonType": "string"},
            "timestamp": {"bsonType": "date"},
        },
    }
}


def entry(**changes):
    values = {
        "action": "migration.applied",
        "entity_type": "migration",
        "entity_id": "001",
        "environment": "development",
    }
    return audit.AuditEntry(**{**values, "result": "done", "actor": "Ada Example", **changes})


def seqs(db):
    return [int(e["chain"]["seq"]) for e in db.audit_log.find({"chain": {"$exists": True}}).sort("chain.seq", 1)]


def test_an_entry_is_stored_with_the_models_own_fields_and_the_servers_time(db):
    head = audit.record(
        db,
        entry(
            actor_kind="airflow",
            plan_digest="ab" * 32,
            run_id="manual__1",
            details={"matched": 3},
            personal={"subject": "ada@example.org"},
        ),
    )

    (stored,) = db.audit_log.find({"entity_type": "migration", "entity_id": "001"})
    assert abs(stored.pop("timestamp") - datetime.now(UTC)) < timedelta(seconds=30)
    personal, chain, commitments = stored.pop("personal"), stored.pop("chain"), stored.pop("commitments")
    assert chain == {"seq": 1, "previous": GENESIS.hash, "version": 1, "hash": head.hash}
    assert isinstance(chain["seq"], Int64)
    assert head.seq == 1
    assert {name: value["value"] for name, value in personal.items()} == {
        "actor": "Ada Example",
        "subject": "ada@example.org",
    }
    assert all(len(value["salt"]) == 32 for value in personal.values())
    assert commitments.keys() == personal.keys()
    del stored["_id"]
    assert stored == {
        "entity_type": "migration",
        "entity_id": "001",
        "action": "migration.applied",
        "environment": "development",
        "result": "done",
        "run_id": "manual__1",
        "plan_digest": "ab" * 32,
        "actor_kind": "airflow",
        "details": {"matched": 3},
    }


@pytest.mark.parametrize("key", ["a", None, 7, ObjectId()], ids=["string", "null", "int", "objectId"])
def test_an_entry_passes_the_reference_models_validator(db, key):
    db.create_collection("audit_log", validator=MODEL_VALIDATOR)

    audit.record(db, entry(entity_id=key))

    assert db.audit_log.count_documents({"entity_id": key}) == 1
    assert audit.verify(db).ok


def test_prepare_is_idempotent_and_leaves_the_applications_own_entries_alone(db):
    own = [{"_id": n, "entity_type": "user", "action": "login", "timestamp": datetime.now(UTC)} for n in range(5)]
    db.audit_log.insert_many(own)

    for _ in range(2):
        audit.log._prepared.clear()
        audit.prepare(db)

    assert db.audit_log.count_documents({}) == 5
    assert db.ops_audit_head.count_documents({}) == 1
    assert db.audit_log.index_information()[INDEX]["unique"] is True
    seen = audit.verify(db)
    assert (seen.ok, seen.entries, seen.unchained) == (True, 0, 5)


def test_an_entry_commits_with_what_it_describes(db):
    audit.prepare(db)
    with acquire(db, "migrations", Holder("run 1")) as lease:

        def body(session):
            db.tracks.insert_one({"_id": 1}, session=session)
            audit.append(db, session, entry())

        lease.transaction(body)

    assert db.tracks.count_documents({}) == 1
    assert seqs(db) == [1]


def test_an_entry_vanishes_with_what_it_describes(db):
    audit.prepare(db)
    with acquire(db, "migrations", Holder("run 1")) as lease:

        def body(session):
            audit.append(db, session, entry())
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            lease.transaction(body)

    audit.record(db, entry())
    assert seqs(db) == [1]
    assert audit.verify(db).ok


def test_append_wants_a_transaction(db):
    audit.prepare(db)
    with db.client.start_session() as session, pytest.raises(ValueError, match="transaction"):
        audit.append(db, session, entry())
    assert seqs(db) == []


def test_append_without_prepare_says_what_to_call(db):
    with (
        db.client.start_session() as session,
        session.start_transaction(),
        pytest.raises(audit.NotPreparedError, match="prepare"),
    ):
        audit.append(db, session, entry())


class Commands(CommandListener):
    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event): ...

    def failed(self, event): ...


def test_append_costs_three_round_trips(replica_set, db):
    commands = Commands()
    with MongoClient(replica_set.uri, event_listeners=[commands]) as client:
        listened = client.get_database(db.name)
        audit.prepare(listened)
        commands.names.clear()

        audit.record(listened, entry())

        assert commands.names == ["findAndModify", "insert", "update", "commitTransaction"]


def test_eight_writers_make_one_chain_without_gaps(db):
    audit.prepare(db)
    with ThreadPoolExecutor(8) as pool:
        heads = [
            h
            for found in pool.map(
                lambda w: [audit.record(db, entry(entity_id=f"{w}.{n}")) for n in range(25)], range(8)
            )
            for h in found
        ]

    assert seqs(db) == list(range(1, 201))
    assert len({head.hash for head in heads}) == 200
    assert len(db.audit_log.distinct("entity_id")) == 200
    seen = audit.verify(db)
    assert seen.ok, seen
    assert (seen.entries, seen.head_seq) == (200, 200)


def test_verifying_while_writers_go_on_sees_no_fault(db):
    audit.prepare(db)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [audit.record(db, entry()) for _ in range(120)])
        while not writing.done():
            seen = audit.verify(db)
            assert seen.ok, seen
        writing.result()
    assert audit.verify(db).entries == 120


WRITER = """
import sys
from mongo_ops import audit
from mongo_ops.mongo.documents import CODEC
from pymongo import MongoClient
db = MongoClient(sys.argv[1]).get_database(sys.argv[2], codec_options=CODEC)
n = 0
while True:
    n += 1
    audit.record(db, audit.AuditEntry(action="a", entity_type="t", entity_id=n, environment="e", result="r", actor="x"))
    print(n, flush=True)
"""


@pytest.mark.chaos
def test_a_killed_writer_leaves_a_whole_chain(replica_set, db):
    audit.prepare(db)
    reported = 0
    for round_ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, replica_set.uri, db.name], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3):
            assert writer.stdout.readline()
            reported += 1
        time.sleep(0.007 * round_)
        writer.send_signal(signal.SIGKILL)
        reported += len(writer.communicate()[0].split())

    head = audit.record(db, entry())

    assert head.seq >= reported + 1
    assert seqs(db) == list(range(1, head.seq + 1))
    assert audit.verify(db).ok


def test_a_writer_that_dies_inside_its_transaction_holds_the_others_up_but_forks_nothing(replica_set, db):
    audit.prepare(db)
    session = db.client.start_session()
    session.start_transaction()
    audit.append(db, session, entry(entity_id="dead"))  # never committed; the server gives it up after 5 s

    head = audit.record(db, entry(entity_id="alive"))

    assert head.seq == 1
    assert [e["entity_id"] for e in db.audit_log.find()] == ["alive"]
    with pytest.raises(OperationFailure):
        session.commit_transaction()
    session.end_session()


def test_a_removed_head_stops_writers_until_it_is_resealed(db):
    for _ in range(3):
        audit.record(db, entry())
    db.ops_audit_head.drop()
    with pytest.raises(audit.NotPreparedError):
        audit.record(db, entry())
    with pytest.raises(audit.HeadFaultError, match=r"is gone.*reseal"):
        audit.record(db, entry())

    audit.reseal(db, entry(action="audit.resealed"))

    assert seqs(db) == [1, 2, 3, 4]
    assert audit.verify(db).ok
    with pytest.raises(audit.NothingToResealError):
        audit.reseal(db, entry(action="audit.resealed"))


def test_a_head_that_was_set_back_stops_writers_until_it_is_resealed(db):
    heads = [audit.record(db, entry()) for _ in range(3)]
    db.ops_audit_head.update_one({}, {"$set": {"seq": Int64(2), "hash": heads[1].hash}})
    with pytest.raises(audit.HeadFaultError, match="set back"):
        audit.record(db, entry())

    audit.reseal(db, entry(action="audit.resealed"))

    assert seqs(db) == [1, 2, 3, 4]
    assert audit.verify(db).ok


def test_values_that_bson_rounds_still_verify(db):
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    details = {"at": moment, "big": 2**40, "id": uuid.uuid4(), "nested": {"a.b": [1, 2.5, None]}}
    audit.record(db, entry(details=details, personal={"seen": moment, "device": uuid.uuid4()}))
    assert audit.verify(db).ok


def test_a_refused_entry_names_the_field_and_no_value():
    with pytest.raises(ValueError, match="personal") as seen:
        entry(personal={"e.mail": "ada@example.org"})
    assert "ada" not in str(seen.value)
