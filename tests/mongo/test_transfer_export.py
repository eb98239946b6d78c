"""Exports: every document once, byte for byte, at one moment; finished exports are never overwritten."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import uuid
from datetime import datetime
from pathlib import Path

import bson
import pytest
import zstandard
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo import WriteConcern
from tests.mongo.transfers import Transfers, document, element, nested, silent

from mongo_ops import audit, storage
from mongo_ops.mongo.documents import CODEC, digest
from mongo_ops.storage.load import RAW
from mongo_ops.transfer import engine, export_run, manifest, place, reading, survey
from mongo_ops.transfer.content import of_documents
from mongo_ops.transfer.export import PartMissingError
from mongo_ops.transfer.export_run import SnapshotGoneError
from mongo_ops.transfer.place import DestinationBusyError
from mongo_ops.transfer.plan import ExportRefusedError

VALUES = [
    math.nan, math.inf, -math.inf, -0.0, 0.1, 5e-324, 1 / 3, 1e300, 5, Int64(5), 2**31 - 1, -(2**63), "", "\0", "ümlaut \U0001f600 \u2028\x01",
    None, True, False, MinKey(), MaxKey(), Decimal128("NaN"), Decimal128("-Infinity"), Decimal128("-0"), Decimal128("1E+6000"),
    Decimal128("1.0"), DatetimeMS(-1), DatetimeMS(-(10**14)), DatetimeMS(253_402_300_800_000), DatetimeMS(2**62), {}, [], [[], {}, [{}]],
    Code("f"), Code("f", {"a": 1}), Regex('a/b"', "imx"), Timestamp(1, 2), Timestamp(2**32 - 1, 2**32 - 1), Binary(b"", 0), Binary(b"x", 2),
    Binary(b"x" * 16, 4), Binary(b"x", 128), ObjectId(), {"$foo": 1}, {"a.b": {"$c.d": 1}}, {"$ref": "c", "$id": 1}, {"": {"": ""}}, " ... ",
]  # fmt: skip
ODD = [
    document(
        element(0x10, b"_id", b"\xa0\x0f\0\0"), element(0x10, b"a", b"\1\0\0\0"), element(0x10, b"a", b"\2\0\0\0")
    ),
    document(element(0x10, b"_id", b"\xa1\x0f\0\0"), element(0x06, b"undefined")),
    document(element(0x10, b"_id", b"\xa2\x0f\0\0"), element(0x0E, b"symbol", b"\2\0\0\0x\0")),
    document(element(0x10, b"_id", b"\xa3\x0f\0\0"), element(0x0C, b"pointer", b"\2\0\0\0c\0" + b"x" * 12)),
    document(element(0x10, b"_id", b"\xa4\x0f\0\0"), element(3, b"deep", nested(100))),
]


@pytest.fixture
def transfers(target, tmp_path):
    return Transfers(target, storage.open_folder((tmp_path / "out").as_uri()))


def fill_odd(transfers, name="odd"):
    transfers.insert_raw(name, [*(bson.encode({"_id": i, "v": value}) for i, value in enumerate(VALUES)), *ODD])
    return transfers.raw(name)


def files(transfers):
    return sorted(str(path) for path in transfers.folder.fs.find(transfers.folder.path))


def read_all(transfers, found, name):
    """The documents in an export's bson.zst files, by other means."""
    kept = []
    for part in found.collection(name).parts:
        data = (transfers.folder / part.file).read_bytes()
        stream = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        at = 0
        while at < len(stream):
            size = int.from_bytes(stream[at : at + 4], "little")
            kept.append(stream[at : at + size])
            at += size
    return kept


# Exactness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bson", "bson.zst", "bson.gz", "jsonl.zst", "jsonl.gz", "jsonl"])
def test_every_value_comes_back_byte_for_byte(transfers, form):
    before = fill_odd(transfers)
    assert len(before) == len(VALUES) + len(ODD)

    found = transfers.export("odd", format=form, json_mode="canonical")
    transfers.target.db.odd.drop()
    report = transfers.load()

    assert transfers.raw("odd") == before
    assert found.total.digest == of_documents(before).digest == transfers.content("odd").digest
    assert (report.tally.inserted, report.verified, report.differences) == (len(before), ("odd",), ())
    assert engine.verify_export(transfers.folder).ok


