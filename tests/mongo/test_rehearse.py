"""Rehearsal on a real server: what goes well, every document in the way, and that the real database is never written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bson import ObjectId, Timestamp

from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import engine, picture, rehearse, scratch
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.plan import ChecksumDriftError
from mongo_ops.migrations.scratch import ScratchRefusedError
from mongo_ops.mongo.connection import ConnectionSpec
from mongo_ops.mongo.documents import set_digest
from mongo_ops.mongo.lease import Holder
from mongo_ops.storage import open_folder

INCLUDE = Path(__file__).parents[2] / "include"
MARKER = "Ada.Lovelace@example.org"
STRICT = 'CreateCollection("people", validator={"age": {"$not": {"$gt": 90}}})'


@pytest.fixture
def spec(replica_set, target):
    return ConnectionSpec("mongo_development", replica_set.uri, replica_set.nodes[0].address, target.database)


@pytest.fixture
def include(tmp_path):
    (tmp_path / "migrations").mkdir()
    return tmp_path


@pytest.fixture
def people(db):
    """A collection with three types of _id, and a personal value in every document."""
    keys = [(i, f"{MARKER}/{i}", ObjectId(f"{i:024x}"))[i % 3] for i in range(300)]
    db.people.insert_many([{"_id": key, "mail": f"{i}/{MARKER}", "age": i, "plays": i} for i, key in enumerate(keys)])
    return db.people


def write(include, name, operations, rest="", before=""):
    text = f'''
    """About {name}."""
    from mongo_ops.migrations import *

    {before}
    migration = Migration(operations=[{operations}], {rest})
    '''
    (include / "migrations" / f"{name}.py").write_text(textwrap.dedent(text))


def function(body):
    """Return lines for ``before``: a function named forward, and one named back."""
    return body.replace("\n", "\n    ")


def migrate(target, include, version=None):
    facts = engine.survey(target, include)
    losses = Losses(open_folder((include / "losses").as_uri() if include != INCLUDE else target.environment.storage))
    with engine.open_run(target, Occasion(Actor("ada", "os"), "run 1"), losses, holder=Holder("ada")) as run:
        return list(engine.apply_all(run, facts, engine.plan_forward(target, facts, version=version).names))


def digests(db):
    return {name: set_digest(db[name].find()) for name in db.list_collection_names()}


def rehearsed(spec, target, include, **options):
    """Rehearse, and prove that the real database was not written and nothing is left."""
    before, since = digests(target.db), now(target)
    try:
        return rehearse.rehearse(spec, target.environment, include, **options)
    finally:
        assert digests(target.db) == before
        written = target.client.local["oplog.rs"].find({"ts": {"$gt": since}, "op": {"$ne": "n"}})
        assert {op["ns"] for op in written if re.match(rf"{target.database}\.", op["ns"])} == set()
        assert scratches(target) == []


def now(target) -> Timestamp:
    return target.client.admin.command("hello")["operationTime"]


def scratches(target):
    return [name for name in target.client.list_database_names() if name.startswith(f"{target.database}_rehearsal_")]


def said_nothing_personal(found):
    return MARKER not in json.dumps(found.as_json()) and MARKER not in found.as_text()


def test_the_reference_model_goes_up_down_and_up_on_an_empty_database(spec, target):
    found = rehearsed(spec, target, INCLUDE)

    assert found.ok, found.as_text()
    assert len(found.migrations) == len(list((INCLUDE / "migrations").glob("0*.py")))
    assert {(m.up, m.down, m.again) for m in found.migrations} == {("done", "done", "done")}
    assert target.db.list_collection_names() == []


@pytest.mark.chaos
def test_the_rest_of_the_reference_model_goes_up_down_and_up_on_documents(spec, target, db):
    migrate(target, INCLUDE, "002")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    db.users.insert_many(
        [{"email": f"u{i}@example.org", "display_name": f"U {i}", "created_at": at} for i in range(40)]
    )
    db.artists.insert_many([{"name": f"A {i}", "genre": ("Rock", "jazz", "POP")[i % 3]} for i in range(30)])

    found = rehearsed(spec, target, INCLUDE)

    assert found.ok, found.as_text()
    by_name = {m.name[:3]: m.counts for m in found.migrations}
    assert by_name["003"] == {"matched": 40 + 30 + 30, "modified": 40 + 30 + 30}
    assert by_name["007"] == {"matched": 20, "modified": 20}
    assert found.sampled["users"].documents == 40


def test_nothing_pending_is_nothing_to_rehearse(spec, target, include):
    found = rehearsed(spec, target, include)
    assert (found.ok, found.migrations, found.as_text()[:19]) == (True, (), "Nothing to rehearse")


def test_a_sample_has_both_ends_and_the_asked_size(target, db, people):
    name = f"{target.database}_rehearsal_00000000"
    copy = target.client[name]
    try:
        done = scratch.copy(db, copy, "people", 50)
        keys = {str(row["_id"]) for row in copy.people.find({}, {"_id": 1})}
        ends = [next(people.find().sort("_id", way).limit(1))["_id"] for way in (1, -1)]
        assert 40 <= done.documents == len(keys) <= 50
        assert done.total == 300
        assert {str(end) for end in ends} <= keys
        assert scratch.copy(db, copy, "absent", 50) is None
        assert scratch.copy(db, copy, "people", None).documents == 300 - len(keys)
        assert set_digest(copy.people.find()) == set_digest(people.find())
    finally:
        target.client.drop_database(name)


def test_documents_that_break_their_own_validator_are_copied_too(spec, target, db, include, people):
    db.command({"collMod": "people", "validator": {"age": {"$lt": 10}}, "validationLevel": "moderate"})
    write(include, "001_index", 'CreateIndex("people", keys=[("age", 1)])')
    assert rehearsed(spec, target, include).sampled["people"].documents == 300


@pytest.mark.chaos
def test_every_value_that_cannot_be_converted_is_listed(spec, target, people, include):
    wrong = [row["_id"] for row in people.find().sort("age", 1)][::7]
    people.update_many({"_id": {"$in": wrong}}, {"$set": {"age": MARKER}})
    write(include, "001_before", 'AddField("people", "status", value="active")')
    write(
        include, "002_convert", 'ConvertField("people", "age", to="string"), ConvertField("people", "age", to="long")'
    )
    write(include, "003_after", 'AddField("people", "more", value=1)')

    found = rehearsed(spec, target, include)

    assert not found.ok
    assert [m.up for m in found.migrations] == ["done", "failed", "not reached"]
    assert sorted(f.document for f in found.failures) == sorted(map(picture.shown, wrong))
    assert len(found.failures) == 43
    assert {f.collection for f in found.failures} == {"people"}
    assert said_nothing_personal(found)
    assert sum(f.document.startswith("sha256:") for f in found.failures) == 14


def test_every_document_that_a_validator_refuses_is_listed_whether_by_setting_it_or_by_walking(
    spec, target, people, include
):
    write(include, "001_strict", 'SetValidator("people", {"age": {"$lt": 280}})')
    found = rehearsed(spec, target, include)
    assert sorted(f.document for f in found.failures) == sorted(
        picture.shown(r["_id"]) for r in people.find({"age": {"$gte": 280}})
    )
    assert "validator" in found.failures[0].reason

    people.database.command({"collMod": "people", "validator": {"plays": {"$lt": 290}}})
    write(include, "001_strict", 'Backfill("people", {"$inc": {"plays": 5}}, revert={"$inc": {"plays": -5}})')
    found = rehearsed(spec, target, include)
    assert sorted(f.document for f in found.failures) == sorted(
        picture.shown(r["_id"]) for r in people.find({"plays": {"$gte": 285}})
    )
    assert len(found.failures) == 15


def test_every_document_in_the_way_of_a_unique_key_is_listed(spec, target, people, include):
    people.update_many({"age": {"$gte": 290}}, {"$set": {"age": 5}})
    write(include, "001_unique", 'CreateIndex("people", keys=[("age", 1)], unique=True)')
    found = rehearsed(spec, target, include)
    assert len(found.failures) == 10  # eleven share the key, and one of them may keep it
    assert "exists already" in found.failures[0].reason

    people.create_index("mail", unique=True)
    write(
        include, "001_unique", 'Backfill("people", [{"$set": {"mail": {"$mod": ["$plays", 100]}}}], revert="snapshot")'
    )
    found = rehearsed(spec, target, include)
    assert len(found.failures) == 200  # each fits alone, but only a hundred fit together
    assert said_nothing_personal(found)


def test_a_function_that_stumbles_over_documents_has_them_all_listed(spec, target, people, include):
    before = function("""
