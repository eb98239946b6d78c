"""Verification on a real server: every way of tampering is named, and erasure is no tampering."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bson import Binary, Int64, ObjectId

from mongo_ops import audit
from mongo_ops.audit.chain import GENESIS, entry_hash
from mongo_ops.audit.log import INDEX

ENTRIES = 8


@pytest.fixture
def log(db):
    """Eight entries, each with a subject, beside two entries of the application."""
    db.audit_log.insert_many([{"entity_type": "user", "action": "login"} for _ in range(2)])
    for n in range(ENTRIES):
        audit.record(
            db,
            audit.AuditEntry(
                action="erasure.done",
                entity_type="user",
                entity_id=f"user {n}",
                actor="Ada Example",
                environment="development",
                plan_digest="cd" * 32,
                run_id="manual__1",
                result="done",
                details={"deleted": n},
                personal={"subject": f"person{n}@example.org"},
            ),
        )
    return db.audit_log


def at(seq):
    return {"chain.seq": seq}


def faults(db, **options):
    return [(fault.kind, fault.seq) for fault in audit.verify(db, **options).faults]


def rehash(log, seq):
    """What an attacker who knows the scheme does: make an entry fit its own hash again."""
    log.update_one(at(seq), {"$set": {"chain.hash": entry_hash(log.find_one(at(seq)))}})


def test_an_untouched_log_is_whole(db, log):
    seen = audit.verify(db)

    assert (seen.ok, seen.entries, seen.unchained, seen.erased_values) == (True, ENTRIES, 2, 0)
    assert (seen.head_seq, seen.head_hash) == (ENTRIES, log.find_one(at(ENTRIES))["chain"]["hash"])
    assert str(seen) == "The audit chain is whole: 8 chained entries, 2 of other writers."


def test_a_database_without_an_audit_log_is_whole(db):
    seen = audit.verify(db)
    assert (seen.ok, seen.entries, seen.unchained, seen.head_seq, seen.head_hash) == (True, 0, 0, 0, GENESIS.hash)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "x"},
        {"entity_type": "x"},
        {"entity_id": ObjectId()},
        {"environment": "production"},
        {"plan_digest": None},
        {"run_id": "x"},
        {"result": "failed"},
        {"actor_kind": "os"},
        {"details.deleted": 3.0},
        {"details.more": 1},
        {"commitments.subject": "0" * 64},
        {"chain.version": 2},
        {"chain.previous": "0" * 64},
        {"chain.hash": "0" * 64},
        {"personal.subject.value": "somebody@example.org"},
        {"personal.subject.salt": Binary(b"0" * 32)},
        {"personal.actor.value": "Eve"},
        {"personal.invented": {"salt": Binary(b"0" * 32), "value": 1}},
        {"personal": "gone"},
        {"added": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_field_is_found(db, log, change):
    log.update_one(at(4), {"$set": change})
    assert ("edited", 4) in faults(db)


def test_a_type_change_is_an_edit(db, log):
    log.update_one(at(4), {"$set": {"details.deleted": Int64(3)}})  # it was an int32 3
    assert faults(db) == [("edited", 4)]


def test_a_changed_time_is_found(db, log):
    moment = log.find_one(at(4))["timestamp"]
    log.update_one(at(4), {"$set": {"timestamp": moment + timedelta(milliseconds=1)}})
    assert faults(db) == [("edited", 4)]


def test_a_replaced_id_is_found(db, log):
    entry = log.find_one_and_delete(at(4))
    log.insert_one({**entry, "_id": ObjectId()})
    assert faults(db) == [("edited", 4)]


def test_an_edit_with_a_new_hash_is_found_by_the_next_entry(db, log):
    log.update_one(at(4), {"$set": {"result": "failed"}})
    rehash(log, 4)
    assert faults(db) == [("edited", 4)]


def test_an_edit_of_the_last_entry_with_a_new_hash_is_found_by_the_head(db, log):
    log.update_one(at(ENTRIES), {"$set": {"result": "failed"}})
    rehash(log, ENTRIES)
    assert faults(db) == [("head", ENTRIES)]


def test_a_log_rewritten_with_its_head_is_found_by_the_anchor(db, log):
    anchor = audit.verify(db)
    log.update_one(at(ENTRIES), {"$set": {"result": "failed"}})
    rehash(log, ENTRIES)
    new = log.find_one(at(ENTRIES))["chain"]["hash"]
    db.ops_audit_head.update_one({}, {"$set": {"hash": new}})

    assert faults(db) == []
    assert faults(db, anchor=(anchor.head_seq, anchor.head_hash)) == [("edited", ENTRIES)]


def test_entries_deleted_in_the_middle_are_found(db, log):
    log.delete_many({"chain.seq": {"$in": [3, 4, 6]}})
    seen = audit.verify(db)
    assert [(f.kind, f.seq, f.sentence) for f in seen.faults] == [
        ("deleted", 3, "Entries 3 to 4 are missing."),
        ("deleted", 6, "Entry 6 is missing."),
    ]


def test_a_deleted_first_entry_is_found(db, log):
    log.delete_one(at(1))
    assert faults(db) == [("deleted", 1)]


def test_a_deleted_end_is_found(db, log):
    log.delete_many({"chain.seq": {"$gt": 5}})
    assert faults(db) == [("truncated", 6)]


def test_a_log_deleted_as_a_whole_is_found(db, log):
    log.drop()
    assert faults(db) == [("truncated", 1)]


def test_a_deleted_end_with_a_rewound_head_needs_the_anchor(db, log):
    anchor = audit.verify(db)
    log.delete_many({"chain.seq": {"$gt": 5}})
    last = log.find_one(at(5))["chain"]["hash"]
    db.ops_audit_head.update_one({}, {"$set": {"seq": Int64(5), "hash": last}})

    assert faults(db) == []
    assert faults(db, anchor=(anchor.head_seq, anchor.head_hash)) == [("truncated", 6)]


def test_a_log_removed_with_its_head_needs_the_anchor(db, log):
    anchor = audit.verify(db)
    log.drop()
    db.ops_audit_head.drop()
    assert faults(db) == []
    assert faults(db, anchor=(anchor.head_seq, anchor.head_hash)) == [("truncated", 1)]


def test_an_earlier_anchor_fits_a_log_that_went_on(db, log):
    anchor = (5, log.find_one(at(5))["chain"]["hash"])
    assert faults(db, anchor=anchor) == []


@pytest.mark.parametrize("swap", ["numbers", "chains"])
def test_two_swapped_entries_are_found(db, log, swap):
    one, other = log.find_one(at(3)), log.find_one(at(6))
    log.drop_index(INDEX)
    if swap == "numbers":
        log.update_one({"_id": one["_id"]}, {"$set": {"chain.seq": Int64(6)}})
        log.update_one({"_id": other["_id"]}, {"$set": {"chain.seq": Int64(3)}})
    else:
        log.update_one({"_id": one["_id"]}, {"$set": {"chain": other["chain"]}})
        log.update_one({"_id": other["_id"]}, {"$set": {"chain": one["chain"]}})

    seen = audit.verify(db)

    assert [(f.kind, f.seq) for f in seen.faults] == [("reordered", 3), ("reordered", 6)]
    assert seen.faults[0].sentence == "Entry 3 was moved there from the place of entry 6."


def test_two_entries_swapped_with_new_hashes_are_found(db, log):
    one, other = log.find_one(at(3)), log.find_one(at(4))
    for seq, entry in ((3, other), (4, one)):
        previous = log.find_one(at(seq - 1))["chain"]["hash"]
        log.delete_one(at(seq))
        log.delete_one({"_id": entry["_id"]})
        log.insert_one({**entry, "chain": {**entry["chain"], "seq": Int64(seq), "previous": previous}})
        rehash(log, seq)
    assert faults(db) == [("edited", 4)]


def test_an_entry_without_its_chain_shows_as_deleted(db, log):
    log.update_one(at(4), {"$unset": {"chain": ""}})
    seen = audit.verify(db)
    assert [(f.kind, f.seq) for f in seen.faults] == [("deleted", 4)]
    assert seen.unchained == 3


def forged(log, seq, **changes):
    template = log.find_one(at(4))
    template |= {"_id": ObjectId(), "chain": {**template["chain"], "seq": seq}, **changes}
    template["chain"]["previous"] = (log.find_one(at(ENTRIES)) or template)["chain"]["hash"]
    template["chain"]["hash"] = entry_hash(template)
    return template


def test_an_entry_forged_into_the_middle_is_found(db, log):
    log.drop_index(INDEX)
    log.insert_one(forged(log, Int64(5)))
    assert faults(db) == [("forged", 5)]


def test_an_entry_with_an_impossible_number_is_found(db, log):
    log.insert_many([forged(log, 4.5), forged(log, "9"), forged(log, Int64(0))])
    assert faults(db) == [("forged", None)] * 3


def test_an_entry_forged_far_beyond_the_end_is_found(db, log):
    log.insert_one(forged(log, Int64(10**12)))
    assert faults(db) == [("forged", 10**12)]


def test_an_entry_forged_at_the_end_contradicts_the_head(db, log):
    log.insert_one(forged(log, Int64(ENTRIES + 1)))
    assert faults(db) == [("head", ENTRIES + 1)]


@pytest.mark.parametrize(
    "change",
    [{"hash": "0" * 64}, {"seq": Int64(3)}, {"seq": "8"}, {"hash": 8}, {"seq": True}],
    ids=["hash", "set back", "seq type", "hash type", "bool"],
)
def test_an_edited_head_is_found(db, log, change):
    db.ops_audit_head.update_one({}, {"$set": change})
    assert faults(db) == [("head", ENTRIES)]


def test_a_head_ahead_of_the_entries_reads_as_a_cut_off_end(db, log):
    db.ops_audit_head.update_one({}, {"$set": {"seq": Int64(9)}})
    assert faults(db) == [("truncated", 9)]


def test_a_removed_head_is_found(db, log):
    db.ops_audit_head.drop()
    assert faults(db) == [("head", ENTRIES)]


def test_erasing_personal_values_leaves_the_chain_whole(db, log):
    before = audit.verify(db)
    query = {"personal.subject.value": "person3@example.org"}

    assert audit.erase_personal(db, None, query) == 2
    assert audit.erase_personal(db, None, query) == 0

    seen = audit.verify(db)
    assert (seen.ok, seen.erased_values, seen.head_hash) == (True, 2, before.head_hash)
    entry = log.find_one(at(4))
    assert entry["personal"] == {}
    assert entry["entity_id"] == "user 3"
    assert "person3" not in str(entry)


def test_erasing_named_values_keeps_the_others(db, log):
    assert audit.erase_personal(db, None, {"entity_id": {"$in": ["user 1", "user 2"]}}, names=["actor", "phone"]) == 2

    assert log.find_one(at(2))["personal"].keys() == {"subject"}
    seen = audit.verify(db)
    assert (seen.ok, seen.erased_values) == (True, 2)


def test_erasing_leaves_the_applications_own_entries_alone(db, log):
    log.update_many({"chain": {"$exists": False}}, {"$set": {"personal": {"subject": {"value": "x"}}}})
    assert audit.erase_personal(db, None, {}) == 2 * ENTRIES
    assert log.count_documents({"personal.subject.value": "x"}) == 2


def test_erasing_is_undone_with_its_transaction(db, log):
    with db.client.start_session() as session, session.start_transaction():
        assert audit.erase_personal(db, session, {}) == 2 * ENTRIES
        session.abort_transaction()
    assert audit.verify(db).erased_values == 0


def test_an_erased_value_cannot_be_edited_back_in(db, log):
    audit.erase_personal(db, None, {"entity_id": "user 3"})
    invented = {"salt": Binary(b"1" * 32), "value": "person3@example.org"}
    log.update_one(at(4), {"$set": {"personal.subject": invented}})
    assert faults(db) == [("edited", 4)]


def test_no_fault_shows_a_personal_value(db, log):
    log.update_many(at(4), {"$set": {"personal.subject.value": "eve@example.org", "result": "x"}})
    seen = audit.verify(db)
    assert len(seen.faults) == 2
    assert "@" not in " ".join([str(seen), *(f.sentence for f in seen.faults)])


def test_the_log_is_read_through_its_index(db, log):
    plan = db.audit_log.find({"chain.seq": {"$exists": True}}).sort("chain.seq", 1).explain()
    assert "IXSCAN" in str(plan["queryPlanner"]["winningPlan"])
    assert "SORT" not in str(plan["queryPlanner"]["winningPlan"])


def test_a_log_that_lost_its_index_can_still_be_verified(db, log):
    log.drop_indexes()
    assert audit.verify(db).ok
