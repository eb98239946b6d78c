"""Imports: every row once, whatever is killed or bad; keys decide, and field names are data."""

from __future__ import annotations

import gzip
import json
from datetime import datetime

import bson
import pytest
import zstandard
from bson import Int64, ObjectId
from tests.mongo.transfers import Transfers, document, element, nested

from mongo_ops import audit, storage
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.lease import LEASES, Holder, LeaseHeldError, acquire
from mongo_ops.storage.load import RAW
from mongo_ops.transfer import engine, lane, manifest
from mongo_ops.transfer.compression import CompressionError
from mongo_ops.transfer.formats import base
from mongo_ops.transfer.formats.bsonfile import BrokenFileError
from mongo_ops.transfer.importing import ImportDiffersError, ImportRefusedError, ImportUnfinishedError
from mongo_ops.transfer.place import PlanChangedError
from mongo_ops.transfer.rejects import REJECTS, RowRefusedError, TooManyRejectsError
from mongo_ops.transfer.sources import SourceError


@pytest.fixture
def transfers(target, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return Transfers(target, storage.open_folder(folder.as_uri()))


@pytest.fixture
def small(monkeypatch):
    """Chunks of seven rows."""
    monkeypatch.setattr(base, "CHUNK_COUNT", 7)


def put(transfers, name, data):
    (transfers.folder / name).write_bytes(data)


def lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def exported(transfers, rows, **options):
    transfers.target.db.c.insert_many(rows)
    found = transfers.export("c", **options)
    transfers.target.db.c.drop()
    return found


# Modes ----------------------------------------------------------------------------------------------------------------


def test_rows_without_a_key_of_their_own_are_inserted_once(transfers, small):
    put(transfers, "c.jsonl", lines({"n": i} for i in range(100)))
    report = transfers.load("*.jsonl")
    assert (report.tally.inserted, report.tally.rejected) == (100, 0)
    assert sorted(row["n"] for row in transfers.target.db.c.find()) == list(range(100))


def test_upsert_replaces_by_key_and_adds_the_rest(transfers, small):
    db = transfers.target.db
    db.c.insert_many([{"_id": i, "email": f"e{i}", "old": 1} for i in range(20)])
    put(transfers, "c.jsonl", lines({"email": f"e{i}", "new": i} for i in range(10, 40)))
    tally = transfers.load("*", mode="upsert", keys=("email",)).tally
    assert (tally.inserted, tally.matched, tally.modified, tally.missing) == (20, 10, 10, 0)
    assert db.c.count_documents({}) == 40
    assert db.c.find_one({"email": "e15"}) == {"_id": 15, "email": "e15", "new": 15}
    assert db.c.count_documents({"old": 1}) == 10


def test_replace_leaves_out_what_is_not_there(transfers):
    db = transfers.target.db
    db.c.insert_many([{"_id": i, "old": 1} for i in range(5)])
    put(transfers, "c.jsonl", lines({"_id": i, "new": 1} for i in range(3, 8)))
    tally = transfers.load("*", mode="replace").tally
    assert (tally.inserted, tally.matched, tally.missing) == (0, 2, 3)
    assert list(db.c.find({"new": 1}, sort=[("_id", 1)])) == [{"_id": 3, "new": 1}, {"_id": 4, "new": 1}]


def test_merge_sets_the_fields_of_the_file(transfers):
    db = transfers.target.db
    db.c.insert_many([{"_id": i, "old": 1, "n": 0} for i in range(3)])
    put(transfers, "c.jsonl", lines({"_id": i, "n": i, "a.b": 1} for i in range(1, 5)))
    tally = transfers.load("*", mode="merge").tally
    assert (tally.inserted, tally.matched) == (2, 2)
    assert list(db.c.aggregate([{"$match": {"_id": 2}}])) == [{"_id": 2, "old": 1, "n": 2, "a.b": 1}]


@pytest.mark.parametrize("mode", ["insert", "upsert", "merge"])
def test_names_that_look_like_operators_are_data(transfers, mode):
    row = {"_id": {"$gt": 1}, "$set": {"admin": True}, "a": {"$where": "1"}, "x.y": "$name"}
    row = {"_id": {"k": 1}, **{name: row[name] for name in ("$set", "a", "x.y")}}
    put(transfers, "c.bson", bson.encode(row))
    transfers.target.db.c.insert_one({"_id": 1, "admin": False})
    assert transfers.load("*", mode=mode).tally.inserted == 1
    assert transfers.target.db.c.find_one({"_id": {"k": 1}}) == row
    assert transfers.target.db.c.find_one({"_id": 1}) == {"_id": 1, "admin": False}


def test_a_key_that_is_a_query_matches_only_itself(transfers):
    db = transfers.target.db
    db.c.insert_many([{"_id": 1, "k": 5}, {"_id": 2, "k": 7}])
    put(transfers, "c.jsonl", lines([{"k": {"$gt": 0}, "v": 1}]))
    assert transfers.load("*", mode="upsert", keys=("k",)).tally.inserted == 1
    assert db.c.count_documents({"k": {"$in": [5, 7]}, "v": {"$exists": False}}) == 2


def test_a_backup_goes_back_as_a_whole_with_indexes_and_validator(transfers):
    db = transfers.target.db
    db.create_collection("c", validator={"n": {"$type": "int"}})
    db.c.create_index([("n", -1), ("m", "text")], name="odd")
    db.c.create_index("u", unique=True, sparse=True)
    db.d.insert_many([{"_id": i} for i in range(10)])
    described = [dict(index) for index in db.c.list_indexes()]
    exported(transfers, [{"_id": i, "n": i} for i in range(50)], where={})
    for indexes in ("before", "after"):
        report = transfers.load(indexes=indexes, run_id=indexes)
        assert report.verified == ("c",)
        assert [dict(index) for index in db.c.list_indexes()] == described
        with pytest.raises(Exception, match="failed validation"):
            db.c.insert_one({"n": "x"})
        db.c.drop()


def test_collections_go_under_other_names(transfers):
    exported(transfers, [{"_id": 1}])
    assert transfers.load(collections={"c": "copy"}).verified == ("copy",)
    assert transfers.target.db.list_collection_names(filter={"name": "c"}) == []
    with pytest.raises(SourceError, match="no collection nope"):
        transfers.plan_import(collections={"nope": "x"})


# Exactly once ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: no handler of ours may run after it."""


@pytest.mark.parametrize("kind", ["plain", "time series", "capped"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_any_checkpoint_doubles_and_misses_nothing(transfers, small, monkeypatch, kind, moment):
    db = transfers.target.db
    options = {"time series": {"timeseries": {"timeField": "t"}}, "capped": {"capped": True, "size": 10**6}}.get(
        kind, {}
    )
    db.create_collection("c", **options)
    put(transfers, "c.jsonl", lines({"t": {"$date": f"2020-01-01T00:00:{i % 60:02}Z"}, "n": i} for i in range(60)))
    plan = transfers.plan_import("*", lanes=3)
    calls, real, state = 0, lane.Lane._save, {"kill": 1}

    def save(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == state["kill"] and moment == "before":
            raise Killed
        real(self, *arguments)
        if calls == state["kill"]:
            raise Killed

    monkeypatch.setattr(lane.Lane, "_save", save)
    kills = 0
    while True:
        calls = 0
        try:
            engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1")
            break
        except Killed:
            kills += 1
            state["kill"] = state["kill"] % 7 + 1
    assert kills >= 3
    assert sorted(row["n"] for row in db.c.find()) == list(range(60))
    report = transfers.finish(plan)
    assert report.tally.inserted == 60
    assert transfers.finish(plan) == report
    assert db[CHECKPOINTS].count_documents({}) == db[LEASES].count_documents({"_id": {"$regex": "^transfer/"}}) == 0
    assert [entry["action"] for entry in audit.log.entries(db).find()] == ["import.finished"]


def test_another_run_is_refused_while_one_loads(transfers):
    exported(transfers, [{"_id": 1}])
    plan = transfers.plan_import()
    with acquire(transfers.target.db, lane.checkpoint_id("load 1", 0, 0), Holder("somebody else")):
        with pytest.raises(LeaseHeldError):
            engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1")
    assert transfers.target.db.c.count_documents({}) == 0


def test_a_collection_made_anew_is_not_taken_for_the_half_loaded_one(transfers, small):
    exported(transfers, [{"_id": i} for i in range(30)])
    plan = transfers.plan_import()
    engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1")
    transfers.target.db.c.drop()
    with pytest.raises(PlanChangedError, match="dropped and made again"):
        engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1")


def test_finishing_early_and_finding_other_documents_are_refused(transfers):
    exported(transfers, [{"_id": i} for i in range(30)])
    plan = transfers.plan_import()
    with pytest.raises(ImportUnfinishedError, match="is not loaded yet"):
        transfers.finish(plan)
    engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1")
    transfers.target.db.c.update_one({"_id": 3}, {"$set": {"changed": 1}})
    with pytest.raises(ImportDiffersError, match="c holds 30 documents, 30 expected"):
        transfers.finish(plan)


# Bad rows -------------------------------------------------------------------------------------------------------------


def test_bad_rows_are_noted_with_line_offset_and_reason_and_the_rest_is_loaded(transfers, small):
    db = transfers.target.db
    db.create_collection("c", validator={"$jsonSchema": {"required": ["n"]}})
    db.c.insert_one({"_id": 5, "n": "first"})
    rows = [json.dumps({"_id": i, "n": i}) for i in range(40)]
    rows[3], rows[20], rows[30], rows[33] = "{broken", '{"_id": 20}', '{"_id": 29, "n": 0}', "[1]"
    put(transfers, "c.jsonl", "\n".join(rows).encode() + b"\n\n")
    report = transfers.load("*", on_error="reject", max_reject_share=1.0)

    rejected = transfers.rejected()
    assert [row["line"] for row in rejected] == [4, 6, 21, 31, 34]
    text = "\n".join(rows).encode()
    assert [text[row["offset"] :].split(b"\n")[0].decode() for row in rejected] == [rows[i] for i in (3, 5, 20, 30, 33)]
    assert [row["reason"] for row in rejected] == [
        "no valid Extended JSON document",
        "a document with the same _id exists already (code 11000)",
        "a document breaks the collection's validator: required n (code 121)",
        "a document with the same _id exists already (code 11000)",
        "no valid Extended JSON document",
    ]
    assert (report.tally.inserted, report.tally.rejected) == (35, 5)
    assert db.c.count_documents({}) == 36
    assert db.c.find_one({"_id": 5}) == {"_id": 5, "n": "first"}
    assert db[REJECTS].count_documents({}) == 0


def test_without_leave_the_first_bad_row_stops_the_run(transfers, small):
    put(transfers, "c.jsonl", lines({"_id": i} for i in range(20)) + b"{\n" + lines({"_id": i} for i in range(30, 40)))
    with pytest.raises(RowRefusedError, match=r"c.jsonl, row 21 \(offset 230\): no valid Extended JSON"):
        transfers.load("*", lanes=1)
    assert transfers.target.db.c.count_documents({}) <= 20


@pytest.mark.parametrize(
    ("limits", "rows"), [({"max_rejects": 3, "max_reject_share": 1.0}, 10), ({"max_reject_share": 0.2}, 2_000)]
)
def test_too_many_bad_rows_stop_the_run(transfers, limits, rows):
    put(transfers, "c.jsonl", lines([{"_id": i} for i in range(rows)] + [{"_id": i} for i in range(rows)]))
    for _ in range(2):  # a retry does not get further by and by
        with pytest.raises(TooManyRejectsError, match="the limits are"):
            transfers.load("*", on_error="reject", lanes=1, **limits)
        there = transfers.target.db.c.count_documents({})
    assert there == rows


def test_documents_that_the_server_refuses_whole_are_found_one_by_one(transfers):
    good = [bson.encode({"_id": i}) for i in range(50)]
    good[17] = document(element(0x10, b"_id", b"\x11\0\0\0"), element(3, b"d", nested(190)))
    put(transfers, "c.bson", b"".join(good))
    report = transfers.load("*", on_error="reject", max_reject_share=1.0)
    assert transfers.target.db.c.count_documents({}) == 49
    assert [row["line"] for row in transfers.rejected()] == [18]
    assert report.tally.rejected == 1


def test_validation_can_be_bypassed(transfers):
    transfers.target.db.create_collection("c", validator={"n": {"$exists": True}})
    put(transfers, "c.jsonl", lines([{"_id": 1}]))
    assert transfers.load("*", validation="bypass").tally.inserted == 1


def test_tombstones_keep_documents_out(transfers, small):
    exported(transfers, [{"_id": i, "subject": i % 4} for i in range(100)])
    report = transfers.load(refuse=lambda raw: bson.decode(raw)["subject"] == 3)
    assert (report.tally.inserted, report.tally.erased, report.tally.content.count) == (75, 25, 75)
    assert transfers.target.db.c.count_documents({"subject": 3}) == 0
    assert transfers.target.db.c.count_documents({}) == 75
    assert report.verified == ("c",)


# Files that are not what they should be -------------------------------------------------------------------------------


def part_file(transfers, found):
    return transfers.folder / found.collections[0].parts[0].file


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "longer"])
def test_a_damaged_part_is_found_before_anything_is_loaded(transfers, damage):
    file = part_file(transfers, exported(transfers, [{"_id": i, "x": "y" * 50} for i in range(200)]))
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        changed = {"cut": data[:-5], "changed": data, "longer": data + b"\0"}[damage]
        file.write_bytes(bytes(changed))
    with pytest.raises(manifest.ExportCorruptError, match="Get it back from a copy"):
        transfers.load()
    assert transfers.target.db.c.count_documents({}) == 0
    assert not engine.verify_export(transfers.folder).ok


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\x/y", "a/b/c", "c/.hidden", "c/..", "./x"]
)
def test_a_manifest_that_leads_out_of_its_folder_is_refused(transfers, name):
    exported(transfers, [{"_id": 1}])
    path = transfers.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["collections"][0]["parts"][0]["file"] = name
    content["manifest_sha256"] = storage.ejson.seal(content)
    path.write_text(json.dumps(content))
    with pytest.raises(manifest.ExportCorruptError, match="leads out of its folder"):
        transfers.plan_import()


def test_an_edited_manifest_is_refused(transfers):
    exported(transfers, [{"_id": 1}])
    path = transfers.folder / "manifest.json"
    path.write_text(path.read_text().replace('"database"', '"database" ', 1).replace('"count": 1', '"count": 2', 1))
    with pytest.raises(manifest.ExportCorruptError, match="was changed after it was written"):
        transfers.plan_import()


def zstd(data):
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    ("name", "data", "error", "sentence"),
    [
        ("c.bson", bson.encode({"_id": 1}) + b"\x20\0\0", BrokenFileError, "document 2 .* cut off"),
        ("c.bson", bson.encode({"_id": 1}) + b"\x20\0\0\0abc", BrokenFileError, "document 2 .offset 14. is cut off"),
        ("c.bson", b"\xff\xff\xff\xff" + bytes(20), BrokenFileError, "document 1 .* is no BSON"),
        ("c.bson", b"\x00\x00\x00\x7f" + bytes(20), BrokenFileError, "document 1 .* is no BSON"),
        ("c.jsonl", '{"_id": 1}'.encode("utf-16"), BrokenFileError, "UTF-16"),
        ("c.json", b'[{"_id": 1}, {"_id": 2}', BrokenFileError, "the array does not end"),
        ("c.json", b'[{"_id": 1}] [', BrokenFileError, "behind the array's end"),
        ("c.jsonl.gz", gzip.compress(b'{"_id": 1}\n', mtime=0)[:-4], CompressionError, "cut off"),
        ("c.jsonl.gz", gzip.compress(b'{"_id": 1}\n' * 999, mtime=0)[:-30] + b"x" * 30, CompressionError, "damaged|cut off"),
        ("c.jsonl.gz", b'{"_id": 1}\n', CompressionError, "not a gz file"),
        ("c.jsonl.gz", b"", CompressionError, "cut off"),
        ("c.bson.zst", zstd(bson.encode({"_id": 1}))[:-3], CompressionError, "cut off"),
        ("c.bson.zst", b"\x28\xb5\x2f\xfdxxxxxxxxxxx", CompressionError, "damaged"),
        ("c.bson.zst", bson.encode({"_id": 1}), CompressionError, "not a zst file"),
        ("c.jsonl.zst", zstd(b" " * 300_000_000), CompressionError, "swells"),
        ("c.jsonl.gz", gzip.compress(b"\n" * 300_000_000, 1, mtime=0), CompressionError, "swells"),
        ("c.xml", b"<a/>", SourceError, "does not tell a format"),
    ],
)  # fmt: skip
def test_hostile_files_are_named(transfers, name, data, error, sentence):
    put(transfers, name, data)
    with pytest.raises(error, match=sentence):
        transfers.load("*", on_error="reject")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"_id": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "the server refused the command|nested too deeply"),
        (b'{"_id": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "nested more than"),
        (b'{"_id": "\xff\xfe"}', "not UTF-8"),
        (b'{"a": {"$oid": 5}}', "no valid Extended JSON"),
        (b"NaN", "no valid Extended JSON"),
        (b'{"a": {"$numberInt": "99999999999"}}', "no valid Extended JSON"),
        (b'{"a": 1} {"b": 2}', "no valid Extended JSON"),
        (b'{"a": 1}, "b": {}', "no valid Extended JSON"),
        (b'{"a": 1}}', "no valid Extended JSON"),
        (b"[1]", "no valid Extended JSON"),
    ],
)
def test_hostile_rows_are_rejected_with_a_reason(transfers, text, reason):
    import re

    put(transfers, "c.jsonl", b'{"_id": 1}\n' + text + b'\n{"_id": 2}\n')
    transfers.load("*", on_error="reject", max_reject_share=1.0)
    assert sorted(row["_id"] for row in transfers.target.db.c.find()) == [1, 2]
    (row,) = transfers.rejected()
    assert row["line"] == 2
    assert re.search(reason, row["reason"])