def forward(ctx):
    for row in ctx.db.people.find({"age": {"$gte": 0}}):
        if row["age"] % 60 == 59:
            raise ValueError(row["mail"])
        ctx.db.people.update_one({"_id": row["_id"]}, {"$set": {"half": row["age"] / 2}})
""")
    write(include, "001_python", 'RunPython(forward, collections=("people",))', before=before)
    found = rehearsed(spec, target, include)
    wrong = [59, 119, 179, 239, 299]
    assert sorted(f.document for f in found.failures) == sorted(
        picture.shown(people.find_one({"age": age})["_id"]) for age in wrong
    )
    assert "ValueError at 001_python.py" in found.failures[0].reason
    assert said_nothing_personal(found)


def test_given_documents_that_differ_and_conditions_that_do_not_hold_are_listed(spec, target, people, include):
    write(include, "001_insert", 'InsertDocuments("people", [{"_id": i, "new": 1} for i in (3, 1000, 6)])')
    assert [f.document for f in rehearsed(spec, target, include).failures] == ["3", "6"]
    write(
        include, "001_insert", 'AddField("people", "x", value=1)', 'ensures=[NoneMatch("people", {"age": {"$lt": 4}})]'
    )
    found = rehearsed(spec, target, include)
    assert len(found.failures) == 4
    assert found.migrations[0].up == "failed"


def test_no_more_than_a_thousand_are_listed_and_that_is_said(spec, target, db, include):
    db.many.insert_many([{"_id": i, "age": "x"} for i in range(1_500)])
    write(include, "001_convert", 'SetValidator("many", {"age": {"$type": "number"}})')
    found = rehearsed(spec, target, include, sample=None)
    assert (len(found.failures), found.migrations[0].truncated) == (1_000, True)
    assert "and 980 more at least" in found.as_text()


def test_a_reverse_that_does_not_lead_back_is_told_document_by_document(spec, target, people, include):
    before = function("""
