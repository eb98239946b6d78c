"""Parquet's fast way (whole batches, by numpy) makes exactly what its slow way (document by document) makes."""

from __future__ import annotations

import random
import struct

import bson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer.formats import flat
from mongo_ops.transfer.formats.flat import Table
from mongo_ops.transfer.formats.parquet import AT_ONCE, ParquetEncoder
from mongo_ops.transfer.model import Column

COLUMNS = tuple(
    Column(path=path, type=kind)
    for path, kind in {
        "_id": "objectId", "s": "string", "i": "int", "l": "long", "d": "double", "b": "bool", "t": "date", "m": "decimal",
        "x": "binary", "j": "json", "e.s": "string", "e.f.i": "int", "e.f.nine letters": "long", "ss": "strings", "is": "ints",
        "ls": "longs", "ds": "doubles",
    }.items()
)  # fmt: skip
NAN = struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\x7f")[0]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAVES = st.one_of(
    st.none(), st.booleans(), TEXTS, st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1).map(Int64), st.floats(),
    st.binary(max_size=20), st.integers(-(2**63), 2**63 - 1).map(DatetimeMS), st.binary(min_size=12, max_size=12).map(ObjectId),
    st.sampled_from([
        NAN, -0.0, Decimal128("-0E-6176"), Decimal128("NaN"), Decimal128("-Infinity"), Decimal128("9" * 34 + "E+6111"), MinKey(), MaxKey(),
        Regex("a", "i"), Code("f"), Code("f", {"a": 1}), Timestamp(1, 2), Binary(b"x" * 16, 4), Binary(b"", 0), Binary(b"y", 128), "", "\0",
        DatetimeMS(-62_135_596_800_000), DatetimeMS(-62_135_596_800_001), DatetimeMS(253_402_300_799_999), DatetimeMS(253_402_300_800_000),
        {}, [], [1], [1, 2], [Int64(1)], [1, Int64(2)], ["a"], ["a", ""], ["a", 1], [1.5, NAN], [True], [None], [{"q": [1]}], list(range(120)),
    ]),
)  # fmt: skip
NAMES = st.sampled_from([*(column.path.split(".")[0] for column in COLUMNS), "extra", "e.s", "", "sss"])
INNER = st.dictionaries(st.sampled_from(["s", "i", "f", "nine letters", "z"]), LEAVES, max_size=4)
FITTING = st.fixed_dictionaries(
    {},
    optional={
        "_id": st.binary(min_size=12, max_size=12).map(ObjectId), "s": TEXTS, "i": st.integers(-(2**31), 2**31 - 1),
        "l": st.integers(-(2**63), 2**63 - 1).map(Int64), "d": st.floats(), "b": st.booleans() | st.none(),
        "t": st.integers(-62_135_596_800_000, 253_402_300_799_999).map(DatetimeMS), "m": st.decimals(-(10**9), 10**9, places=3).map(str).map(Decimal128),
        "x": st.binary(max_size=9), "j": st.lists(LEAVES, max_size=3), "ss": st.lists(TEXTS, max_size=4), "ds": st.lists(st.floats(), max_size=12),
        "is": st.lists(st.integers(-5, 5), max_size=12), "ls": st.lists(st.integers(0, 2**40).map(Int64), max_size=3),
        "e": st.fixed_dictionaries({"s": TEXTS, "f": st.fixed_dictionaries({"i": st.just(7), "nine letters": st.integers(0, 9)})}),
    },
)  # fmt: skip
ODD = st.dictionaries(NAMES, LEAVES | INNER | INNER.map(lambda inner: {"f": inner}), max_size=6)


class Sink:
    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data

    def close(self):
        pass


def written(stream, columns=COLUMNS):
    """The fast way: what the file holds, and the misfits."""
    sink = Sink()
    encoder = ParquetEncoder(sink, columns)
    encoder.write(stream)
    encoder.close()
    return pq.read_table(pa.BufferReader(sink.data)), encoder.misfits


def one_by_one(stream, schema, columns=COLUMNS):
    """The slow way: every document decoded."""
    values, overflow = Table(columns).fill(bson.decode_all(stream, flat.READ))
    arrays = [pa.array(column, type=field.type) for column, field in zip([*values, overflow], schema, strict=True)]
    return pa.table(arrays, schema=schema), sum(1 for rest in overflow if rest)


