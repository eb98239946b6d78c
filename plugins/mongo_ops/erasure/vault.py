"""Seal what names a person, so that MongoDB and its backups hold nothing that can be read without the vault's key.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits; the content is BSON, so every type comes back as it was. Never
stores anything, and never puts what it opened into an error.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping

import bson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mongo_ops.erasure.keys import Keyring
from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC, Document

VERSION = 1
NONCE_BYTES = 12
_HEAD = struct.Struct(">BI")  # version, epoch; authenticated with the content
_DOMAIN = b"mongo-ops vault\0"


class VaultError(PlanError):
    """Something sealed cannot be opened."""


def seal(keyring: Keyring, value: Mapping[str, object]) -> bytes:
    """Return the value sealed with the newest key: version (1 byte), epoch (4), nonce (12), ciphertext with tag.

    Raises:
        KeyMissingError: there is no key for `vault`.
    """
    key = keyring.newest("vault")
    head, nonce = _HEAD.pack(VERSION, key.epoch), secrets.token_bytes(NONCE_BYTES)
    content = bson.encode(dict(value), codec_options=CODEC)
    return head + nonce + AESGCM(key.secret).encrypt(nonce, content, _DOMAIN + head)


def open_(keyring: Keyring, sealed: bytes) -> Document:
    """Return what was sealed.

    Raises:
        KeyMissingError: the key of that epoch is not there.
        VaultError: the key is another one than it was sealed with, or the bytes were changed.
    """
    sealed = bytes(sealed)
    if len(sealed) < _HEAD.size + NONCE_BYTES or sealed[0] != VERSION:
        raise VaultError(
            "The sealed bytes are empty or of another version. If the request is closed, its identity was destroyed; "
            "otherwise restore the document, or upgrade mongo-ops."
        )
    head, rest = sealed[: _HEAD.size], sealed[_HEAD.size :]
    epoch = _HEAD.unpack(head)[1]
    key = keyring.of_epoch("vault", epoch)
    try:
        content = AESGCM(key.secret).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _DOMAIN + head)
    except InvalidTag:
        raise VaultError(
            f"The sealed bytes do not open with the vault's key of epoch {epoch}: the key was exchanged, or the bytes were "
            "changed. Put the right key back, or receive the request again."
        ) from None
    return bson.decode(content, CODEC)
