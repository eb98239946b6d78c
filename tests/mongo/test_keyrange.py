"""Ranges of _id over every type that an _id may have: no document is skipped, none is taken twice."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

from mongo_ops.mongo import keyrange
from mongo_ops.mongo.documents import canonical
from mongo_ops.mongo.keyrange import End

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MIXED = [
    MinKey(), None, float("nan"), float("-inf"), -7, Int64(2**60), 1.5, Decimal128("2.5"), Decimal128("1E+400"), float("inf"),
    "", "a", "ä", "z" * 900, {}, {"a": 1}, {"a": 1, "b": None}, {"b": {"c": ["x", 1]}}, DBRef("c", 1), b"", b"\xff" * 40,
    Binary(b"\x01\x02", 128), uuid.UUID(int=5), uuid.UUID(int=6), ObjectId("0" * 24), ObjectId("f" * 24), False, True,
    DatetimeMS(-(2**62)), datetime(1, 1, 1, tzinfo=UTC), MOMENT, MOMENT + timedelta(milliseconds=1), DatetimeMS(2**62),
    Timestamp(1, 1), Timestamp(1, 2), Code("f()"), Code("g()"), MaxKey(),
]  # fmt: skip


def walk(collection, size, end=None, start=None):
    """All keys that the ranges select, in the order of the walk."""
    lowest, highest = keyrange.bounds(collection)
    start, end = lowest if start is None else start, end or End(highest)
    found = []
    for _ in range(10_000):
        span = keyrange.next_range(collection, start, end, size)
        keys = [row["_id"] for row in collection.find(span.filter, {"_id": 1}).sort("_id", 1)]
        assert len(keys) <= size + 1
        found += keys
        if span.final:
            return found
        start = span.stop
    raise AssertionError("the walk does not end")


def names(keys):
    return [canonical({"k": key}) for key in keys]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_every_key_of_every_type_is_walked_once_in_index_order(db, size):
    db.mixed.insert_many([{"_id": key} for key in MIXED])
    wanted = [row["_id"] for row in db.mixed.find().sort("_id", 1)]
    assert len(wanted) == len(MIXED)

    assert names(walk(db.mixed, size)) == names(wanted)


def test_a_collection_of_one_document_is_one_range_whatever_its_key(db):
    for key in MIXED:
        db.one.delete_many({})
        db.one.insert_one({"_id": key})

        assert names(walk(db.one, 1)) == names([key])
        stored = db.one.find_one()["_id"]  # another object of the same value, as a checkpoint gives it back
        assert names(walk(db.one, 1, End(stored), start=key)) == names([key])
        assert walk(db.one, 1, End(stored, inclusive=False), start=key) == []


def test_an_exclusive_end_is_left_out_and_an_inclusive_one_is_not(db):
    db.n.insert_many([{"_id": i} for i in range(10)])

    for size in (1, 2, 3, 4, 10, 11):
        assert walk(db.n, size, End(6)) == list(range(7))
        assert walk(db.n, size, End(6, inclusive=False)) == list(range(6))


def test_an_end_need_not_exist(db):
    db.n.insert_many([{"_id": i} for i in (*range(6), *range(7, 10))])

    for end in (6, 5.5, Decimal128("6.5"), "a"):
        wanted = [0, 1, 2, 3, 4, 5, 7, 8, 9] if end == "a" else list(range(6))
        for inclusive in (True, False):
            assert walk(db.n, 2, End(end, inclusive=inclusive)) == wanted


def test_an_end_before_the_first_key_left_is_an_empty_walk(db):
    """All documents up to the end were deleted meanwhile."""
    db.n.insert_many([{"_id": i} for i in range(5, 9)])

    for end in (3, Decimal128("3"), None, float("nan"), MinKey()):
        for inclusive in (True, False):
            assert walk(db.n, 2, End(end, inclusive=inclusive)) == []


def test_deleted_boundaries_neither_skip_nor_repeat(db):
    db.n.insert_many([{"_id": i} for i in range(20)])
    first = keyrange.next_range(db.n, 0, End(19), 5)
    assert first.stop == 5
    db.n.delete_many({"_id": {"$in": [4, 5, 6, 10, 19]}})

    assert walk(db.n, 4, End(19), start=first.stop) == [7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18]


def test_bounds_of_nothing_are_none(db):
    assert keyrange.bounds(db.missing) is None
    db.create_collection("empty")
    assert keyrange.bounds(db.empty) is None


def test_a_collation_of_the_collection_is_followed(db):
    db.create_collection("names", collation={"locale": "en", "strength": 2})
    db.names.insert_many([{"_id": key} for key in ("b", "A", "C", "d", "É", "e", "Z")])

    assert walk(db.names, 2) == ["A", "b", "C", "d", "e", "É", "Z"]


def test_clustered_and_capped_collections_are_walked_too(db):
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    db.create_collection("capped", capped=True, size=65_536)
    for collection in (db.clustered, db.capped):
        collection.insert_many([{"_id": i} for i in (*range(5), "a", "b")])
        assert walk(collection, 3) == [0, 1, 2, 3, 4, "a", "b"]
        assert walk(collection, 3, End(-1)) == []
        assert walk(collection, 3, End("b"), start="b") == ["b"]