def test_a_bomb_is_stopped_before_it_fills_the_memory(transfers):
    import subprocess
    import sys

    put(transfers, "c.jsonl.zst", zstandard.ZstdCompressor(level=19).compress(bytes(2_000_000_000)))
    code = "import sys; from tests.mongo import transfers\ntry: transfers.main()\nexcept Exception as e: print(type(e).__name__)\n"
    code += "print(transfers.peak_megabytes())"
    plan = transfers.plan_import("*").as_value()
    process = transfers.process(do="import", plan=plan, run_id="load 1")
    process.kill()
    process.communicate()
    done = subprocess.run([sys.executable, "-c", code, process.args[-1]], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:2] == ["CompressionError"]
    assert int(done.stdout.split()[-1]) < 300


def test_bson_of_others_is_looked_into(transfers):
    latin = document(element(0x10, b"_id", b"\2\0\0\0"), element(2, b"s", b"\2\0\0\0\xff\0"))
    wrong = document(element(0x10, b"_id", b"\3\0\0\0"), element(2, b"s", b"\x40\0\0\0x\0"))
    unknown = document(element(0x10, b"_id", b"\4\0\0\0"), element(0x44, b"s", b"\0"))
    put(transfers, "c.bson", bson.encode({"_id": 1}) + latin + wrong + unknown + bson.encode({"_id": 5}))
    transfers.load("*", on_error="reject", max_reject_share=1.0)
    assert sorted(row["_id"] for row in transfers.target.db.c.find()) == [1, 5]
    assert [row["line"] for row in transfers.rejected()] == [2, 3, 4]