def test_relaxed_lines_say_what_other_tools_read(transfers):
    transfers.target.db.c.insert_one(
        {"_id": 1, "n": Int64(7), "d": datetime(2020, 1, 2), "x": 1.5, "o": ObjectId("0" * 24)}
    )
    transfers.export("c", format="jsonl")
    (file,) = [path for path in files(transfers) if path.endswith(".jsonl")]
    with Path(file).open(encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == [
            {"_id": 1, "n": 7, "d": {"$date": "2020-01-02T00:00:00Z"}, "x": 1.5, "o": {"$oid": "0" * 24}}
        ]


@pytest.mark.parametrize("value", [{"$oid": 1}, {"$numberLong": "5"}, {"$date": "x"}])
def test_what_extended_json_cannot_say_is_refused_and_bson_takes_it(transfers, value):
    transfers.insert_raw("c", [bson.encode({"_id": 1, "v": value})])
    with pytest.raises(engine_error("NotExpressibleError"), match="Export as bson"):
        transfers.export("c", format="jsonl.zst", json_mode="canonical")
    assert engine.discard_export(transfers.folder)
    assert transfers.export("c", format="bson").total.count == 1


def engine_error(name):
    from mongo_ops.transfer.formats import jsonl

    return getattr(jsonl, name)


def test_text_that_is_not_utf8_is_refused_for_json_and_kept_in_bson(transfers):
    broken = document(element(0x10, b"_id", b"\1\0\0\0"), element(2, b"s", b"\3\0\0\0\xff\xfe\0"))
    transfers.insert_raw("c", [broken])
    with pytest.raises(engine_error("NotExpressibleError"), match="UTF-8"):
        transfers.export("c", format="jsonl.zst")
    engine.discard_export(transfers.folder)
    assert read_all(transfers, transfers.export("c"), "c") == [broken]


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
def test_rows_hold_every_value_and_come_back(transfers, form):
    rows = [{"_id": i, "v": value, "w": {"x": i, "t": ["a"]}} for i, value in enumerate(VALUES) if value is not None]
    transfers.insert_raw("c", [bson.encode(row) for row in rows])
    before = [digest(bson.decode(one, CODEC)) for one in transfers.raw("c")]

    found = transfers.export("c", format=form)
    transfers.target.db.c.drop()
    report = transfers.load()

    after = [digest(bson.decode(one, CODEC)) for one in transfers.raw("c")]
    assert sorted(after) == sorted(before)  # the order of fields aside
    assert len(rows) == found.total.count == report.tally.inserted
    assert found.collection("c").parts[0].misfits > 20
    assert engine.verify_export(transfers.folder).ok


# Partitions -----------------------------------------------------------------------------------------------------------


def mixed_keys():
    return [
        *range(40), *(float(i) + 0.5 for i in range(20)), *(f"k{i}" for i in range(40)), *(ObjectId() for _ in range(40)), None, True, False,
        MinKey(), MaxKey(), math.nan, Decimal128("7.25"), *({"a": i} for i in range(20)), *(datetime(2020, 1, 1 + i) for i in range(20)),
        *(uuid.uuid4() for _ in range(20)), Timestamp(5, 1), Binary(b"b", 5), Int64(2**40),
    ]  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 2, 7, 64])
def test_keys_of_all_types_are_cut_without_a_gap_or_an_overlap(transfers, partitions):
    transfers.target.db.c.insert_many([{"_id": key, "pad": "x" * (i % 50)} for i, key in enumerate(mixed_keys())])
    before = transfers.raw("c")

    found = transfers.export("c", partitions=partitions)

    assert sorted(read_all(transfers, found, "c")) == before
    assert len(found.collection("c").parts) <= partitions
    assert len(found.collection("c").parts) > partitions // 4
    assert found.total.digest == transfers.content("c").digest


