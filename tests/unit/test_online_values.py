"""The pure parts of online migrations: bytes of documents, buckets, reasons to wait, what a role loses."""

from __future__ import annotations

import bson
import pytest
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Regex, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mongo_ops.mongo.documents import CODEC
from mongo_ops.online import compare, fence, pace, shape, sides, writers
from mongo_ops.online.errors import SpecError
from mongo_ops.online.model import Phase, SliceResult
from mongo_ops.online.rights import Rights

KEYS = [
    1, Int64(1), 1.0, Decimal128("1"), "1", "", None, True, False, ObjectId(b"a" * 12), b"x", Binary(b"x", 4 + 2), {"a": 1},
    {}, {"$ref": "a", "$id": 1}, [1], Timestamp(1, 2), Regex("a"), bson.MinKey(), bson.MaxKey(), "a\0b", DBRef("c", 1),
]  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def raw(document):
    return bson.encode(document, codec_options=CODEC)


def test_keys_of_every_type_are_told_apart():
    found = {shape.id_bytes(raw({"_id": key, "n": 5})) for key in KEYS}
    assert len(found) == len(KEYS)
    assert all(shape.id_bytes(raw({"_id": key, "other": "x"})) in found for key in KEYS)


@given(values, values)
def test_the_same_key_gives_the_same_bytes_whatever_follows(key, other):
    assert shape.id_bytes(raw({"_id": key, "x": other})) == shape.id_bytes(raw({"_id": key}))


@given(st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=2), values, max_size=3), max_size=8))
def test_a_batch_is_split_into_its_documents(documents):
    encoded = [raw(one) for one in documents]
    assert list(shape.split(b"".join(encoded))) == encoded


def test_a_document_is_compared_as_it_would_be_stored():
    assert shape.as_inserted(raw({"a": 1, "_id": 2})) == raw({"_id": 2, "a": 1})
    with pytest.raises(SpecError, match="removes _id"):
        shape.as_inserted(raw({"a": 1}))


def side(*documents):
    return lambda session: iter([raw(one) for one in documents])


@given(st.lists(values, max_size=12, unique_by=lambda key: raw({"_id": key})), st.data())
def test_buckets_find_exactly_what_differs(keys, data):
    first = [{"_id": key, "n": 1} for key in keys]
    changed = data.draw(st.sets(st.sampled_from(range(len(keys))))) if keys else set()
    second = [{**one, "n": 1.0} if number in changed else one for number, one in enumerate(first)]
    found = compare.compare(side(*first), side(*reversed(second)), None)
    assert {raw({"k": key}) for key in found.keys} == {raw({"k": keys[number]}) for number in changed}
    assert (found.documents, found.more) == (len(keys), False)


def test_missing_extra_and_exchanged_documents_are_found():
    wanted = side({"_id": 1, "v": "a"}, {"_id": 2, "v": "b"}, {"_id": 3})
    actual = side({"_id": 1, "v": "b"}, {"_id": 2, "v": "a"}, {"_id": 4})
    assert sorted(compare.compare(wanted, actual, None).keys) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("key", "says"), [(5, "5"), (Int64(6), "6"), (ObjectId(b"a" * 12), "616161616161616161616161")]
)
def test_keys_without_a_meaning_are_shown(key, says):
    assert compare.shown(key) == says


@pytest.mark.parametrize("key", ["anna@example.org", True, 1.5, {"email": "anna"}, b"anna"])
def test_keys_that_may_be_personal_are_not_shown(key):
    assert compare.shown(key).startswith("_id with digest ")
    assert "anna" not in compare.shown(key)


@pytest.mark.parametrize(
    ("first", "stop", "expected"),
    [
        ({}, {}, {}),
        ({"key": None}, {}, {"$expr": {"$and": [{"$gte": ["$_id", {"$literal": None}]}]}}),
        (
            {"key": 1},
            {"key": "$x"},
            {"$expr": {"$and": [{"$gte": ["$_id", {"$literal": 1}]}, {"$lt": ["$_id", {"$literal": "$x"}]}]}},
        ),
    ],
)
def test_ranges_are_open_where_nothing_bounds_them(first, stop, expected):
    assert sides.between(first, stop) == expected


