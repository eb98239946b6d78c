"""Transfers under attack: stray quotes, keys that name nobody, rows of one key at once, files that change, hostile manifests."""

from __future__ import annotations

import json

import bson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tests.mongo.transfers import Transfers, silent

from mongo_ops import storage
from mongo_ops.mongo.lease import LeaseHeldError
from mongo_ops.storage import ejson
from mongo_ops.transfer import compression, engine, manifest
from mongo_ops.transfer.compression import CompressionError
from mongo_ops.transfer.formats import base, csvfile, parquet
from mongo_ops.transfer.formats.bsonfile import BrokenFileError
from mongo_ops.transfer.importing import ImportRefusedError
from mongo_ops.transfer.manifest import ExportCorruptError
from mongo_ops.transfer.place import PlanChangedError
from mongo_ops.transfer.rejects import RowRefusedError


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


# Stray quotes ---------------------------------------------------------------------------------------------------------


def test_a_quote_inside_of_a_cell_is_text_and_loses_no_row(transfers):
    put(transfers, "c.csv", b'a,b\n1,5" pipe\n' + b"".join(b"%d,x\n" % n for n in range(5_000)))
    report = transfers.load("*", on_error="reject")
    assert (report.tally.inserted, report.tally.rejected) == (5_001, 0)
    assert transfers.target.db.c.find_one({"a": 1}, {"_id": 0}) == {"a": 1, "b": '5" pipe'}


@pytest.mark.parametrize("limit", [2**20, 1000])
def test_a_quote_that_never_ends_stops_the_file_instead_of_swallowing_it(transfers, monkeypatch, limit):
    monkeypatch.setattr(csvfile, "LONGEST_CELL", limit)
    put(transfers, "c.csv", b'a,b\n7,x\n1,"pipe\n' + b"".join(b"%d,x\n" % n for n in range(20_000)))
    with pytest.raises(BrokenFileError, match=r"c.csv: document 3 \(offset 8\) has a quoted cell that does not end"):
        transfers.load("*", on_error="reject")


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        (b'"x\ny",2', ["x\ny", "2"]), (b'"x ""\n"" y",2', ['x "\n" y', "2"]), (b'"",""', ["", ""]), (b'"x\n\n\ny",", "', ["x\n\n\ny", ", "]),
        (b'x"y,"z\n"', ['x"y', "z\n"]), (b'1,"a""b"', ["1", 'a"b']), (b'"\n",""""', ["\n", '"']), (b'"""\n""",2', ['"\n"', "2"]),
    ],
)  # fmt: skip
def test_rows_end_where_rfc_4180_says(text, cells):
    class In:
        def __init__(self):
            self.left = b"p,q\r\n" + text + b"\r\n8,9\r\n"

        def some(self):
            data, self.left = self.left, b""
            return data

    kinds = [csvfile.Column(path="p", type="string"), csvfile.Column(path="q", type="string")]
    (chunk,) = csvfile.chunks(In(), "f", columns=kinds, foreign=True)
    wanted = {name: cell for name, cell in zip("pq", cells, strict=True) if cell}
    assert [bson.decode(one) for one in chunk.documents] == [wanted, {"p": "8", "q": "9"}]
    assert chunk.rejects == []


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["upsert", "merge"])
def test_rows_with_the_same_key_make_one_document_the_last_stands(transfers, small, mode):
    put(transfers, "c.jsonl", lines({"email": f"u{n % 40}", "n": n} for n in range(200)))
    report = transfers.load("*", mode=mode, keys=("email",))
    assert (report.tally.inserted, report.tally.matched) == (40, 160)
    found = {row["email"]: row["n"] for row in transfers.target.db.c.find()}
    assert found == {f"u{n % 40}": n for n in range(160, 200)}
    assert transfers.target.db.c.count_documents({}) == 40


@pytest.mark.parametrize("mode", ["upsert", "merge", "replace"])
@pytest.mark.parametrize("row", [{"email": None}, {"email": "u1"}])
def test_a_key_touches_no_document_that_only_resembles_it(transfers, mode, row):
    db = transfers.target.db
    before = [{"_id": 1, "name": "no e-mail"}, {"_id": 2, "email": None}, {"_id": 3, "email": ["u1", "u2"]}]
    db.c.insert_many(before)
    put(transfers, "c.jsonl", lines([{**row, "v": 1}]))
    report = transfers.load("*", mode=mode, keys=("email",), on_error="reject", max_reject_share=1.0)
    assert list(db.c.find({"_id": {"$in": [1, 2, 3]}}, sort=[("_id", 1)])) == before
    assert report.tally.matched == 0
    assert report.tally.rejected == (row["email"] is None)


def test_several_files_need_a_unique_index_on_the_key(transfers):
    put(transfers, "a.jsonl", lines([{"k": 1}]))
    put(transfers, "b.jsonl", lines([{"k": 1}]))
    with pytest.raises(ImportRefusedError, match="c has no unique index on k, so several files"):
        transfers.plan_import("*", mode="upsert", keys=("k",), into="c")
    transfers.target.db.c.create_index("k", unique=True)
    assert transfers.load("*", mode="upsert", keys=("k",), into="c").tally.inserted == 1


