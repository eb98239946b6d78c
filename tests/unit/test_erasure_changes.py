"""What becomes of a document: only what belongs to the given people changes, and doing it twice changes nothing more."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime
from uuid import UUID

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId, Regex
from bson.dbref import DBRef
from hypothesis import given
from hypothesis import strategies as st

from mongo_ops.erasure.changes import UnaddressableFieldError, settled, transform
from mongo_ops.erasure.forms import index_of
from mongo_ops.erasure.model import Change, Identifier, Subject
from mongo_ops.mongo.documents import CODEC

A, B, C = (ObjectId(letter * 24) for letter in "abc")
U = UUID("12345678-1234-4678-9234-567812345678")
IDS = [
    Identifier("user_id", "users", "_id", types=("objectId", "string")),
    Identifier("email", "users", "email"),
    Identifier("name", "users", "name", trace=False, why="shared"),
    Identifier("key", "users", "key", types=("uuid",)),
]
PEOPLE = [
    Subject("r1", "sr1_one", {"user_id": (A,), "email": ("ana@x.org",), "name": ("Ana Lima",), "key": (U,)}),
    Subject("r2", "sr1_two", {"user_id": (B,), "email": ("bo@x.org",), "name": ("Bo",)}),
]
INDEX = index_of(PEOPLE, IDS)
REFERENCES = {one.request_id: one.reference for one in PEOPLE}
TRACED = ["user_id", "email", "key"]
_TRACES = {
    str(A): "sr1_one",
    "ana@x.org": "sr1_one",
    str(U): "sr1_one",
    A.binary.hex(): "sr1_one",
    str(B): "sr1_two",
    "bo@x.org": "sr1_two",
}
_PATTERN = re.compile("|".join(map(re.escape, _TRACES)), re.IGNORECASE)


def redactor(text):
    return _PATTERN.sub(lambda match: _TRACES[match[0].lower()], text)


def after(document, changes, owners=None):
    """Carry the changes out as MongoDB would; check what must hold for every document and every change."""
    before = copy.deepcopy(document)
    update = transform(document, changes, INDEX, REFERENCES, redactor, owners=owners)
    assert document == before, "the given document must stay as it is"
    if update is None:
        assert settled(document, changes, INDEX, owners=owners, traced=TRACED)
        return document
    assert not settled(document, changes, INDEX, owners=owners, traced=TRACED)
    assert update
    assert all(update.values())
    assert update.keys() <= {"$set", "$unset"}
    found = {
        name: update.get("$set", {}).get(name, value)
        for name, value in document.items()
        if name not in update.get("$unset", {})
    }
    found |= {name: value for name, value in update.get("$set", {}).items() if name not in document}
    assert transform(found, changes, INDEX, REFERENCES, redactor, owners=owners) is None, (
        "a second time changes nothing"
    )
    assert settled(found, changes, INDEX, owners=owners, traced=TRACED)
    return found


NAME = Change("credits[].name", "set", "Former artist", where={"user_id": "$user_id"})
UNLINK = Change("credits[].user_id", "unset", where={"user_id": "$user_id"})
NAMELESS = Change("credits[].name", "set", "Former artist", where={"name": "$name", "user_id": {"exists": False}})

CASES = {
    "unset": ({"_id": 1, "bio": "x", "n": 1}, [Change("bio", "unset")], {"_id": 1, "n": 1}),
    "unset what is not there": ({"n": 1}, [Change("bio", "unset")], {"n": 1}),
    "unset below": ({"a": {"b": 1, "c": 2}}, [Change("a.b", "unset")], {"a": {"c": 2}}),
    "unset below what is no document": ({"a": 5}, [Change("a.b", "unset")], {"a": 5}),
    "set": ({"name": "Ana", "n": 1}, [Change("name", "set", "Former artist")], {"name": "Former artist", "n": 1}),
    "set null": ({"owner": A}, [Change("owner", "set", None)], {"owner": None}),
    "set takes nothing for granted": ({"n": 1}, [Change("name", "set", "x")], {"n": 1}),
    "set tells true from one": ({"n": True}, [Change("n", "set", 1)], {"n": 1}),
    "pull": ({"c": [C, A, B, C]}, [Change("c[]", "pull", where="$user_id")], {"c": [C, C]}),
    "pull texts": ({"c": [str(A), "x"]}, [Change("c[]", "pull", where="$user_id")], {"c": ["x"]}),
    "pull the last": ({"c": [A]}, [Change("c[]", "pull", where="$user_id")], {"c": []}),
    "pull a single value": ({"c": A, "n": 1}, [Change("c[]", "pull", where="$user_id")], {"n": 1}),
    "pull elements by a field": (
        {"c": [{"u": A, "x": 1}, {"u": C, "x": 2}]}, [Change("c[]", "pull", where={"u": "$user_id"})], {"c": [{"u": C, "x": 2}]},
    ),
    "pull in nested arrays": (
        {"a": [{"b": [A, C]}, {"b": [C]}, {"b": [B, A]}]},
        [Change("a[].b[]", "pull", where="$user_id")],
        {"a": [{"b": [C]}, {"b": [C]}, {"b": []}]},
    ),
    "pull in arrays of arrays": ({"a": [[A, C], [C]]}, [Change("a[][]", "pull", where="$user_id")], {"a": [[C], [C]]}),
    "elements": (
        {"credits": [{"name": "Ana", "user_id": A, "role": "x"}, {"name": "Ana", "user_id": C}, {"name": "Ana"}]},
        [UNLINK, NAME],  # conditions look at the element as it was, whatever the order
        {"credits": [{"name": "Former artist", "role": "x"}, {"name": "Ana", "user_id": C}, {"name": "Ana"}]},
    ),
    "elements by name": (
        {"credits": [{"name": "Ana Lima"}, {"name": "Ana Lima", "user_id": C}, {"name": "Ana Limas"}]},
        [NAMELESS],
        {"credits": [{"name": "Former artist"}, {"name": "Ana Lima", "user_id": C}, {"name": "Ana Limas"}]},
    ),
    "one element instead of an array": (
        {"credits": {"name": "Ana", "user_id": A}}, [NAME, UNLINK], {"credits": {"name": "Former artist"}},
    ),
    "an element that is no document": ({"credits": [A, None, 1]}, [NAME, UNLINK], {"credits": [A, None, 1]}),
    "an array without a mark": ({"credits": [{"u": 1}, {"v": 2}]}, [Change("credits.u", "unset")], {"credits": [{}, {"v": 2}]}),
    "dynamic key": (
        {"likes": {str(A): 5, str(C): 6}}, [Change("likes.{user_id}", "unset")], {"likes": {str(C): 6}},
    ),
    "dynamic key with dots": (
        {"likes": {"ana@x.org": {"n": 1, "m": 2}, "z": {"n": 1}}},
        [Change("likes.{email}.n", "unset")],
        {"likes": {"ana@x.org": {"m": 2}, "z": {"n": 1}}},
    ),
    "any key": ({"by": {"a": {"ip": 1}, "b": {"ip": 2, "n": 1}}}, [Change("by.*.ip", "unset")], {"by": {"a": {}, "b": {"n": 1}}}),
    "any key whose value mentions them": (
        {"personal": {"actor": {"value": "op"}, "subject": {"value": {"deep": ["x ana@x.org"]}}}},
        [Change("personal.*", "unset", where="anywhere")],
        {"personal": {"actor": {"value": "op"}}},
    ),
    "reference": ({"by": A}, [Change("by", "reference")], {"by": "sr1_one"}),
    "reference of a text": ({"by": str(A)}, [Change("by", "reference")], {"by": "sr1_one"}),
    "reference of somebody else": ({"by": C}, [Change("by", "reference")], {"by": C}),
    "reference in an array": ({"by": [C, B, A]}, [Change("by[]", "reference")], {"by": [C, "sr1_two", "sr1_one"]}),
    "reference beside": (
        {"user_id": A, "n": 1},
        [Change("user_id", "unset"), Change("subject_ref", "reference", of="user_id")],
        {"n": 1, "subject_ref": "sr1_one"},
    ),
    "reference beside, in elements": (
        {"a": [{"u": A}, {"u": C}]},
        [Change("a[].ref", "reference", of="a[].u"), Change("a[].u", "unset", where={"u": "$user_id"})],
        {"a": [{"ref": "sr1_one"}, {"u": C}]},
    ),
    "redact text": ({"t": "by Ana@X.org today"}, [Change("t", "redact")], {"t": "by sr1_one today"}),
    "redact deep": (
        {"d": {"x": [{"who": A, "n": 1}, "for bo@x.org"], "ana@x.org": {"k": U}, "n": Int64(5)}},
        [Change("d", "redact")],
        {"d": {"x": [{"who": "sr1_one", "n": 1}, "for sr1_two"], "sr1_one": {"k": "sr1_one"}, "n": Int64(5)}},
    ),
    "redact keys that fall together": (
        {"d": {"ana@x.org": 1, str(A): 2}}, [Change("d", "redact")], {"d": {"sr1_one": 1, "sr1_one_1": 2}},
    ),
    "redact bytes": (
        {"d": [Binary(b"to ana@x.org\xff", 0), Binary(b"x", 128)]},
        [Change("d", "redact")],
        {"d": [b"to sr1_one\xff", Binary(b"x", 128)]},
    ),
    "redact names": (
        {"composer": "ANA LIMA, Bo & Anaís; Ana Limas/Bob"},
        [Change("composer", "redact", "Former artist", of="name")],
        {"composer": "Former artist, Former artist & Anaís; Ana Limas/Bob"},
    ),
    "redact names by default": ({"t": "Bo"}, [Change("t", "redact", of="name")], {"t": "[removed]"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_changes(case):
    document, changes, expected = CASES[case]

    found = after(document, changes)

    assert bson.encode(found, codec_options=CODEC) == bson.encode(expected, codec_options=CODEC)


def test_values_of_people_whose_document_it_is_not_are_left_alone():
    document = {"credits": [{"name": "x", "user_id": A}, {"name": "y", "user_id": B}], "composer": "Bo, Ana Lima"}
    changes = [NAME, UNLINK, Change("composer", "redact", of="name")]

    found = after(document, changes, owners={"r1"})

    assert found == {"credits": [{"name": "Former artist"}, {"name": "y", "user_id": B}], "composer": "Bo, [removed]"}
    assert not settled(found, changes, INDEX, owners={"r2"}, traced=TRACED)
    assert after(found, changes, owners={"r2"})["credits"] == [{"name": "Former artist"}] * 2


def test_two_namesakes_in_one_run_are_both_found():
    index = index_of([Subject("r1", "s1", {"name": ("Ana",)}), Subject("r2", "s2", {"name": ("ana",)})], IDS)
    change = [Change("t", "redact", "-", of="name")]

    for owner in ("r1", "r2"):
        assert transform({"t": "Ana"}, change, index, {}, str, owners={owner}) == {"$set": {"t": "-"}}
    assert transform({"t": "Ana"}, change, index, {}, str, owners={"r3"}) is None


def test_the_longest_of_names_in_one_another_is_replaced_once():
    index = index_of([Subject("r1", "s1", {"name": ("Lima", "Ana Lima", "P!nk", "Wham!")})], IDS)
    change = [Change("t", "redact", "-", of="name")]

    for text, expected in (
        ("Ana Lima, Lima", "-, -"),
        ("Ana Lima Ana", "- Ana"),
        ("P!nk/Wham!", "-/-"),
        ("Limas Wham", None),
    ):
        update = transform({"t": text}, change, index, {}, str)
        assert update == (expected and {"$set": {"t": expected}}), text


def test_bytes_with_an_id_in_binary_become_empty():
    document = {"d": Binary(b"\0" + A.binary, 0), "e": b"\0" + C.binary}

    assert transform(document, [Change("d", "redact"), Change("e", "redact")], INDEX, REFERENCES, redactor) == {
        "$set": {"d": Binary(b"", 0)}
    }


def test_values_that_are_not_touched_keep_their_types():
    kept = {
        "i": Int64(1),
        "d": Decimal128("1.10"),
        "f": 1.0,
        "t": datetime(2026, 1, 1, tzinfo=UTC),
        "r": Regex("^a", "i"),
        "n": None,
    }
    document = {"a": [{"u": C, **kept}, {"u": A}, {**kept}], "code": Code("x", {"y": 1}), "ref": DBRef("users", C)}
    raw = bson.encode(document, codec_options=CODEC)
    stored = bson.decode(raw, CODEC)

    found = after(
        stored, [Change("a[]", "pull", where={"u": "$user_id"}), Change("code", "redact"), Change("ref", "redact")]
    )

    expected = {**document, "a": [document["a"][0], document["a"][2]]}
    assert bson.encode(found, codec_options=CODEC) == bson.encode(expected, codec_options=CODEC)


def test_what_refers_between_collections_is_redacted_too():
    found = after(
        {"ref": DBRef("users", A), "re": Regex("ana@x\\.org|ana@x.org")},
        [Change("ref", "redact"), Change("re", "redact")],
    )

    assert found == {"ref": {"$ref": "users", "$id": "sr1_one"}, "re": Regex("ana@x\\.org|sr1_one")}


@pytest.mark.parametrize("name", ["a.b", "$a"])
def test_a_field_that_no_update_can_name_is_refused(name):
    with pytest.raises(UnaddressableFieldError) as caught:
        transform({name: "ana@x.org"}, [Change("*", "redact")], INDEX, REFERENCES, redactor)
    assert name not in str(caught.value)


def test_a_no_op_is_never_settled():
    for document, changes, expected in CASES.values():
        if document != expected or any(type(document[k]) is not type(v) for k, v in expected.items() if k in document):
            assert not settled(document, changes, INDEX, traced=TRACED), document


# Whatever the document ----------------------------------------------------------------------------------------------------

people = st.sampled_from([A, B, C, str(A), str(C)])
entry = st.fixed_dictionaries(
    {}, optional={"user_id": people, "name": st.sampled_from(["Ana", "Ana Lima", "Bo"]), "n": st.integers(0, 9)}
)
documents = st.fixed_dictionaries(
    {"_id": st.integers()},
    optional={
        "credits": st.one_of(st.lists(st.one_of(entry, people, st.none()), max_size=6), entry, st.none()),
        "collaborators": st.one_of(st.lists(people, max_size=6), people),
        "likes": st.dictionaries(st.sampled_from([str(A), str(C), "x", "a.b"]), st.integers(0, 9), max_size=4),
        "text": st.sampled_from(["", "ana@x.org", "Ana Lima and bo@x.org", "nobody"]),
        "by": st.one_of(people, st.none()),
    },
)
EVERYTHING = [
    NAME, UNLINK, NAMELESS, Change("collaborators[]", "pull", where="$user_id"), Change("likes.{user_id}", "unset"),
    Change("text", "redact", of="name"), Change("by", "reference"),
]  # fmt: skip


@given(documents)
def test_changes_are_idempotent_and_verifiable(document):
    after(document, EVERYTHING)


@given(documents)
def test_other_peoples_elements_are_byte_identical(document):
    found = after(document, EVERYTHING)

    def others(one):
        listed = one.get("credits") if isinstance(one.get("credits"), list) else []
        strangers = [e for e in listed if isinstance(e, dict) and e.get("user_id") in {C, str(C)}]
        collaborators = [e for e in listed_of(one, "collaborators") if e in (C, str(C))]
        likes = {key: value for key, value in one.get("likes", {}).items() if key != str(A)}
        return bson.encode({"e": strangers, "c": collaborators, "l": likes})

    assert others(found) == others(document)
    assert found["_id"] == document["_id"]
    assert str(A) not in str(found.get("likes"))


def listed_of(document, name):
    value = document.get(name, [])
    return value if isinstance(value, list) else [value]
