"""In which BSON forms an identifier's value may be stored, and how two values are told apart. Pure.

``ObjectId("65f...")`` and the text ``"65f..."`` are two values to MongoDB: an erasure that looks for one of them leaves the other.
Null, an empty text and a forbidden value have no form at all, so that nothing is ever selected by them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from typing import Any
from uuid import UUID

from bson import Binary, Decimal128, ObjectId
from bson.binary import UUID_SUBTYPE

from mongo_ops.erasure.model import Identifier, Subject

Key = tuple[str, Hashable]
"""What tells values apart as MongoDB does: a type and a value (``True`` is not 1, ``Int64(1)`` is)."""

UUID_BYTES = 16
INT64 = range(-(2**63), 2**63)
_HEX24 = re.compile(r"[0-9a-fA-F]{24}\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z")
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


def key_of(value: Any) -> Key | None:
    """Return what a value is compared by; None for what is never an identifier (null, documents, arrays, dates)."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return ("string", str(value))
    if isinstance(value, ObjectId):
        return ("objectId", value)
    if isinstance(value, UUID):
        return (f"binary{UUID_SUBTYPE}", value.bytes)
    if isinstance(value, bytes):
        return (f"binary{value.subtype if isinstance(value, Binary) else 0}", bytes(value))
    return _number(value)


def _number(value: Any) -> Key | None:
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    try:
        return ("number", value) if value == int(value) else None
    except (TypeError, ValueError, ArithmeticError):
        return None


def forbidden(identifier: Identifier, value: Any) -> bool:
    """Say whether a value names nobody (``anonymous``), whatever the case of its letters."""
    return bool(identifier.forbid) and _said(value) in _all_said(identifier.forbid)


@lru_cache
def _all_said(forbid: tuple[Any, ...]) -> frozenset[str | Key | None]:
    return frozenset(_said(one) for one in forbid)


def _said(value: Any) -> str | Key | None:
    text = _text(value)
    return text.strip().lower() if text is not None else key_of(value)


def forms(identifier: Identifier, value: Any) -> tuple[Any, ...]:
    """Return every BSON value under which an identifier's value may be stored; none for what can name nobody."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        return ()
    if forbidden(identifier, value):
        return ()
    found: dict[Key, Any] = {}
    for kind in identifier.types:
        for form in _READERS[kind](value):
            key = key_of(form)
            if key is not None:
                found.setdefault(key, form)
    return tuple(found.values())


def typed(kind: str, value: Any) -> Any:
    """Return a value as one type of a data map, or None when it is none of that type."""
    return next(iter(_READERS[kind](value)), None)


def key_in(text: str) -> Key:
    """Return what a key of a document is compared by: an ``int`` may be the key ``"5"``, though never the value ``"5"``."""
    return ("key", text)


def texts(identifier: Identifier, value: Any) -> tuple[str, ...]:
    """Return the texts under which a value may be a key of a document; for each type of the identifier."""
    some = (_text(form) for form in forms(identifier, value))
    return tuple(dict.fromkeys(text for text in some if text is not None))


class Forms(list[Any]):
    """Values in all their forms already, so that a filter need not work them out once more."""


class Index(dict[tuple[str, Key], set[str]]):
    """Whose each value is: (identifier, key of a form) -> request ids; several when people share a value."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)


def index_of(subjects: Iterable[Subject], identifiers: Iterable[Identifier]) -> Index:
    """Return whose each value of the closures is, in all its forms and as a key of a document. Build it once for a run."""
    known = tuple(identifiers)
    found = Index(identifier.name for identifier in known)
    for subject in subjects:
        for identifier in known:
            for key in _keys(identifier, subject.closure.get(identifier.name, ())):
                found.setdefault((identifier.name, key), set()).add(subject.request_id)
    return found


def _keys(identifier: Identifier, values: Iterable[Any]) -> Iterator[Key]:
    """Yield the keys of all forms, and of the texts a value has as a key of a document."""
    for value in values:
        yield from (key for form in forms(identifier, value) if (key := key_of(form)) is not None)
        yield from (key_in(text) for text in texts(identifier, value))


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, ObjectId | UUID):
        return str(value)
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == UUID_BYTES:
        return str(UUID(bytes=bytes(value)))
    return str(int(value)) if isinstance(value, int) and not isinstance(value, bool) else None


def _object_ids(value: Any) -> Iterator[Any]:
    if isinstance(value, ObjectId):
        yield value
    elif isinstance(value, str) and _HEX24.match(value):
        yield ObjectId(value)


def _uuids(value: Any) -> Iterator[Any]:
    known = value if isinstance(value, UUID) else None
    if isinstance(value, str) and _UUID.match(value):
        known = UUID(value)
    elif isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == UUID_BYTES:
        known = UUID(bytes=bytes(value))
    if known is not None:
        yield Binary(known.bytes, UUID_SUBTYPE)
        yield str(known)


def _ints(value: Any) -> Iterator[Any]:
    if isinstance(value, str) and _INT.match(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in INT64:
        yield value


def _strings(value: Any) -> Iterator[Any]:
    text = _text(value)
    if text is not None and text.strip():
        yield text
        yield text.lower()


def _binaries(value: Any) -> Iterator[Any]:
    if isinstance(value, UUID):
        yield Binary(value.bytes, UUID_SUBTYPE)
    elif isinstance(value, bytes) and value:
        yield value


_READERS = {"objectId": _object_ids, "uuid": _uuids, "int": _ints, "string": _strings, "binary": _binaries}