def test_a_dropped_pattern_cannot_leave_the_folder(transfers):
    for pattern in ("../*", "/etc/*", "a/../../*"):
        with pytest.raises(SourceError, match="inside"):
            transfers.plan_import(pattern)
    with pytest.raises(SourceError, match="no file to import"):
        transfers.plan_import("*.bson")


# What other tools write -----------------------------------------------------------------------------------------------


def test_files_of_mongoexport_and_mongodump_are_read(transfers):
    put(
        transfers,
        "users.json",
        b'{"_id":{"$oid":"5f0000000000000000000001"},"n":{"$numberLong":"5"},"d":{"$date":"2020-01-01T00:00:00Z"}}\n',
    )
    put(transfers, "tracks.bson.gz", gzip.compress(bson.encode({"_id": 1, "x": Int64(2)})))
    put(transfers, "tracks.metadata.json.gz", gzip.compress(b"{}"))
    put(transfers, "array.json", b'\xef\xbb\xbf [ {"_id": 1, "s": "],}\\"["},\n {"_id": 2, "a": [1, [2]]} ]\n')
    report = transfers.load("*")
    db = transfers.target.db
    assert set(report.collections) == {"users", "tracks", "array"}
    assert db.users.find_one() == {
        "_id": ObjectId("5f0000000000000000000001"), "n": 5, "d": datetime.fromisoformat("2020-01-01T00:00:00+00:00"),
    }  # fmt: skip
    assert isinstance(db.users.with_options(codec_options=RAW).find_one()["n"], Int64)
    assert list(db.array.find(sort=[("_id", 1)])) == [{"_id": 1, "s": '],}"['}, {"_id": 2, "a": [1, [2]]}]
    assert db.tracks.find_one() == {"_id": 1, "x": 2}


