"""Anchors on a real server: what the database alone cannot tell, a file outside of it does."""

from __future__ import annotations

import json

import pytest
from bson import Int64
from upath import UPath

from mongo_ops import audit
from mongo_ops.audit import anchors
from mongo_ops.audit.log import HEADS
from mongo_ops.storage import AlreadyWrittenError, create

LEDGER = "ops_erasure_ledger"


@pytest.fixture
def folder(tmp_path):
    return UPath(tmp_path / "anchors")


def record(db, number=1, log=audit.AUDIT_LOG):
    for n in range(number):
        entry = audit.AuditEntry(
            action="a", entity_type="t", entity_id=n, environment="development", result="done", actor="Ada Example"
        )
        audit.record(db, entry, log=log)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_chain_is_anchored_once_per_head_and_checked_against_the_newest(target, folder):
    record(target.db, 3)
    record(target.db, 1, LEDGER)

    first = {one.log: one for one in anchors.anchor(target, folder)}
    again = anchors.anchor(target, folder)
    record(target.db, 2)
    later = {one.log: one for one in anchors.anchor(target, folder)}

    assert {log: (one.newest, one.seen.head_seq) for log, one in first.items()} == {
        "audit_log": (None, 3),
        LEDGER: (None, 1),
    }
    assert [one.written for one in again] == [None, None]
    assert later["audit_log"].newest.seq == 3
    assert (later["audit_log"].written is not None, later[LEDGER].written) == (True, None)
    kept = [json.loads(path.read_text()) for path in files(folder)]
    assert sorted((one["log"], one["seq"], one["previous"]) for one in kept) == [
        ("audit_log", 3, None), ("audit_log", 5, 3), (LEDGER, 1, None),
    ]  # fmt: skip
    assert "Ada" not in "".join(path.read_text() for path in files(folder))


def test_erased_values_leave_the_anchors_true(target, folder):
    record(target.db, 3)
    anchors.anchor(target, folder)

    assert audit.erase_personal(target.db, None, {}) == 3

    (seen,) = anchors.anchor(target, folder)
    assert (seen.seen.ok, seen.seen.erased_values) == (True, 3)


def cut_off(db):
    db.audit_log.delete_one({"chain.seq": 3})
    last = db.audit_log.find_one({"chain.seq": 2})["chain"]["hash"]
    db[HEADS].update_one({"_id": "audit_log"}, {"$set": {"seq": Int64(2), "hash": last}})


def written_anew(db):
    cut_off(db)
    audit.log._prepared.clear()
    record(db, 2)


def dropped(db):
    db.audit_log.drop()
    db[HEADS].drop()


@pytest.mark.parametrize("tamper", [cut_off, written_anew, dropped])
def test_what_the_database_alone_cannot_tell_is_found_and_not_anchored(target, folder, tamper):
    record(target.db, 3)
    anchors.anchor(target, folder)
    tamper(target.db)
    assert audit.verify(target.db).ok, "the chain alone looks whole"

    (seen,) = anchors.anchor(target, folder)

    assert (seen.seen.ok, seen.written) == (False, None)
    assert len(files(folder)) == 1


def test_looking_only_writes_nothing_and_a_foreign_file_is_refused(target, folder):
    record(target.db, 1)
    (seen,) = anchors.anchor(target, folder, only_look=True)
    assert (seen.seen.ok, seen.written, folder.exists()) == (True, None, False)

    anchors.anchor(target, folder)
    (mine,) = files(folder)
    with pytest.raises(AlreadyWrittenError):
        create(mine, b"{}")
    create(mine.parent / ("9" * anchors.DIGITS + "-0.json"), b"{}")
    with pytest.raises(anchors.AnchorDamagedError):
        anchors.anchor(target, folder)
