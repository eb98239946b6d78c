"""Rows of csv and parquet, cutting of text and of collections, digests, names: without a database."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import bson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer import place, plan, raw
from mongo_ops.transfer.content import Content, of_documents, of_stream
from mongo_ops.transfer.formats import base, csvfile, flat, jsontext, parquet
from mongo_ops.transfer.formats.jsonl import parse
from mongo_ops.transfer.model import Column


class Out:
    def __init__(self):
        self.data = b""
        self.write = self._write

    def _write(self, data):
        self.data += data

    def close(self):
        pass


class In(io.BytesIO):
    def some(self):
        return self.read(11)


ROWS = [
    {"_id": ObjectId("5f" * 12), "n": 1, "s": "plain", "a": {"b": {"c": 1.5}}, "t": ["x", "y"], "d": datetime(2020, 1, 2, 3, 4, 5, 6000, UTC)},
    {"_id": ObjectId("60" * 12), "n": 2, "s": "=1+1", "a": {"b": {"c": -0.0}}, "t": [], "x": Decimal128("1.10"), "y": b"\0\1", "z": True},
    {"_id": ObjectId("61" * 12), "n": Int64(2**40), "s": "", "a": {}, "t": ["x", 1], "extra": {"k": [1, {"q": 2}]}},
    {"_id": "other", "n": "text", "s": "'quoted'", "a": 5, "d": DatetimeMS(2**62), "dotted.name": 1, "y": bson.Binary(b"x", 5)},
    {"_id": ObjectId("62" * 12), "s": 'line\nbreak, "quote"\t', "a": {"b": 7, "e": "new"}, "x": Decimal128("NaN"), "z": False},
]  # fmt: skip
PLAIN = [bson.decode(bson.encode(row), CODEC) for row in ROWS]


def stream(rows):
    return b"".join(bson.encode(row, codec_options=CODEC) for row in rows)


def decoded(rows):
    return list(bson.decode_all(stream(rows), flat.READ))


def sampled():
    return flat.columns(decoded([*ROWS[:2], ROWS[0]]))


def without_nulls(row):
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_rows_come_back_with_what_fits_no_column_in_the_overflow(name):
    out = Out()
    encoder = csvfile.CsvEncoder(out, sampled()) if name == "csv" else parquet.ParquetEncoder(out, sampled())
    encoder.write(stream(ROWS[:2]))
    encoder.write(stream(ROWS[2:]))
    encoder.close()
    assert encoder.misfits == 3
    read = (
        csvfile.chunks(In(out.data), "f", columns=sampled(), foreign=False)
        if name == "csv"
        else parquet.chunks(In(out.data), "f", columns=())
    )
    found = [document for chunk in read for document in chunk.documents]
    assert [bson.decode(document, CODEC) for document in found] == PLAIN


def test_the_columns_of_a_sample_are_its_leaves_with_their_most_frequent_type():
    assert {(column.path, column.type) for column in sampled()} == {
        ("_id", "objectId"), ("n", "int"), ("s", "string"), ("a.b.c", "double"), ("t", "strings"), ("d", "date"), ("x", "decimal"),
        ("y", "binary"), ("z", "bool"),
    }  # fmt: skip
    assert flat.columns([{"n": 1}, {"n": Int64(5)}]) == (Column(path="n", type="long"),)
    assert [column.path for column in flat.columns(decoded(ROWS), ("a.b.c", "n", "new"))] == ["a.b.c", "n", "new"]


def test_a_spreadsheet_sees_no_formula():
    out = Out()
    columns = (Column(path="=cmd()", type="string"), Column(path="n", type="int"))
    encoder = csvfile.CsvEncoder(out, columns)
    evil = ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "'x", ""]
    encoder.write(stream([{"=cmd()": text, "n": -5} for text in evil]))
    lines = out.data.decode().split("\r\n")
    assert lines[0] == "'=cmd(),n,_overflow"
    assert [row.split(",")[0].strip('"') for row in lines[1:6]] == ["'=1+1", "'+1", "'-1", "'@SUM(1)", "'\t=1"]
    assert all(",-5," in line for line in lines[1:] if line and line.endswith(","))
    back = csvfile.chunks(In(out.data), "f", columns=columns, foreign=False)
    assert [bson.decode(d)["=cmd()"] for chunk in back for d in chunk.documents] == evil


def test_parquet_columns_have_the_types_of_arrow():
    out = Out()
    encoder = parquet.ParquetEncoder(out, sampled())
    encoder.write(stream(ROWS[:2]))
    encoder.close()
    table = pq.read_table(pa.BufferReader(out.data))
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "_id": "string", "n": "int32", "s": "string", "a.b.c": "double", "t": "list<element: string>", "d": "timestamp[ms, tz=UTC]",
        "x": "string", "y": "binary", "z": "bool", "_overflow": "string",
    }  # fmt: skip
    assert table.column("t").to_pylist() == [["x", "y"], []]
    assert table.column("d").to_pylist()[0] == ROWS[0]["d"]


def test_csv_of_others_is_guessed_as_mongoimport_does_or_typed():
    text = b'n,a.b,s,q,e\r\n5,1.5,=x,"two\r\nlines",\r\n99999999999,abc,NaN,1_0,x\n1,2\n"open,5\n'
    chunk = next(csvfile.chunks(In(text), "f", columns=(), foreign=True))
    assert [bson.decode(d) for d in chunk.documents] == [
        {"n": 5, "a": {"b": 1.5}, "s": "=x", "q": "two\r\nlines"},
        {"n": 99999999999, "a": {"b": "abc"}, "s": "NaN", "q": "1_0", "e": "x"},
    ]
    assert [(one.line, one.reason) for one in chunk.rejects] == [
        (5, "2 cells, 5 expected"),
        (6, "no valid csv, or not UTF-8"),
    ]
    typed = (Column(path="n", type="date"), Column(path="e", type="objectId"))
    chunk = next(
        csvfile.chunks(In(b"n,e\n2020-01-02,5f5f5f5f5f5f5f5f5f5f5f5f\nx,\n"), "f", columns=typed, foreign=True)
    )
    assert bson.decode(chunk.documents[0], CODEC) == {"n": datetime(2020, 1, 2, tzinfo=UTC), "e": ObjectId("5f" * 12)}
    assert [one.reason for one in chunk.rejects] == ["column n is not of its type"]


def test_parquet_of_others_is_read_with_the_types_it_has():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": [1, None], "s": [{"a": [1.5]}, {"a": []}]}), sink)
    chunk = next(parquet.chunks(In(sink.getvalue().to_pybytes()), "f", columns=()))
    assert [bson.decode(d) for d in chunk.documents] == [{"n": 1, "s": {"a": [1.5]}}, {"s": {"a": []}}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab\\"[]{},é', max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text('xy"\\]', min_size=1, max_size=3), json_values, max_size=3), max_size=6),
    st.booleans(),
)
def test_the_members_of_any_array_are_found(rows, indented):
    text = json.dumps(rows, indent=1 if indented else None, ensure_ascii=False).encode()
    lines = jsontext.Lines(In(text), "f", 10**6)
    assert jsontext.is_array(lines)
    assert [json.loads(member) for _, _, member in jsontext.members(lines)] == rows


@given(
    st.lists(
        st.binary(max_size=30).filter(
            lambda b: b"\n" not in b and not b.startswith((b"\xff", b"\xfe", b"\xef", b"\0"))
        ),
        min_size=1,
        max_size=20,
    )
)
def test_lines_are_cut_where_they_end_with_their_offsets(rows):
    text = b"x" * 4 + b"\n".join(rows)
    found = list(jsontext.Lines(In(text), "f", 10**6).rows())
    assert b"\n".join(row for _, _, row in found) == text.removesuffix(b"\n")
    assert [line for line, _, _ in found] == list(range(1, len(found) + 1))
    assert all(text[offset : offset + len(row)] == row for _, offset, row in found)


@given(
    st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(0, 9), max_size=3), max_size=10),
    st.randoms(),
)
def test_the_content_digest_does_not_depend_on_order_or_cuts(rows, dice):
    documents = [bson.encode(row) for row in rows]
    total = of_documents(documents)
    dice.shuffle(documents)
    cut = dice.randint(0, len(documents))
    assert of_stream(b"".join(documents[:cut])) + of_stream(b"".join(documents[cut:])) == total
    assert Content.of(total.as_value()) == total
    if documents:
        assert of_documents([*documents, documents[0]]) != total
        assert of_documents(documents[1:]) != total


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10**7)), max_size=60), st.integers(1, 8))
def test_cuts_are_distinct_keys_of_the_sample_in_order_and_never_the_first(samples, count):
    samples = sorted(samples)
    keys = plan.cuts(samples, count)
    assert len(keys) < max(count, 1)
    assert list(keys) == sorted(set(keys))
    assert not samples or samples[0][0] not in keys
    parts = plan.parts(3, "c", keys)
    assert [part.number for part in parts] == list(range(3, 3 + len(keys) + 1))
    assert parts[0].lower is None
    assert parts[-1].upper is None
    assert [part.upper for part in parts[:-1]] == [part.lower for part in parts[1:]]


def test_even_documents_are_cut_into_even_parts():
    keys = plan.cuts([(i, 10) for i in range(100)], 4)
    assert keys == (25, 50, 75)


@pytest.mark.parametrize("size", [b"\x04\0\0\0\0", b"\xff\xff\xff\x7f\0", b"\x06\0\0\0\0", b"\x05\0\0"])
def test_a_length_that_does_not_fit_is_refused(size):
    with pytest.raises(raw.InvalidDocumentError):
        raw.split(size)
    with pytest.raises(raw.InvalidDocumentError):
        of_stream(b"\x00\0\0\0\0" if size[0] == 4 else size)


@given(st.text(min_size=1, max_size=150))
def test_a_collections_folder_is_one_harmless_segment(name):
    segment = place.segment(name)
    assert "/" not in segment
    assert not segment.startswith(".")
    assert segment.isascii()
    assert len(segment) <= place.LONGEST


def test_chunks_are_full_by_count_or_by_bytes(monkeypatch):
    chunk = base.Chunk(0)
    assert not chunk
    chunk.add(b"x" * base.CHUNK_BYTES, 1, 0)
    assert chunk.full
    monkeypatch.setattr(base, "CHUNK_COUNT", 1)
    assert base.Chunk(0, rejects=[base.Reject(1, 0, "r")]).full


def test_one_line_holds_one_document():
    assert parse(b'{"a": 1}') == bson.encode({"a": 1})
    for text in (b'{"a": 1} {"b": 2}', b'{"a": 1}, "b": {}', b"[1]", b"1", b"{", b'{"a": 1}}', b""):
        with pytest.raises(ValueError, match="no valid"):
            parse(text)
