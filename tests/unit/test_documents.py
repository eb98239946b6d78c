"""BSON values: one text for one value, and digests of sets that do not depend on order."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from mongo_ops.mongo.documents import as_stored, canonical, digest, set_digest

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SAME = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
    ({"a": MOMENT}, {"a": MOMENT.astimezone(timezone(timedelta(hours=5)))}),
    ({"a": MOMENT}, {"a": MOMENT + timedelta(microseconds=1)}),  # BSON keeps milliseconds
    ({"a": uuid.UUID(int=7)}, {"a": Binary.from_uuid(uuid.UUID(int=7))}),
    ({"a": (1, 2)}, {"a": [1, 2]}),
]
DIFFERENT = [
    *({"a": value} for value in (1, Int64(1), 1.0, Decimal128("1"), Decimal128("1.0"), "1", True, None, [1], {"0": 1}, b"1")),
    *({"a": value} for value in (float("nan"), float("inf"), -0.0, 0.0, "", {}, [], [None])),
    *({"a": value} for value in ([1, 2], [2, 1], "é", "e\u0301", ObjectId("0" * 24), "0" * 24, Binary(b"1", 5))),
    *({"a": value} for value in (MOMENT, MOMENT + timedelta(milliseconds=1), Timestamp(1, 2), Regex("a"), Regex("a", "i"))),
    *({"a": DatetimeMS(value)} for value in (2**62, -(2**62))),
    {}, {"b": 1},
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_value_has_one_text(one, other):
    assert canonical(one) == canonical(other)
    assert digest(one) == digest(other)


def test_different_values_have_different_texts():
    assert len({canonical(document) for document in DIFFERENT}) == len(DIFFERENT)


def test_a_document_is_what_a_read_returns():
    stored = as_stored(
        {"n": 5, "t": MOMENT + timedelta(microseconds=9), "u": uuid.UUID(int=1), "far": DatetimeMS(2**62)}
    )

    assert stored == {"n": 5, "t": MOMENT, "u": uuid.UUID(int=1), "far": DatetimeMS(2**62)}
    assert stored["t"].tzinfo is not None


def test_a_set_digest_ignores_order_and_sees_everything_else():
    documents = [{"_id": i, "n": i % 3} for i in range(20)]
    base = set_digest(documents)

    assert base[0] == 20
    assert len(base[1]) == 64
    assert set_digest(reversed(documents)) == base
    assert set_digest(iter(documents)) == base
    assert set_digest(documents[1:]) != base
    assert set_digest([*documents[1:], documents[1]]) != base
    assert set_digest([*documents[1:], {"_id": 0, "n": 1}]) != base
    assert set_digest([]) == (0, "0" * 64)