def exact(table):
    """Every value by its bits: Arrow takes no NaN for another."""
    return [
        [bson.encode({"v": value}, codec_options=CODEC) for value in column.to_pylist()] for column in table.columns
    ]


def compare(stream, columns=COLUMNS):
    fast, misfits = written(stream, columns)
    slow, expected = one_by_one(stream, fast.schema, columns)
    assert exact(fast) == exact(slow)
    assert misfits == expected
    return misfits


def encoded(rows):
    return b"".join(bson.encode(row, codec_options=CODEC) for row in rows)


@settings(max_examples=400, deadline=None)
@given(st.lists(FITTING | ODD, max_size=12))
@example([{"d": NAN}, {}, {"d": 1.0}])
@example([{"e": {}}, {"e": None}, {"e": 1}, {"e": {"f": {}}}, {"e": {"f": {"i": 1}, "s": "a"}}])
def test_odd_documents_become_the_same_rows(rows):
    compare(encoded(rows))


@settings(max_examples=150, deadline=None)
@given(st.lists(FITTING, min_size=1, max_size=12))
def test_documents_that_fit_are_never_decoded(rows):
    order = list(dict.fromkeys(column.path.split(".")[0] for column in COLUMNS))
    stream = encoded({name: row[name] for name in order if name in row} for row in rows)
    encoder = ParquetEncoder(Sink(), COLUMNS)
    encoder._one_by_one = None  # a call would fail
    encoder.write(stream)
    assert compare(stream) == 0


@settings(max_examples=400, deadline=None)
@given(st.lists(FITTING | ODD, min_size=1, max_size=4), st.randoms())
def test_damaged_documents_are_refused_or_read_the_same(rows, dice):
    parts = [bytearray(bson.encode(row, codec_options=CODEC)) for row in rows]
    for part in parts:
        for _ in range(dice.randint(0, 3)):
            if len(part) > 5:
                part[dice.randrange(4, len(part))] = dice.choice(
                    [0, 1, 2, 3, 4, 5, 10, 16, 18, 127, 128, 255, dice.randrange(256)]
                )
    stream = bytes(b"".join(parts))
    try:
        expected = one_by_one(stream, ParquetEncoder(Sink(), COLUMNS)._schema)
    except (BSONError, ValueError, OverflowError) as error:
        with pytest.raises(type(error)):
            written(stream)
        return
    found = written(stream)
    assert exact(found[0]) == exact(expected[0])
    assert found[1] == expected[1]


def test_a_name_that_comes_twice_has_its_last_value():
    twice = b"\x10i\0\x01\0\0\0\x10i\0\x02\0\0\0"
    nulled = b"\x10i\0\x01\0\0\0\x0ai\0"
    inner = b"\x03e\0" + bson.encode({"s": "a"}) + b"\x03e\0" + bson.encode({"s": "b"})
    stream = b"".join((len(one) + 5).to_bytes(4, "little") + one + b"\0" for one in (twice, nulled, inner))
    compare(stream)
    assert written(stream)[0].column("i").to_pylist() == [2, None, None]


def test_fields_in_any_order_and_rows_of_many_batches_stay_in_their_order():
    dice = random.Random(5)
    rows = []
    for number in range(2 * AT_ONCE + 7):
        row = {
            "_id": ObjectId(number.to_bytes(12, "big")),
            "i": number,
            "s": f"row {number}",
            "ss": ["x"] * (number % 5),
            "l": number,
        }
        if number % 97 == 0:
            row["extra"] = number
        items = list(row.items())
        dice.shuffle(items)
        rows.append(dict(items))
    assert compare(encoded(rows)) == len(range(0, 2 * AT_ONCE + 7, 97))
    table, _ = written(encoded(rows))
    assert table.column("i").to_pylist() == list(range(2 * AT_ONCE + 7))


def test_arrays_of_many_elements_and_columns_that_nothing_fills():
    rows = [{"ds": [float(i) for i in range(1500)]} for _ in range(120)] + [{"ds": [0.5] * 40_000}]
    assert compare(encoded(rows)) == 0
    compare(encoded([{"a": 1}, {}]), ())
    compare(encoded([{}, {}]))
