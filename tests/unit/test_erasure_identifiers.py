"""What may name a person in a request, and the traces that a value may leave."""

from __future__ import annotations

import base64
import hashlib
from uuid import UUID

import pytest
from bson import Binary, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from mongo_ops.erasure.identifiers import InvalidIdentifierError, encodings, parse_subject, patterns
from mongo_ops.erasure.model import BlastRadius, DataMap, Identifier

KEY = ObjectId("65F00000000000000000ABCD")
U = UUID("12345678-1234-4678-9234-5678123456aB")


def one(*types, **rest):
    return Identifier("user_id", "users", "_id", types=types or ("string",), **rest)


def data_map(*types):
    return DataMap(
        1, "user_id", {"user_id": one(*types, forbid=("anonymous", 0))}, {}, (), BlastRadius(), "P35D", {}, ""
    )


@pytest.mark.parametrize(
    ("types", "given_", "expected"),
    [
        (("objectId",), str(KEY), KEY),
        (("objectId",), f"  {KEY}\n", KEY),
        (("objectId",), KEY, KEY),
        (("objectId", "string"), str(KEY), KEY),
        (("string",), "Ana@X.org", "Ana@X.org"),
        (("int",), "42", 42),
        (("int",), 42, 42),
        (("uuid",), str(U), Binary(U.bytes, 4)),
        (("uuid", "objectId"), KEY, KEY),
    ],
)
def test_a_subject_is_read_as_its_type(types, given_, expected):
    found = parse_subject(data_map(*types), given_)

    assert found == expected
    assert type(found) is type(expected)


ANYTHING = ("objectId", "string", "int", "uuid")


@pytest.mark.parametrize(
    ("types", "bad", "said"),
    [
        (ANYTHING, None, "is empty"),
        (ANYTHING, "", "is empty"),
        (ANYTHING, " \n\t", "is empty"),
        (("binary",), b"", "is empty"),
        (ANYTHING, {"$ne": None}, "like a query"),
        (ANYTHING, {}, "like a query"),
        (ANYTHING, ["secretvalue"], "like a query"),
        (ANYTHING, '{"$ne": null}', "like a query"),
        (ANYTHING, "  [1]", "like a query"),
        (ANYTHING, "$where", "like a query"),
        (ANYTHING, "secret\x00value", "control characters"),
        (ANYTHING, "secret" * 200, "longer than"),
        (ANYTHING, "Anonymous", "names nobody"),
        (ANYTHING, 0, "names nobody"),
        (ANYTHING, "0", "names nobody"),
        (ANYTHING, True, "another type"),
        (("objectId", "string"), "secretvalue", "another type"),
        (("objectId",), "secretvalue", "another type"),
        (("objectId",), 1234567, "another type"),
        (("int",), "12secret", "another type"),
        (("int",), 1.5, "another type"),
        (("int",), "9" * 19, "another type"),
        (("uuid",), "secretvalue", "another type"),
    ],
)
def test_what_cannot_name_a_person_is_refused_and_never_shown(types, bad, said):
    with pytest.raises(InvalidIdentifierError) as caught:
        parse_subject(data_map(*types), bad)

    assert said in str(caught.value)
    assert "users._id" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "1234567" not in str(caught.value)


@given(
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.binary(),
        st.none(),
        st.lists(st.text()),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_whatever_is_given_is_a_value_or_refused(value):
    try:
        found = parse_subject(data_map("string", "objectId", "int"), value)
    except InvalidIdentifierError:
        return
    assert isinstance(found, ObjectId | int | str)
    assert found not in (None, "", 0, True)


def test_traces_of_an_object_id():
    found = encodings(one("objectId", "string"), KEY)

    raw = KEY.binary
    assert {
        raw.lower(),
        str(KEY).encode(),
        base64.b64encode(raw).lower(),
        base64.urlsafe_b64encode(raw).lower(),
    } <= set(found)
    assert all(pattern == pattern.lower() and len(pattern) >= 6 for pattern in found)
    assert len(found) == len(set(found))


def test_traces_of_a_uuid_in_the_byte_orders_of_old_drivers_too():
    found = encodings(one("uuid"), U)

    java, sharp = Binary.from_uuid(U, 5), Binary.from_uuid(U, 6)
    expected = {bytes(one) for one in (U.bytes, java, sharp)} | {U.hex.encode(), str(U).encode()}
    assert {pattern.lower() for pattern in expected} | {base64.b64encode(U.bytes).rstrip(b"=").lower()} <= set(found)


def test_traces_of_a_text():
    found = set(encodings(one(hashes=("md5", "sha256")), "Zoë+x@Example.org"))

    low = "zoë+x@example.org"
    assert {
        low.encode(),
        "zoe\u0308+x@example.org".encode(),  # decomposed
        "ZOË+X@EXAMPLE.ORG".encode().lower(),  # lower-casing bytes leaves Ë alone
        b"zo%c3%ab%2bx%40example.org",
        base64.b64encode("Zoë+x@Example.org".encode()).rstrip(b"=").lower(),
        base64.b64encode(low.encode()).rstrip(b"=").lower(),
        hashlib.md5(low.encode()).hexdigest().encode(),
        hashlib.md5(low.encode()).digest().lower(),
        hashlib.sha256(low.encode()).hexdigest().encode(),
    } <= found  # fmt: skip
    assert not any(hashlib.sha1(low.encode()).hexdigest().encode() == one for one in found)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("+55 (12) 3923-5555", b"551239235555"),
        ("030/123.456-78", b"03012345678"),
        ("12-34", None),
        ("Room 12345678", None),
    ],
)
def test_a_telephone_number_leaves_its_digits(text, digits):
    found = encodings(one(), text)
    assert (digits in found) is (digits is not None)
    assert not any(pattern.isdigit() for pattern in found if pattern != digits)


@pytest.mark.parametrize(
    ("types", "value"), [(("int",), 123456789), (("string",), "ana"), (("string",), None), (("objectId",), "x")]
)
def test_what_is_short_or_a_number_has_no_pattern(types, value):
    assert encodings(one(*types), value) == ()


def test_a_binary_pattern_says_which_bytes_it_stands_for():
    twin = ObjectId(KEY.binary[:-2] + b"\x41\x42")  # "AB": lower-cased, the twin of ...6162
    other = ObjectId(KEY.binary[:-2] + b"\x61\x62")

    mine, theirs = patterns(one("objectId"), twin), patterns(one("objectId"), other)

    low = twin.binary.lower()
    assert (mine[low], theirs[low]) == ({twin.binary}, {other.binary})
    assert mine[str(twin).encode()] == frozenset()  # hex: any case will do
