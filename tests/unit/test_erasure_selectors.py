"""Forms of a value, filters for many people at once, and whose a document is."""

from __future__ import annotations

from uuid import UUID

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from mongo_ops.erasure.forms import Index, forms, index_of, key_of, texts
from mongo_ops.erasure.model import Identifier, Subject
from mongo_ops.erasure.paths import covers, is_path, knows, reached, steps
from mongo_ops.erasure.selectors import applies, branches, conditions, filter_for, indexed, is_anywhere, lead, owners

A, B = ObjectId("a" * 24), ObjectId("b" * 24)
U = UUID("12345678-1234-4678-9234-567812345678")
BINARY_U = Binary(U.bytes, 4)


def one(name="x", types=("string",), **rest):
    return Identifier(name, "c", "p", types=types, **rest)


IDS = {
    "user_id": one("user_id", ("objectId", "string"), forbid=("anonymous", 0)),
    "email": one("email"),
    "number": one("number", ("int",)),
}


@pytest.mark.parametrize(
    ("types", "value", "expected"),
    [
        (("objectId",), A, (A,)),
        (("objectId", "string"), A, (A, "a" * 24)),
        (("objectId",), "A" * 24, (A,)),
        (("objectId", "string"), "A" * 24, (A, "A" * 24, "a" * 24)),
        (("string",), A, ("a" * 24,)),
        (("uuid",), U, (BINARY_U, str(U))),
        (("uuid",), str(U).upper(), (BINARY_U, str(U))),
        (("uuid",), U.hex, (BINARY_U, str(U))),
        (("uuid",), BINARY_U, (BINARY_U, str(U))),
        (("uuid",), Binary(U.bytes, 3), ()),  # nobody knows in which order an old driver put the bytes
        (("int",), 5, (5,)),
        (("int",), "5", (5,)),
        (("int", "string"), 5, (5, "5")),
        (("int",), 2**63, ()),
        (("int",), 5.5, ()),
        (("string",), "Ana@X.org", ("Ana@X.org", "ana@x.org")),
        (("binary",), b"\x00\x01", (b"\x00\x01",)),
        (("objectId",), "no id", ()),
        (("string",), {"$ne": None}, ()),
        (("string",), ["a"], ()),
    ],
)
def test_a_value_is_looked_for_in_every_form_in_which_it_may_be_stored(types, value, expected):
    assert forms(one(types=types), value) == expected
    assert [type(form) for form in forms(one(types=types), value)] == [type(form) for form in expected]


@pytest.mark.parametrize("value", [None, "", "  \t", True, False, "anonymous", " ANONYMOUS ", 0, "0"])
def test_what_names_nobody_has_no_form(value):
    identifier = one(types=("objectId", "string", "int", "uuid", "binary"), forbid=("anonymous", 0))
    assert forms(identifier, value) == ()
    assert texts(identifier, value) == ()


def test_values_are_told_apart_as_mongodb_does():
    assert key_of(1) == key_of(Int64(1)) == key_of(1.0) == key_of(Decimal128("1")) != key_of(True)
    assert key_of(A) != key_of(str(A))
    assert key_of(U) == key_of(BINARY_U) != key_of(U.bytes)
    assert [key_of(value) for value in (None, {}, [], float("nan"), 0.5)] == [None] * 5


@given(
    st.one_of(
        st.text(),
        st.integers(),
        st.binary(),
        st.booleans(),
        st.none(),
        st.uuids(),
        st.binary(min_size=12, max_size=12).map(ObjectId),
    )
)
def test_forms_of_forms_are_the_same_forms(value):
    identifier = one(types=("objectId", "uuid", "int", "string", "binary"))
    for form in forms(identifier, value):
        assert key_of(form) in {key_of(again) for again in forms(identifier, form)}
        assert key_of(form) is not None


# Paths ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a", "a.b", "a[].b", "a[][]", "likes.{user_id}", "details.*", "_id.x", "ref.$id", "naïve-key"]
)
def test_paths(path):
    assert is_path(path)


@pytest.mark.parametrize(
    "path", ["", ".", "a.", "a..b", "$where", "a.$ne", "a[0]", "a[", "{x}y", "a*", "[]", " a", "a\0"]
)
def test_what_is_no_path(path):
    assert not is_path(path)


