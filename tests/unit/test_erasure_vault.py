"""The vault: every type comes back, nothing shows, and nothing opens that was changed."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from bson import Int64, ObjectId
from tests.people import key_values, keyring, rotated

from mongo_ops.erasure import vault
from mongo_ops.erasure.keys import KeyMissingError

VALUES = [
    ObjectId("65f0c0ffee65f0c0ffee65f0"),
    "ada@example.org",
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    Int64(2**40),
    7,
    b"\x00\x01",
    datetime(2026, 1, 2, tzinfo=UTC),
    None,
    {"a": [1, {"b": "c"}]},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_was_sealed_comes_back_as_it_was(value):
    ring = keyring()
    opened = vault.open_(ring, vault.seal(ring, {"value": value}))
    assert opened == {"value": value}
    assert type(opened["value"]) is type(value)


def test_the_sealed_bytes_hold_nothing_of_the_value_and_never_repeat():
    ring = keyring()
    first, second = (vault.seal(ring, {"value": "ada@example.org"}) for _ in range(2))
    assert b"ada" not in first
    assert b"value" not in first
    assert first != second


def test_another_key_does_not_open_it():
    sealed = vault.seal(keyring(), {"value": "ada@example.org"})
    with pytest.raises(vault.VaultError, match="epoch 1") as seen:
        vault.open_(keyring(), sealed)
    assert "ada" not in str(seen.value)
    assert seen.value.__suppress_context__


def test_after_a_rotation_old_seals_open_and_new_ones_use_the_new_key():
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    old = vault.seal(before, {"n": 1})

    assert vault.open_(after, old) == {"n": 1}
    with pytest.raises(KeyMissingError, match="epoch 2"):
        vault.open_(before, vault.seal(after, {"n": 2}))


def test_every_changed_byte_is_noticed():
    ring = keyring()
    sealed = vault.seal(ring, {"value": "ada"})
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((vault.VaultError, KeyMissingError)):
            vault.open_(ring, bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 4, 16, 17, 30])
def test_cut_bytes_are_refused(length):
    ring = keyring()
    with pytest.raises(vault.VaultError):
        vault.open_(ring, vault.seal(ring, {"value": "ada"})[:length])
