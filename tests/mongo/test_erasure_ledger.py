"""The erasure ledger on a real server: a chain of its own, many entries in one go, and nobody in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import Binary, Int64, ObjectId
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from mongo_ops import audit
from mongo_ops.audit.chain import entry_hash
from mongo_ops.erasure import ledger
from mongo_ops.erasure.ledger import LEDGER, Event
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.transactions import transact


def event(number=0, **changes):
    return Event(f"test.{number}", "er_" + "a" * 26, "development", "sr1_" + "b" * 26, **changes)


def write(db, *events):
    ledger.prepare(db)
    transact(db, lambda session: ledger.note(db, session, events))


def seqs(db):
    return [int(e["chain"]["seq"]) for e in db[LEDGER].find().sort("chain.seq", 1)]


class Commands(CommandListener):
    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event): ...

    def failed(self, event): ...


def test_an_event_says_what_happened_to_which_request(db):
    write(db, event(run_id="manual__1", plan_digest="ab" * 32, facts={"deleted": 3, "rule": "users.root"}))

    (stored,) = db[LEDGER].find()
    assert (stored["action"], stored["entity_type"], stored["entity_id"]) == (
        "erasure.test.0",
        "erasure_request",
        "er_" + "a" * 26,
    )
    assert stored["details"]["subject_ref"] == "sr1_" + "b" * 26
    assert (stored["details"]["deleted"], stored["details"]["rule"]) == (3, "users.root")
    assert stored["details"]["code_version"]
    assert stored["personal"] == {}
    assert stored["plan_digest"] == "ab" * 32


def test_ten_thousand_events_take_three_round_trips_and_make_one_chain(replica_set, db):
    commands = Commands()
    with MongoClient(replica_set.uri, event_listeners=[commands]) as client:
        listened = client.get_database(db.name, codec_options=CODEC)
        ledger.prepare(listened)
        commands.names.clear()
        many = [event(n, facts={"n": n}) for n in range(10_000)]

        transact(listened, lambda session: ledger.note(listened, session, many))

        assert commands.names == ["findAndModify", "insert", "update", "commitTransaction"]
    assert seqs(db) == list(range(1, 10_001))
    assert [e["details"]["n"] for e in db[LEDGER].find().sort("chain.seq", 1)] == list(range(10_000))
    seen = ledger.verify(db)
    assert seen.ok, seen
    assert str(seen) == f"The chain in {LEDGER} is whole: 10,000 chained entries."


def test_no_events_write_nothing(db):
    write(db)
    assert db[LEDGER].count_documents({}) == 0
    with pytest.raises(ValueError, match="at least one"):
        transact(db, lambda session: audit.append_all(db, session, []))


def test_the_ledger_and_the_audit_log_are_two_chains(db):
    entry = audit.AuditEntry(action="a", entity_type="t", environment="e", result="r")
    write(db, event(), event())
    audit.record(db, entry)
    write(db, event())

    assert seqs(db) == [1, 2, 3]
    assert [e["chain"]["seq"] for e in db.audit_log.find()] == [1]
    assert sorted(head["_id"] for head in db.ops_audit_head.find()) == sorted(["audit_log", LEDGER])
    assert audit.verify(db).entries == 1
    assert ledger.verify(db).entries == 3
    db.audit_log.delete_many({})
    assert not audit.verify(db).ok
    assert ledger.verify(db).ok


def test_writers_at_once_leave_no_gap(db):
    ledger.prepare(db)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda w: [write(db, event(w), event(w), event(w)) for _ in range(5)], range(4)))

    assert seqs(db) == list(range(1, 61))
    assert ledger.verify(db).ok
    triples = [e["action"] for e in db[LEDGER].find().sort("chain.seq", 1)]
    assert all(len(set(triples[n : n + 3])) == 1 for n in range(0, 60, 3))


def test_events_vanish_with_what_they_describe(db):
    write(db, event())
    with pytest.raises(RuntimeError):

        def body(session):
            ledger.note(db, session, [event(), event()])
            raise RuntimeError("no")

        transact(db, body)
    write(db, event())
    assert seqs(db) == [1, 2]
    assert ledger.verify(db).ok


def edit(db):
    db[LEDGER].update_one({"chain.seq": 3}, {"$set": {"details.deleted": 9}})


def edit_and_rehash(db):
    edit(db)
    entry = db[LEDGER].find_one({"chain.seq": 3})
    db[LEDGER].update_one({"_id": entry["_id"]}, {"$set": {"chain.hash": entry_hash(entry)}})


def delete(db):
    db[LEDGER].delete_one({"chain.seq": 3})


def truncate(db):
    db[LEDGER].delete_many({"chain.seq": {"$gte": 3}})


def swap(db):
    third, fourth = (db[LEDGER].find_one({"chain.seq": seq}) for seq in (3, 4))
    for one, seq in ((third, 4), (fourth, 3)):
        db[LEDGER].delete_one({"_id": one["_id"]})
        one["chain"]["seq"] = Int64(seq)
    db[LEDGER].insert_many([third, fourth])


@pytest.mark.parametrize("tamper", [edit, edit_and_rehash, delete, truncate, swap], ids=lambda f: f.__name__)
def test_tampering_is_named_with_its_entry(db, tamper):
    write(db, *(event(n, facts={"deleted": n}) for n in range(6)))
    assert ledger.verify(db).ok

    tamper(db)

    seen = ledger.verify(db)
    assert not seen.ok
    assert seen.faults[0].seq == 3
    assert LEDGER in str(seen)


def test_an_end_that_was_cut_off_with_its_head_is_found_by_the_anchor(db):
    write(db, *(event(n) for n in range(6)))
    anchor = ledger.verify(db)
    third = db[LEDGER].find_one({"chain.seq": 3})
    db[LEDGER].delete_many({"chain.seq": {"$gt": 3}})
    db.ops_audit_head.update_one({"_id": LEDGER}, {"$set": {"seq": Int64(3), "hash": third["chain"]["hash"]}})

    assert ledger.verify(db).ok
    assert [f.kind for f in ledger.verify(db, (anchor.head_seq, anchor.head_hash)).faults] == ["truncated"]


def test_a_head_that_was_set_back_stops_the_ledger_until_it_is_resealed(db):
    write(db, *(event(n) for n in range(3)))
    second = db[LEDGER].find_one({"chain.seq": 2})
    db.ops_audit_head.update_one({"_id": LEDGER}, {"$set": {"seq": Int64(2), "hash": second["chain"]["hash"]}})

    with pytest.raises(audit.HeadFaultError, match=LEDGER):
        write(db, event(), event())

    audit.reseal(db, audit.AuditEntry(action="a", entity_type="t", environment="e", result="r"), log=LEDGER)
    assert seqs(db) == [1, 2, 3, 4]
    assert ledger.verify(db).ok


@pytest.mark.parametrize(
    "value",
    [
        "ada@example.org",
        "65f0c0ffee65f0c0ffee65f0",
        "user 65F0C0FFEE65F0C0FFEE65F0 was here",
        "12345678-1234-5678-1234-567812345678",
        ObjectId("6b035c0ef60eb45b544c438d"),
        Binary(b"12"),
        b"12",
        {"inner": ["ada@example.org"]},
        {"ada@example.org": 1},
    ],
    ids=str,
)
def test_a_fact_that_could_be_a_person_is_refused_and_not_repeated(db, value):
    with pytest.raises(ValueError, match="`kept`") as seen:
        write(db, event(facts={"kept": value}))
    assert "ada@" not in str(seen.value)
    assert db[LEDGER].count_documents({}) == 0


def test_digests_counts_and_references_are_facts(db):
    facts = {"digest": "ab" * 32, "n": 3, "share": 0.5, "rules": ["users.root"], "ref": "sr1_" + "c" * 26, "none": None}
    write(db, event(facts=facts))
    stored = db[LEDGER].find_one()["details"]
    assert {name: stored[name] for name in facts} == facts