def test_steps_and_what_fields_cover():
    assert steps("a[].b.c[][]") == ("a", "[]", "b", "c", "[]", "[]")
    fields = {"email", "address.city", "credits[].name", "details.*", "embedding.*"}
    covered = [
        "email",
        "address.city",
        "credits[].name",
        "details",
        "details.x.y[]",
        "embedding[]",
        "details.{user_id}",
    ]
    assert [
        path
        for path in [*covered, "address", "credits", "e", "credits.name", "likes.{user_id}"]
        if covers(fields, path)
    ] == covered
    assert knows(fields, "address")
    assert knows(fields, "credits[]")
    assert not knows(fields, "addr")
    assert covers({"likes.*"}, "likes.{user_id}")


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ({"a": 1}, "a", [1]),
        ({"a": [1, 2]}, "a[]", [[1, 2], 1, 2]),
        ({"a": [{"b": 1}, {"b": [2]}, 3, {"c": 4}]}, "a[].b", [1, [2], 2]),
        ({"a": {"b": 1}}, "a[].b", [1]),
        ({"a": None}, "a.b", []),
        ({"a": None}, "a", [None]),
        ({"a": [[{"b": 1}]]}, "a.b", []),  # MongoDB does not look into arrays of arrays either
        ({}, "a", []),
    ],
)
def test_a_path_reaches_what_mongodb_compares(document, path, expected):
    assert list(reached(document, path)) == expected


# Filters ----------------------------------------------------------------------------------------------------------------

FILTERS = [
    ({"u": "$user_id"}, {"user_id": [A]}, {"u": {"$in": [A, "a" * 24]}}),
    ({"u": "$user_id"}, {"user_id": [A, B]}, {"u": {"$in": [A, "a" * 24, B, "b" * 24]}}),
    ({"u": "$user_id"}, {"user_id": [None, "", "anonymous", 0]}, None),
    ({"u": "$user_id"}, {}, None),
    ({"kind": "user", "u": "$user_id"}, {"user_id": []}, None),
    ({"kind": "user"}, {"user_id": [A]}, None),  # nobody is asked for: never everybody
    ({}, {"user_id": [A]}, None),
    ({"kind": "user", "n": "$number"}, {"number": [5]}, {"kind": {"$eq": "user"}, "n": {"$in": [5]}}),
    ({"kind": ["a", "b"], "n": "$number"}, {"number": [5]}, {"kind": {"$in": ["a", "b"]}, "n": {"$in": [5]}}),
    ({"kind": {"not": "a"}, "n": "$number"}, {"number": [5]}, {"kind": {"$nin": ["a"]}, "n": {"$in": [5]}}),
    ({"chain": {"exists": False}, "n": "$number"}, {"number": [5]}, {"chain": {"$exists": False}, "n": {"$in": [5]}}),
    ({"e": "$email"}, {"email": ['{"$ne": null}']}, {"e": {"$in": ['{"$ne": null}']}}),
    ({"e": "$email"}, {"email": [{"$ne": None}]}, None),
    ({"e": "$email"}, {"email": ["$where"]}, {"e": {"$in": ["$where"]}}),
    ({"a[].u": "$number"}, {"number": [5]}, {"a.u": {"$in": [5]}}),
    ({"a[]": "$number"}, {"number": [5]}, {"a": {"$in": [5]}}),
    (
        {"a[].u": "$number", "a[].role": "x", "z": 1},
        {"number": [5]},
        {"a": {"$elemMatch": {"u": {"$in": [5]}, "role": {"$eq": "x"}}}, "z": {"$eq": 1}},
    ),
    (
        {"any": [{"t": "u", "n": "$number"}, {"t": "e", "e": "$email"}]},
        {"number": [5]},
        {"t": {"$eq": "u"}, "n": {"$in": [5]}},
    ),
    (
        {"k": 1, "any": [{"n": "$number"}, {"e": "$email"}]},
        {"number": [5], "email": ["a"]},
        {"$or": [{"k": {"$eq": 1}, "n": {"$in": [5]}}, {"k": {"$eq": 1}, "e": {"$in": ["a"]}}]},
    ),
    ({"anywhere": ["number"]}, {"number": [5]}, None),
]  # fmt: skip


@pytest.mark.parametrize(("select", "closures", "expected"), FILTERS)
def test_filters(select, closures, expected):
    assert filter_for(select, closures, IDS) == expected