def test_two_imports_by_a_key_without_an_index_do_not_go_at_once(transfers):
    put(transfers, "c.jsonl", lines([{"k": 1}]))
    plan = transfers.plan_import("*", mode="upsert", keys=("k",))
    refused = []

    def other(raw):
        with pytest.raises(LeaseHeldError) as caught:
            engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="other", report=silent)
        refused.append((raw, caught.value.resource))
        return False

    engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1", report=silent, refuse=other)
    assert [resource for _, resource in refused] == ["transfer/c"]
    assert transfers.target.db.c.count_documents({}) == 1


# Sources that change, and names -----------------------------------------------------------------------------------------


def test_a_mended_file_is_not_taken_for_the_one_that_was_begun(transfers, small):
    rows = [b'{"n": %d}\n' % n for n in range(40)]
    put(transfers, "c.jsonl", b"".join([*rows[:30], b"{broken\n", *rows[30:]]))
    plan = transfers.plan_import("*")
    with pytest.raises(
        RowRefusedError, match="Other rows of the file, not all of them before it, are imported already"
    ):
        engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1", report=silent)
    put(transfers, "c.jsonl", b"".join(rows[1:]))
    before = transfers.target.db.c.count_documents({})
    with pytest.raises(PlanChangedError, match="c.jsonl is not the file any more that run load 1 began to load"):
        engine.import_part(transfers.target, transfers.folder, plan, 0, run_id="load 1", report=silent)
    assert transfers.target.db.c.count_documents({}) == before


@pytest.mark.parametrize("name", ["ops_erasure_ledger", "ops_leases"])
def test_files_are_not_loaded_into_our_own_records(transfers, name):
    put(transfers, "c.jsonl", b'{"a": 1}\n')
    with pytest.raises(ImportRefusedError, match=f"{name} holds mongo-ops's own records"):
        transfers.plan_import("*", into=name)
    transfers.target.db.c.insert_one({"_id": 1})
    transfers.export("c")
    with pytest.raises(ImportRefusedError, match=f"{name} holds mongo-ops's own records"):
        transfers.plan_import(collections={"c": name})


def test_a_column_type_that_is_none_is_refused_in_the_plan(transfers):
    put(transfers, "c.csv", b"a\n1\n")
    with pytest.raises(ImportRefusedError, match="There is no column type foo; there are string, objectId"):
        transfers.plan_import("*", columns={"a": "foo"})


@pytest.mark.parametrize(
    "index", [{"key": {"a": 1}}, {"name": "a"}, {"key": "a", "name": "a"}, {"key": {}, "name": "a"}]
)
def test_a_manifest_with_indexes_that_are_none_is_refused(transfers, index):
    transfers.target.db.c.insert_one({"_id": 1})
    transfers.export("c")
    content = json.loads((transfers.folder / manifest.FILE).read_text())
    content.pop(ejson.SEAL)
    content["collections"][0]["indexes"] = [index]
    put(transfers, manifest.FILE, json.dumps(manifest.sealed(content)).encode())
    with pytest.raises(ExportCorruptError):
        transfers.plan_import()


# Packed well, packed too well -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["bson.zst", "bson.gz", "jsonl.zst", "csv.zst", "parquet"])
def test_what_packs_well_comes_back_from_its_own_export(transfers, monkeypatch, file_format):
    monkeypatch.setattr(compression, "RATIO_FROM", 10_000)
    monkeypatch.setattr(parquet, "RATIO_FROM", 10_000)
    transfers.target.db.c.insert_many([{"_id": n, "text": "z" * 20_000} for n in range(500)])
    (part,) = transfers.export("c", format=file_format).collections[0].parts
    assert file_format == "bson.gz" or part.content.bytes > compression.MAX_RATIO * part.bytes
    assert engine.verify_export(transfers.folder).ok
    transfers.target.db.c.drop()
    plan = transfers.plan_import()
    assert engine.preview_import(transfers.target, transfers.folder, plan)[0].rows == 200
    assert transfers.load().tally.inserted == 500
    assert transfers.target.db.c.count_documents({"text": "z" * 20_000}) == 500


def test_a_dictionary_that_swells_without_a_manifest_is_refused(transfers, monkeypatch):
    monkeypatch.setattr(parquet, "RATIO_FROM", 10_000)
    table = pa.table({"a": pa.array(["x" * 1000] * 20_000).dictionary_encode()})
    pq.write_table(table, str(transfers.folder.path) + "/c.parquet")
    with pytest.raises(CompressionError, match="c.parquet swells to more than 200 times"):
        transfers.load("*")


def test_what_packs_well_is_unpacked_a_little_at_a_time(transfers):
    packed = zstandard.compress(b"z" * 300_000_000, 1)
    put(transfers, "c", packed)
    with storage.reading(transfers.folder / "c") as source:
        reader = compression.Reader(source, "zst", "c", known=300_000_000)
        sizes = [len(data) for data in iter(reader.some, b"")]
    assert (sum(sizes), max(sizes) < 40_000_000) == (300_000_000, True)