@pytest.mark.parametrize(
    ("load", "limits", "says"),
    [
        ({"queue": 5.0}, {}, None),
        ({"queue": 5.0}, {"queue": 5}, None),
        ({"queue": 6.0}, {"queue": 5}, "6 operations waiting for a lock (limit 5)"),
        ({}, {"queue": 0}, None),
    ],
)
def test_load_over_a_limit_is_said(load, limits, says):
    assert pace.over(load, limits) == says


@pytest.mark.parametrize(
    ("token", "oldest", "now", "fill", "expected"),
    [
        (900, 0, 1000, 1.0, False),  # most of the window is behind the token
        (199, 0, 1000, 1.0, True),  # less than a fifth is
        (201, 0, 1000, 1.0, False),
        (199, 0, 1000, 0.5, False),  # an oplog that is not full yet loses nothing
        (0, 0, 1000, 0.95, True),
    ],
)
def test_how_long_a_pause_may_last(token, oldest, now, fill, expected):
    assert pace.too_long(Timestamp(token, 1), Timestamp(oldest, 1), Timestamp(now, 1), fill) is expected


def test_metrics_come_from_the_servers_status():
    status = {
        "globalLock": {"currentQueue": {"total": 3}, "activeClients": {"total": 7}},
        "connections": {"current": 11},
        "wiredTiger": {"cache": {"maximum bytes configured": 200, "tracked dirty bytes in the cache": 50}},
    }
    assert pace.load_of(status) == {"queue": 3.0, "active": 7.0, "connections": 11.0, "dirty": 25.0}
    assert pace.load_of({}) == {"queue": 0.0, "active": 0.0, "connections": 0.0, "dirty": 0.0}


@pytest.mark.parametrize(
    ("document", "fields", "expected"),
    [
        ({"a": 1}, ["a"], {"a": {"$in": [1]}}),
        ({"a": [1, 2]}, ["a"], {"a": {"$in": [1, 2]}}),
        ({"a": [{"b": 1}, {"b": 2}], "c": 3}, ["a.b", "c"], {"a.b": {"$in": [1, 2]}, "c": {"$in": [3]}}),
        ({"a": 1}, ["a", "c"], {"a": {"$in": [1]}, "c": None}),
        ({}, ["a"], {}),
    ],
)
def test_what_may_hold_the_same_unique_value(document, fields, expected):
    assert writers._values(document, fields) == expected


def test_a_role_loses_the_right_to_write_to_the_collection_and_nothing_else():
    def privilege(collection, *actions, db="shop"):
        return {"resource": {"db": db, "collection": collection}, "actions": list(actions)}

    privileges = [
        privilege("tracks", "find", "insert"), privilege("", "update", "remove", "find"), privilege("users", "insert"),
        privilege("tracks", "insert", db="other"), privilege("tracks", "find"),
    ]  # fmt: skip
    assert fence._lost(privileges, "shop", "tracks") == [
        privilege("tracks", "insert"),
        privilege("", "remove", "update"),
    ]


@pytest.mark.parametrize(
    ("logged_in", "privileges", "sharded", "anything"),
    [
        (False, (), False, True),
        (False, (), True, False),
        (True, (), False, False),
        (True, ({"resource": {"anyResource": True}, "actions": ["anyAction"]},), False, True),
        (True, ({"resource": {"cluster": True}, "actions": ["setUserWriteBlockMode"]},), False, False),
    ],
)
def test_who_may_send_commands_by_apply_ops(logged_in, privileges, sharded, anything):
    rights = Rights(logged_in, privileges, sharded)
    assert rights.anything is anything
    assert rights.on_cluster("setUserWriteBlockMode") is any("setUser" in one["actions"][0] for one in privileges)


def test_a_slice_tells_what_it_did_in_a_line():
    waiting = SliceResult(Phase.BACKFILL, False, "paused", {"documents": 1200}, Phase.BACKFILL)
    assert str(waiting) == "backfill: documents 1,200; waiting: paused"
    assert waiting.as_dict()["next"] == "backfill"