def test_parts_are_cut_by_bytes_not_by_count(transfers):
    small = [{"_id": i, "pad": "x"} for i in range(2_000)]
    large = [{"_id": 10_000 + i, "pad": "x" * 2_000_000} for i in range(8)]
    transfers.target.db.c.insert_many(small + large)

    parts = transfers.export("c", partitions=4, format="bson").collection("c").parts

    assert len(parts) == 4
    assert max(part.content.bytes for part in parts) < 3 * sum(part.content.bytes for part in parts) / 4
    assert parts[0].content.count > 1_900


def test_documents_of_16_megabytes_pass(transfers):
    transfers.target.db.c.insert_many([{"_id": i, "pad": bson.Binary(bytes(16 * 1024 * 1024 - 60))} for i in range(3)])
    before = transfers.content("c")
    found = transfers.export("c", partitions=2)
    transfers.target.db.c.drop()
    assert transfers.load().verified == ("c",)
    assert transfers.content("c") == before
    assert found.total.count == 3


@pytest.mark.parametrize(
    "options",
    [
        {"capped": True, "size": 1_000_000},
        {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
        {"collation": {"locale": "en", "strength": 2}},
        {"timeseries": {"timeField": "t", "metaField": "m"}},
        {},
    ],
    ids=["capped", "clustered", "collation", "time series", "plain"],
)
@pytest.mark.parametrize("count", [0, 300])
def test_every_kind_of_collection_comes_back_with_its_options(transfers, options, count):
    db = transfers.target.db
    db.create_collection("c", **options)
    if "timeseries" not in options:
        db.c.create_index("m", name="by_m")
    if count:
        db.c.insert_many([{"_id": f"K{i:04}", "t": datetime(2020, 1, 1, 0, i % 60), "m": i % 3} for i in range(count)])
    before, described = transfers.raw("c"), described_of(db)

    found = transfers.export("c", partitions=3)
    db.c.drop()
    transfers.load()

    assert transfers.raw("c") == before
    assert found.total.count == count == len(before)
    assert described_of(db) == described


def described_of(db):
    info = next(iter(db.list_collections(filter={"name": "c"})))
    return info["type"], info["options"], sorted(index["name"] for index in db.c.list_indexes())


def test_a_backup_holds_everything_and_views_as_definitions(transfers):
    db = transfers.target.db
    db.users.insert_many([{"_id": i} for i in range(20)])
    db.create_collection("empty", validator={"n": {"$type": "int"}})
    db.command("create", "grown", viewOn="users", pipeline=[{"$match": {"_id": {"$gte": 18}}}])
    found = transfers.export("*")
    assert found.everything
    assert [one.name for one in found.collections] == ["empty", "grown", "users"]
    assert [len(one.parts) for one in found.collections] == [1, 0, 1]
    backup = db.ops_transfers.find_one({"kind": "export", "backup": True})
    assert backup["documents"] == 20
    for name in ("grown", "users", "empty"):
        db[name].drop()

    transfers.load()

    assert db.users.count_documents({}) == 20
    assert [row["_id"] for row in db.grown.find()] == [18, 19]
    assert next(iter(db.list_collections(filter={"name": "empty"})))["options"]["validator"] == {"n": {"$type": "int"}}


def test_a_view_that_is_named_is_exported_as_documents(transfers):
    db = transfers.target.db
    db.users.insert_many([{"_id": i} for i in range(20)])
    db.command("create", "grown", viewOn="users", pipeline=[{"$match": {"_id": {"$gte": 18}}}])
    assert transfers.export("grown").total.count == 2
    transfers.load(collections={"grown": "grown_copy"})
    assert db.grown_copy.count_documents({}) == 2


def test_filter_and_projection_select(transfers):
    transfers.target.db.c.insert_many([{"_id": i, "n": i % 10, "pad": "x"} for i in range(1_000)])
    found = transfers.export("c", where={"n": {"$lt": 3}}, projection={"n": 1}, partitions=3)
    assert found.total.count == 300
    assert {frozenset(bson.decode(one)) for one in read_all(transfers, found, "c")} == {frozenset({"_id", "n"})}
    assert not found.everything


# One moment -----------------------------------------------------------------------------------------------------------


def test_all_parts_are_read_at_one_moment_while_writers_go_on(transfers):
    db = transfers.target.db
    for name in ("a", "b"):
        db[name].insert_many([{"_id": i, "n": 0} for i in range(3_000)])
    plan = transfers.plan_export("a", "b", partitions=3)
    moment = engine.begin_export(transfers.target, transfers.folder, plan, "run 1").cluster_time
    stop = threading.Event()
    writing = db.client.get_database(db.name, write_concern=WriteConcern(w=1))

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            writing.a.update_one({"_id": number % 3_000}, {"$inc": {"n": 1}})
            writing.b.delete_one({"_id": number % 3_000})
            writing.b.insert_one({"n": number})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for part in plan.parts:
            engine.export_part(transfers.target, transfers.folder, plan, part.number, run_id="run 1", report=silent)
    finally:
        stop.set()
        thread.join()
    found = engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 1")

    assert found.moment == moment
    for name in ("a", "b"):
        at_that_time = {"find": name, "readConcern": {"level": "snapshot", "atClusterTime": moment}}
        rows = db.with_options(codec_options=RAW).cursor_command(at_that_time, codec_options=RAW)
        assert found.collection(name).content.digest == of_documents(row.raw for row in rows).digest
        assert found.collection(name).content.count == 3_000
    assert transfers.content("a").digest != found.collection("a").content.digest


def test_a_snapshot_that_is_gone_is_refused_or_falls_back(transfers, monkeypatch):
    transfers.target.db.c.insert_many([{"_id": i} for i in range(10)])
    monkeypatch.setattr(survey, "now", lambda _: Timestamp(1_000, 1))  # long before the server's history begins
    plan = transfers.plan_export("c")
    with pytest.raises(SnapshotGoneError, match="minSnapshotHistoryWindowInSeconds"):
        engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1")
    engine.discard_export(transfers.folder)
    found = transfers.export("c", consistency="prefer_snapshot")
    assert (found.consistency, found.moment, found.total.count) == ("fuzzy", None, 10)


def test_an_export_longer_than_the_servers_history_is_refused_before_it_begins(transfers, monkeypatch):
    transfers.target.db.c.insert_one({"_id": 1})
    monkeypatch.setattr(survey, "history_window", lambda _: 0.0)
    with pytest.raises(ExportRefusedError, match="keeps the history of only 0 s"):
        transfers.plan_export("c")
    assert "Should the snapshot go" in transfers.plan_export("c", consistency="prefer_snapshot").notes[0]
    assert transfers.plan_export("c", consistency="fuzzy").notes == ()


# Whose place it is ----------------------------------------------------------------------------------------------------


def test_a_finished_export_is_never_overwritten(transfers):
    transfers.target.db.c.insert_one({"_id": 1})
    transfers.export("c")
    before = {path: Path(path).read_bytes() for path in files(transfers)}
    with pytest.raises(storage.AlreadyWrittenError, match="never overwritten"):
        transfers.plan_export("c")
    assert not engine.discard_export(transfers.folder)
    assert {path: Path(path).read_bytes() for path in files(transfers)} == before


def test_of_two_exports_to_one_place_one_refuses(transfers):
    transfers.target.db.c.insert_one({"_id": 1})
    plan = transfers.plan_export("c")
    engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1")
    with pytest.raises(DestinationBusyError, match="unfinished export of run run 1"):
        engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 2")
    assert engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 1").run_id == "run 1"
    with pytest.raises(storage.AlreadyWrittenError):
        engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 2")


def test_a_discarded_export_leaves_nothing_and_makes_room(transfers):
    transfers.target.db.c.insert_one({"_id": 1})
    plan = transfers.plan_export("c")
    engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1")
    assert engine.discard_export(transfers.folder)
    assert files(transfers) == []
    assert transfers.export("c", run_id="run 2").total.count == 1


def test_the_manifest_comes_last_and_only_when_all_parts_are_there(transfers):
    transfers.target.db.c.insert_many([{"_id": i} for i in range(500)])
    plan = transfers.plan_export("c", partitions=2)
    engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1")
    with pytest.raises(PartMissingError, match="1 of 2 parts"):
        engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 1")
    with pytest.raises(manifest.ExportMissingError):
        engine.plan_import(transfers.target, transfers.folder, engine.ImportRequest())
    engine.export_part(transfers.target, transfers.folder, plan, 1, run_id="run 1")
    found = engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 1", subjects={"c": ["k1:9f"]})
    again = engine.finish_export(transfers.target, transfers.folder, plan, run_id="run 1")
    assert again == found
    assert found.collection("c").subjects == ["k1:9f"]
    assert {path.rpartition("/")[2].partition("-")[0] for path in files(transfers)} == {
        "manifest.json",
        "00000",
        "00001",
    }
    db = transfers.target.db
    assert db.ops_transfers.count_documents({}) == 1
    assert [entry["action"] for entry in audit.log.entries(db).find()] == ["export.finished"]


def test_a_written_part_is_not_written_again(transfers, monkeypatch):
    transfers.target.db.c.insert_many([{"_id": i} for i in range(500)])
    plan = transfers.plan_export("c")
    first = engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1")
    monkeypatch.setattr(export_run, "_write", None)
    assert engine.export_part(transfers.target, transfers.folder, plan, 0, run_id="run 1") == first


def test_names_of_collections_do_not_lead_out_of_the_folder(transfers):
    names = ["a/b/%2E%2E", "c d%2F", "ü" * 60, "x" * 200]
    for name in names:
        transfers.target.db[name].insert_one({"_id": 1})
    found = transfers.export(*names)
    assert found.total.count == 4
    assert all(path.startswith(transfers.folder.path) for path in files(transfers))
    assert len(files(transfers)) == 5
    assert place.segment("..").startswith("%2E")
    for name in names:
        transfers.target.db[name].drop()
    transfers.load()
    assert all(transfers.target.db[name].count_documents({}) == 1 for name in names)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "xml"}, "no format 'xml'"),
        ({"partitions": 0}, "partitions must be"),
        ({"where": {"$or": [{"a": {"$near": [0, 0]}}]}}, r"uses \$near"),
        ({"consistency": "strict"}, "consistency must be"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(transfers, options, sentence):
    with pytest.raises(ExportRefusedError, match=sentence):
        transfers.plan_export("c", **options)
    assert files(transfers) == [] if transfers.folder.exists() else True


def test_a_collection_that_is_not_there_is_named(transfers):
    with pytest.raises(ExportRefusedError, match="no collection nowhere"):
        transfers.plan_export("nowhere")


# Reading --------------------------------------------------------------------------------------------------------------


def test_the_plain_way_reads_what_the_fast_way_reads(transfers):
    before = fill_odd(transfers)
    find = {"find": "odd", "filter": {}, "readConcern": {"level": "majority"}}
    fast = b"".join(reading.fast(transfers.target.db, find, 7, reading._to_stream))
    assert b"".join(reading.plain(transfers.target.db, find, 7)) == fast
    assert b"".join(sorted(before)) != b""
    assert len(fast) == sum(map(len, before))


def test_a_reader_that_stops_early_leaves_no_cursor(transfers):
    transfers.target.db.c.insert_many([{"_id": i} for i in range(500)])

    def cursors():
        return transfers.target.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"]

    before = cursors()
    batches = reading.fast(transfers.target.db, {"find": "c", "filter": {}}, 10, reading._to_stream)
    with reading.Ahead(batches) as taken:
        assert next(taken)
    assert cursors() == before


def test_a_full_disk_is_an_error_that_a_retry_mends(transfers, tmp_path):
    import random

    pad = random.Random(1).randbytes(900_000)
    transfers.target.db.c.insert_many([{"_id": i, "pad": pad} for i in range(5)])
    plan = transfers.plan_export("c", format="bson")
    command = f"ulimit -f 1000; trap '' XFSZ; exec {transfers_command(transfers, plan)}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT_OF_TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "StorageFailedError" in done.stderr
    assert not any("-" in path.rpartition("/")[2] for path in files(transfers))  # no part, whole or half
    with transfers.process(do="export", plan=plan.as_value(), run_id="run 1") as process:
        process.communicate()
    assert process.returncode == 0
    assert manifest.read(transfers.folder).total.count == 5


def transfers_command(transfers, plan):
    import shlex

    with transfers.process(do="export", plan=plan.as_value(), run_id="run 1") as process:
        process.kill()
    return shlex.join(process.args)


ROOT_OF_TESTS = __file__.rpartition("/tests/")[0]