def forward(ctx):
    ctx.db.people.update_many({"age": {"$lt": 5}}, {"$inc": {"plays": 1}})

def back(ctx):
    ctx.db.people.update_many({"age": {"$lt": 2}}, {"$inc": {"plays": -1}})
    ctx.db.people.delete_one({"age": 200})
    ctx.db.people.insert_one({"_id": 12345})
""")
    write(include, "001_python", 'RunPython(forward, reverse=back, collections=("people",))', before=before)
    found = rehearsed(spec, target, include).migrations[0]
    assert (found.up, found.down) == ("done", "differs")
    told = {(d.kind, d.count) for d in found.differences}
    assert {("changed", 3), ("missing", 1), ("extra", 1)} <= told
    changed = next(d for d in found.differences if d.kind == "changed")
    assert sorted(changed.documents) == sorted(picture.shown(people.find_one({"age": age})["_id"]) for age in (2, 3, 4))


def test_a_forgotten_index_and_a_second_up_that_differs_are_told(spec, target, people, include):
    before = function("""
import secrets
def forward(ctx):
    ctx.db.people.update_one({"age": 7}, {"$set": {"token": secrets.token_hex(8)}})

def back(ctx):
    ctx.db.people.update_one({"age": 7}, {"$unset": {"token": 1}})