def test_what_a_selection_demands_whoever_the_person_is():
    select = {"chain": {"exists": False}, "kind": ["a", "b"], "anywhere": ["email"]}

    assert is_anywhere(select)
    assert conditions(select) == {"chain": {"$exists": False}, "kind": {"$in": ["a", "b"]}}
    assert conditions({"anywhere": ["email"]}) == {}
    assert conditions({"any": [{"t": 1, "n": "$number"}, {"n": "$number"}]}) == {}
    assert conditions({"any": [{"t": 1, "n": "$number"}, {"t": 2, "n": "$number"}]}) == {
        "$or": [{"t": {"$eq": 1}}, {"t": {"$eq": 2}}]
    }
    assert applies({"kind": "b"}, select)
    assert not applies({"kind": "b", "chain": {}}, select)
    assert not applies({"kind": "c"}, select)
    assert applies({"kind": "c"}, {"kind": {"not": "a"}, "anywhere": ["email"]})


def test_an_index_leads_to_documents_when_only_constants_stand_before():
    select = {"any": [{"t": "user", "i": "$user_id"}, {"t": "artist", "i": "$email"}]}

    assert lead(select, IDS) is None
    assert [lead(branch, IDS) for branch in branches(select)] == [("i", "user_id"), ("i", "email")]
    assert lead({"a[].u": "$user_id"}, IDS) == ("a.u", "user_id")
    assert lead({"likes.{user_id}": "exists"}, IDS) is None
    assert lead({"anywhere": ["email"]}, IDS) is None
    assert indexed(select, [("t", "i", "at")], IDS)
    assert indexed(select, [("i",)], IDS)
    assert not indexed(select, [("at", "i"), ("t",)], IDS)
    assert not indexed({"t": {"not": "x"}, "i": "$user_id"}, [("t", "i")], IDS)  # not a constant
    assert indexed({"a[].u": "$user_id"}, [("a.u",)], IDS)


# Whose a document is ----------------------------------------------------------------------------------------------------

PEOPLE = index_of(
    [
        Subject("r1", "sr1", {"user_id": (A,), "email": ("Ana@x.org",), "number": (1,)}),
        Subject("r2", "sr2", {"user_id": (B,), "email": ("bo@x.org",), "number": (1,)}),
    ],
    IDS.values(),
)


@pytest.mark.parametrize(
    ("document", "select", "expected"),
    [
        ({"u": A}, {"u": "$user_id"}, {"r1"}),
        ({"u": str(A)}, {"u": "$user_id"}, {"r1"}),
        ({"u": "A" * 24}, {"u": "$user_id"}, set()),
        ({"u": [A, B]}, {"u[]": "$user_id"}, {"r1", "r2"}),
        ({"u": None}, {"u": "$user_id"}, set()),
        ({}, {"u": "$user_id"}, set()),
        ({"n": 1.0}, {"n": "$number"}, {"r1", "r2"}),
        ({"n": True}, {"n": "$number"}, set()),
        (
            {"u": A, "e": "bo@x.org"},
            {"u": "$user_id", "e": "$email"},
            set(),
        ),  # two people's values are nobody's document
        ({"u": A, "e": "ana@x.org"}, {"u": "$user_id", "e": "$email"}, {"r1"}),
        ({"u": A, "k": 1}, {"u": "$user_id", "k": 2}, set()),
        ({"u": A, "e": "bo@x.org"}, {"any": [{"u": "$user_id"}, {"e": "$email"}]}, {"r1", "r2"}),
        ({"c": [{"u": A, "r": "x"}, {"u": B, "r": "y"}]}, {"c[].u": "$user_id", "c[].r": "y"}, {"r2"}),
        ({"c": [{"u": A}, {"r": "y"}]}, {"c[].u": "$user_id", "c[].r": "y"}, set()),
        ({"likes": {str(A): 1, "z": 1}}, {"likes.{user_id}": "exists"}, {"r1"}),
        ({"likes": {"bo@x.org": 1}}, {"likes.{email}": "exists"}, {"r2"}),
        ({"likes": [str(A)]}, {"likes.{user_id}": "exists"}, set()),
    ],
)
def test_owners(document, select, expected):
    assert owners(document, select, PEOPLE) == expected


def test_an_index_knows_its_names_even_when_nobody_has_a_value():
    index = index_of([], IDS.values())
    assert isinstance(index, Index)
    assert (index, index.names) == ({}, ("user_id", "email", "number"))