def test_array_members_that_are_none_are_rejected(transfers):
    put(transfers, "c.json", b'[{"_id": 1}, 5, , {"_id": 2}, "x"]')
    transfers.load("*", on_error="reject", max_reject_share=1.0)
    assert [row["line"] for row in transfers.rejected()] == [2, 3, 5]
    assert transfers.target.db.c.count_documents({}) == 2


# The plan -------------------------------------------------------------------------------------------------------------


def test_the_plan_shows_what_is_there_and_the_preview_what_would_clash(transfers):
    db = transfers.target.db
    rows = [{"_id": i, "n": i, "m": "x"} for i in range(50)]
    exported(transfers, rows)
    db.create_collection("c", validator={"n": {"$gte": 5}})
    db.c.insert_many([{"_id": i, "n": 9} for i in range(10)])
    plan = transfers.plan_import()
    assert plan.notes == ("c is there already, with about 10 documents.",)
    (seen,) = engine.preview_import(transfers.target, transfers.folder, plan)
    assert (seen.rows, seen.present, seen.invalid, seen.rejected) == (50, 10, 5, 0)
    assert seen.fields == {"_id": ("int",), "n": ("int",), "m": ("str",)}
    assert transfers.plan_import(mode="upsert").digest != plan.digest


def test_what_cannot_be_loaded_is_refused_in_the_plan(transfers):
    db = transfers.target.db
    exported(transfers, [{"_id": 1}])
    db.command("create", "v", viewOn="c", pipeline=[])
    with pytest.raises(ImportRefusedError, match="v is a view"):
        transfers.plan_import(collections={"c": "v"})
    db.create_collection("capped", capped=True, size=1000)
    with pytest.raises(ImportRefusedError, match="only mode insert"):
        transfers.plan_import(collections={"c": "capped"}, mode="upsert")
    with pytest.raises(ImportRefusedError, match="keys must name"):
        transfers.plan_import(keys=("$where",))