""")
    write(include, "001_python", 'RunPython(forward, reverse=back, collections=("people",))', before=before)
    command = '{"createIndexes": "people", "indexes": [{"key": {"age": 1}, "name": "a"}]}'
    write(include, "002_index", f'RunCommand({command}, reverse_command={{"ping": 1}})')
    found = rehearsed(spec, target, include)
    one, two = found.migrations
    assert (one.down, one.again, [(d.kind, d.count) for d in one.differences]) == ("done", "differs", [("changed", 1)])
    assert (two.down, [(d.collection, d.kind) for d in two.differences]) == ("differs", [("people", "definition")])


def test_an_irreversible_one_is_named_and_the_rest_goes_on(spec, target, people, include):
    write(include, "001_forget", 'Backfill("people", {"$unset": {"plays": 1}})', 'irreversible="plays are gone"')
    write(include, "002_add", 'AddField("people", "x", value=1)')
    found = rehearsed(spec, target, include)
    assert found.ok
    assert (found.migrations[0].irreversible, found.migrations[0].down) == ("plays are gone", "skipped")
    assert found.migrations[1].down == "done"
    assert "cannot be undone: plays are gone" in found.as_text()


def test_what_is_destroyed_comes_back(spec, target, people, include):
    people.create_index("age", name="by_age")
    write(include, "001_drop", 'DropCollection("people")')
    write(include, "002_rename", 'CreateCollection("people"), RenameCollection("people", "persons")')
    found = rehearsed(spec, target, include)
    assert found.ok, found.as_text()
    assert found.migrations[0].counts == {"deleted": 300}


def test_a_half_done_migration_is_resumed_on_the_copy(spec, target, db, people, include):
    people.update_one({"age": 290}, {"$set": {"age": "x"}})
    operations = 'Backfill("people", {"$inc": {"plays": 1}}, revert={"$inc": {"plays": -1}}), ConvertField("people", "age", to="long")'
    write(include, "001_half", operations)
    with pytest.raises(MongoOpsError):
        migrate(target, include)
    assert len(rehearsed(spec, target, include).failures) == 1
    people.update_one({"age": "x"}, {"$set": {"age": 290}})

    found = rehearsed(spec, target, include)

    assert found.ok, found.as_text()
    assert found.migrations[0].resumes
    assert found.migrations[0].counts == {"matched": 300, "modified": 300}  # only the conversion: the increment is done


@pytest.mark.parametrize(
    "body",
    [
        'ctx._plain.client[ctx._plain.name.partition("_rehearsal")[0]].people.delete_many({})',
        'ctx._plain.people.aggregate([{"$out": {"db": ctx._plain.name.partition("_rehearsal")[0], "coll": "people"}}])',
        'ctx._plain.client.admin.command({"renameCollection": ctx._plain.name + ".people", "to": "elsewhere.people"})',
    ],
)
def test_a_write_to_the_real_database_is_refused_on_the_wire(spec, target, people, include, body):
    write(include, "001_raw", "RunPython(forward, reverse=forward, batched=True)", before=f"def forward(ctx): {body}")
    found = rehearsed(spec, target, include).migrations[0]
    assert found.up == "failed"
    assert "The rehearsal refused it" in found.error
    assert people.count_documents({}) == 300


def test_a_plan_that_is_not_valid_is_no_rehearsal(spec, target, people, include):
    write(include, "001_add", 'AddField("people", "x", value=1)')
    migrate(target, include)
    write(include, "001_add", 'AddField("people", "y", value=1)')
    with pytest.raises(ChecksumDriftError):
        rehearsed(spec, target, include)


def test_a_user_who_may_not_make_a_database_is_told(spec, target, people, include):
    write(include, "001_add", 'AddField("people", "x", value=1)')
    fault = {"failCommands": ["create"], "errorCode": 13}
    target.client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": fault})
    with pytest.raises(ScratchRefusedError, match="readWriteAnyDatabase"):
        rehearsed(spec, target, include)


def test_the_scratch_database_goes_with_sigterm(spec, target, people, include):
    write(
        include,
        "001_slow",
        "RunPython(forward, batched=True, collections=('people',))",
        before="import time\ndef forward(ctx): time.sleep(60)".replace("\n", "\n    "),
    )
    code = f"""
from pathlib import Path
from mongo_ops.migrations.rehearse import rehearse
from mongo_ops.mongo.connection import ConnectionSpec
from mongo_ops.settings import Environment
rehearse(ConnectionSpec("m", {spec.uri!r}, "h", {target.database!r}), Environment("development", "m", {target.database!r}), Path({str(include)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 30
    while (
        not any(target.client[n].people.count_documents({}) == 300 for n in scratches(target))
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert len(scratches(target)) == 1
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert scratches(target) == []


def test_what_a_killed_rehearsal_left_behind_goes_with_the_next_and_nothing_else_does(target, db, people):
    old, live, alien = (f"{target.database}_rehearsal_{end}" for end in ("0000aaaa", "0000bbbb", "customers"))
    for name, minutes in ((old, 20), (live, 1), (alien, 20)):
        row = {"_id": "rehearsal", "renewed_at": datetime.fromtimestamp(time.time() - 60 * minutes, UTC)}
        target.client[name].ops_leases.insert_one(row)
    try:
        assert scratch.sweep(target.client, target.database) == (old,)
        assert sorted(scratches(target)) == [live, alien]
    finally:
        for name in (old, live, alien):
            target.client.drop_database(name)
