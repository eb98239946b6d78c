"""References: one person one reference, keys and purposes kept apart, and values that name nobody refused."""

from __future__ import annotations

import base64
import re
import uuid
from decimal import Decimal

import pytest
from bson import Binary, Int64, ObjectId
from bson.binary import UUID_SUBTYPE
from tests.people import key_values, keyring, rotated

from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.references import (
    NoReferenceError,
    canonical,
    references_of,
    subject_reference,
    suppression_hash,
    tombstone_hash,
)

ADA = ObjectId("65f0c0ffee65f0c0ffee65f0")
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def test_a_reference_has_its_epoch_and_130_bits():
    ring = keyring(key_values(3))
    assert re.fullmatch(r"sr3_[a-z2-7]{26}", subject_reference(ring, "user_id", ADA))
    assert re.fullmatch(r"th3_[0-9a-f]{32}", tombstone_hash(ring, "user_id", ADA))
    assert re.fullmatch(r"sp3_[a-z2-7]{26}", suppression_hash(ring, "user_id", ADA))


def test_the_same_value_has_the_same_reference_and_another_one_another():
    ring = keyring()
    assert subject_reference(ring, "user_id", ADA) == subject_reference(ring, "user_id", ObjectId(str(ADA)))
    kinds = [
        ("user_id", ADA),
        ("user_id", str(ADA)),
        ("user_id", ADA.binary),
        ("artist_id", ADA),
        ("user_id", ObjectId()),
    ]
    assert len({subject_reference(ring, kind, value) for kind, value in kinds}) == len(kinds)


def test_after_a_rotation_the_older_references_are_still_found():
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))

    old = subject_reference(before, "user_id", ADA)
    assert references_of(after, "user_id", ADA) == (subject_reference(after, "user_id", ADA), old)
    assert subject_reference(after, "user_id", ADA) != old
    assert tombstone_hash(after, "user_id", ADA, epoch=1) == tombstone_hash(before, "user_id", ADA)


def test_another_key_makes_other_references():
    assert subject_reference(keyring(), "user_id", ADA) != subject_reference(keyring(), "user_id", ADA)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, 7.0),
        (7, Int64(7)),
        (UUID, Binary(UUID.bytes, UUID_SUBTYPE)),
        (b"ab", Binary(b"ab", 0)),
    ],
)
def test_values_that_mongodb_finds_equal_are_one_value(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, "7"),
        (ADA, str(ADA)),
        (UUID, str(UUID)),
        (UUID, UUID.bytes),
        ("Ada", "ada"),
        ("ada", b"ada"),
        (b"ab", Binary(b"ab", 5)),
        (1, -1),
    ],
)
def test_values_that_mongodb_tells_apart_are_two(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", "\n", b"", True, False, [], ["a"], {}, {"$ne": None}, 1.5, float("nan"), float("inf"), Decimal(1)],
    ids=repr,
)
def test_what_names_nobody_is_refused(value):
    with pytest.raises(NoReferenceError) as seen:
        subject_reference(keyring(), "user_id", value)
    assert seen.value.exit_code == 3
    assert "$ne" not in str(seen.value)


def test_name_and_value_cannot_be_shifted_into_each_other():
    ring = keyring()
    assert subject_reference(ring, "a", "b\0c") != subject_reference(ring, "ab", "c")
    for name in ("", "a\0sb"):
        with pytest.raises(ValueError, match="name of an identifier"):
            subject_reference(ring, name, "c")


def test_the_scheme_is_fixed_because_references_outlive_this_code():
    secrets = {"subject": bytes(range(32)), "tombstone": bytes(range(32, 64)), "suppression": bytes(range(64, 96))}
    ring = Keyring.from_lookup(
        {f"mongo_ops_key_{name}": f"5:{base64.b64encode(key).decode()}" for name, key in secrets.items()}.get
    )
    assert subject_reference(ring, "user_id", ADA) == "sr5_lgwyfsjuwby653kndlydxrbjri"
    assert tombstone_hash(ring, "user_id", ADA) == "th5_57db1809f0e981547e69638d1c3e90dd"
    assert suppression_hash(ring, "user_id", ADA) == "sp5_de4zjccexmule4copwighqxqbq"
