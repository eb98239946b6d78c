"""Keyed references that stand for a person, or for an identifier, where the value itself must not be. Pure.

HMAC-SHA256 with a key of its own for each purpose and the epoch in clear, so that a key can be destroyed and with it the link.
Whoever holds the key can recompute a reference from a value, so a reference is a pseudonym and still personal data
(EDPB Guidelines 01/2025). A plain hash would not do: e-mail addresses and sequential ids are found by trying.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from typing import Any
from uuid import UUID

from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE

from mongo_ops.erasure.keys import Key, Keyring, Purpose
from mongo_ops.errors import PlanError

REFERENCE_CHARS = 26  # 130 bits
TOMBSTONE_BYTES = 16


class NoReferenceError(PlanError):
    """A value that names nobody, or of a type that no identifier has."""


def subject_reference(keyring: Keyring, kind: str, value: Any) -> str:
    """Return the reference of a person, ``sr<epoch>_<26 base32 characters>``, with the newest key.

    Args:
        keyring: needs `subject`.
        kind: the name of the data map's subject identifier.
        value: the identifier's typed value. 7 and 7.0 are one value, an ObjectId and its hexadecimal text are two.

    Raises:
        KeyMissingError: there is no key for `subject`.
        NoReferenceError: the value names nobody.
    """
    return _reference(keyring.newest("subject"), kind, value)


def references_of(keyring: Keyring, kind: str, value: Any) -> tuple[str, ...]:
    """Return the references of a person in all epochs, the newest first. For finding what older keys made."""
    return tuple(_reference(key, kind, value) for key in keyring.all("subject"))


def tombstone_hash(keyring: Keyring, identifier: str, value: Any, *, epoch: int | None = None) -> str:
    """Return the tombstone of one identifier's value, ``th<epoch>_<32 hexadecimal digits>``, with the newest key or an epoch's."""
    key = keyring.newest("tombstone") if epoch is None else keyring.of_epoch("tombstone", epoch)
    return f"th{key.epoch}_{_mac(key, 'tombstone', identifier, value)[:TOMBSTONE_BYTES].hex()}"


def suppression_hash(keyring: Keyring, identifier: str, value: Any) -> str:
    """Return by what others may recognise a value that must not come in again, ``sp<epoch>_<26 base32 characters>``."""
    key = keyring.newest("suppression")
    return f"sp{key.epoch}_{_text(_mac(key, 'suppression', identifier, value))}"


def canonical(value: Any) -> bytes:
    """Return one byte string for one value: values that MongoDB finds equal are equal here, others are not.

    Raises:
        NoReferenceError: null, empty, or of a type that no identifier has. The message does not show the value.
    """
    made: bytes | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, ObjectId):
        made = b"o" + value.binary
    elif isinstance(value, UUID):
        made = b"u" + value.bytes
    elif isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        made = b"u" + bytes(value)
    elif isinstance(value, bytes) and value:
        made = b"b" + bytes([value.subtype if isinstance(value, Binary) else 0]) + bytes(value)
    elif isinstance(value, str) and value.strip():
        made = b"s" + value.encode()
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer()):
        made = b"i%d" % int(value)
    if made is None:
        raise NoReferenceError(
            f"A value of type {type(value).__name__} that is empty or no identifier names nobody; nothing was written."
        )
    return made


def _reference(key: Key, kind: str, value: Any) -> str:
    return f"sr{key.epoch}_{_text(_mac(key, 'subject', kind, value))}"


def _mac(key: Key, purpose: Purpose, name: str, value: Any) -> bytes:
    """Authenticate purpose, name and value. A NUL ends the first two and cannot be in them, so nothing can be shifted."""
    if not name or "\0" in name:
        raise ValueError("The name of an identifier must not be empty or hold a NUL.")
    return hmac.digest(
        key.secret, b"\0".join((b"mongo-ops", purpose.encode(), name.encode(), canonical(value))), hashlib.sha256
    )


def _text(mac: bytes) -> str:
    return base64.b32encode(mac).decode().lower()[:REFERENCE_CHARS]
