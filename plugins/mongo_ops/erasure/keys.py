"""Keys by purpose, each with epochs, from Airflow variables or their environment variables. Never stores or shows a key.

A variable holds ``epoch:key[,epoch:key...]``, the newest epoch first; a key is 32 random bytes in base64. The newest key is used
for what is new, the older ones still read what was made with them. Each purpose has its own key, so that what one purpose
discloses cannot be linked with another: domain separation, EDPB Guidelines 01/2025 on pseudonymisation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mongo_ops.errors import PlanError

Purpose = Literal["vault", "subject", "tombstone", "suppression"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
KEY_BYTES = 32
LAST_EPOCH = 2**31 - 1
CHECK_CHARS = 16


class KeyMissingError(PlanError):
    """A key is not there or cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``epoch`` is public and grows with each rotation; ``secret`` is 32 bytes."""

    epoch: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of all purposes, the newest first. A purpose without a variable is missing only for whoever needs it."""

    keys: Mapping[Purpose, tuple[Key, ...]] = field(repr=False)

    @classmethod
    def from_lookup(cls, lookup: Callable[[str], str | None]) -> Keyring:
        """Read the keys.

        Args:
            lookup: gives the value of an Airflow variable, or None; ``mongo_ops_key_vault`` and so on.

        Raises:
            KeyMissingError: a value is not of the form, a key is short, an epoch comes twice, or two purposes share a key.
        """
        found = {purpose: lookup(variable(purpose)) for purpose in PURPOSES}
        keys = {purpose: _parse(purpose, value) for purpose, value in found.items() if value and value.strip()}
        owners: dict[bytes, Purpose] = {}
        for purpose, ring in keys.items():
            for key in ring:
                if owners.setdefault(key.secret, purpose) != purpose:
                    raise _unusable(purpose, f"shares a key with {variable(owners[key.secret])}")
        return cls(keys)

    @classmethod
    def from_environment(cls) -> Keyring:
        """Read the keys from ``AIRFLOW_VAR_MONGO_OPS_KEY_<PURPOSE>``.

        Raises:
            KeyMissingError: as ``from_lookup``.
        """
        return cls.from_lookup(lambda name: os.environ.get(f"AIRFLOW_VAR_{name.upper()}"))

    def all(self, purpose: Purpose) -> tuple[Key, ...]:
        """Return the keys of a purpose, the newest first.

        Raises:
            KeyMissingError: there is none.
        """
        ring = self.keys.get(purpose)
        if not ring:
            raise KeyMissingError(
                f"There is no key for `{purpose}`: the variable {variable(purpose)} (AIRFLOW_VAR_{variable(purpose).upper()}) is "
                "not set. Make keys with `mongo-ops erase keys`, keep them outside of MongoDB and its backups, and run again."
            )
        return ring

    def newest(self, purpose: Purpose) -> Key:
        """Return the key for what is new.

        Raises:
            KeyMissingError: there is none.
        """
        return self.all(purpose)[0]

    def of_epoch(self, purpose: Purpose, epoch: int) -> Key:
        """Return the key of an epoch.

        Raises:
            KeyMissingError: it is not there (any more).
        """
        for key in self.all(purpose):
            if key.epoch == epoch:
                return key
        raise KeyMissingError(
            f"{variable(purpose)} has no key of epoch {epoch}. Put it back behind the newer ones; if it was destroyed on "
            "purpose, what it sealed cannot be read any more."
        )

    def checks(self) -> Mapping[str, str]:
        """Return a check value for each key (``purpose.epoch`` -> 16 hex digits), by which an exchanged key is noticed."""
        return {
            f"{purpose}.{key.epoch}": hmac.digest(key.secret, b"mongo-ops\0check", hashlib.sha256).hex()[:CHECK_CHARS]
            for purpose, ring in self.keys.items()
            for key in ring
        }


def variable(purpose: Purpose) -> str:
    """Return the name of the Airflow variable that holds a purpose's keys."""
    return f"mongo_ops_key_{purpose}"


def renewed(purpose: Purpose, value: str | None = None) -> str:
    """Return a variable's value with a new key in front; the keys of ``value`` stay behind it.

    Raises:
        KeyMissingError: ``value`` is not of the form.
    """
    old = _parse(purpose, value) if value and value.strip() else ()
    new = Key(old[0].epoch + 1 if old else 1, secrets.token_bytes(KEY_BYTES))
    return ",".join(f"{key.epoch}:{base64.b64encode(key.secret).decode()}" for key in (new, *old))


def _parse(purpose: Purpose, value: str) -> tuple[Key, ...]:
    ring = tuple(_key(purpose, part.strip()) for part in value.split(","))
    for newer, older in itertools.pairwise(ring):
        if newer.epoch <= older.epoch:
            raise _unusable(purpose, f"names epoch {older.epoch} after {newer.epoch}; each once, the newest first")
    if len({key.secret for key in ring}) < len(ring):
        raise _unusable(purpose, "has the same key under two epochs")
    return ring


def _key(purpose: Purpose, part: str) -> Key:
    epoch, mark, text = part.partition(":")
    if not mark or not epoch.isascii() or not epoch.isdigit() or not 0 < int(epoch) <= LAST_EPOCH:
        raise _unusable(purpose, "must be `epoch:key[,epoch:key...]` with epochs from 1 on")
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _unusable(purpose, f"has a key that is not base64 (epoch {epoch})") from None
    if len(secret) != KEY_BYTES:
        raise _unusable(purpose, f"has a key of {len(secret)} bytes instead of {KEY_BYTES} (epoch {epoch})")
    return Key(int(epoch), secret)


def _unusable(purpose: Purpose, what: str) -> KeyMissingError:
    return KeyMissingError(f"The variable {variable(purpose)} {what}. Make keys with `mongo-ops erase keys`.")
