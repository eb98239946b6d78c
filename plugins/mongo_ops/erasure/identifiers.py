"""Read the identifier of a request as what it is, and say in which encodings a value may have left traces. Pure.

A refusal never shows the value: it may be somebody's.
"""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE

from mongo_ops.erasure.forms import UUID_BYTES, forbidden, forms, typed
from mongo_ops.erasure.model import DataMap, Identifier
from mongo_ops.erasure.needles import SHORTEST
from mongo_ops.errors import PlanError

LONGEST_TEXT = 1_024
DIGITS_OF_A_PHONE = 8
_PHONE = re.compile(r"\+?[\d\s()./\-]+\Z")
_STRUCTURE = re.compile(r"\s*[{\[$]")


class InvalidIdentifierError(PlanError):
    """What was given cannot name a person. The message never holds it."""


def parse_subject(data_map: DataMap, text_or_value: Any) -> Any:
    """Return the value of the subject identifier, in the first of its types that fits; spaces around a text are dropped.

    ``string`` counts only when it is the first type: after another one it says that copies may be kept as text, and any text fits.

    Raises:
        InvalidIdentifierError: nothing, an empty text, a query instead of a value, another type, or a value that names nobody.
            Nothing was looked up.
    """
    identifier = data_map.identifiers[data_map.subject]
    value = text_or_value.strip() if isinstance(text_or_value, str) else text_or_value
    fault = _fault(identifier, value)
    if fault is not None:
        raise InvalidIdentifierError(
            f"The value given for {identifier.name} {fault}. Give one {' or '.join(_own(identifier))} as it is stored in "
            f"{identifier.collection}.{identifier.path}; nothing was read or written."
        )
    return next(found for kind in _own(identifier) if (found := typed(kind, value)) is not None)


def _own(identifier: Identifier) -> tuple[str, ...]:
    """Return the types in which the person's own document may hold the identifier."""
    return tuple(kind for place, kind in enumerate(identifier.types) if place == 0 or kind != "string")


def _fault(identifier: Identifier, value: Any) -> str | None:
    """Say what is wrong with a value, without the value."""
    if value is None or value in ("", b""):
        return "is empty, and an empty value would select everything that belongs to nobody"
    if isinstance(value, Mapping | list | tuple | set) or (isinstance(value, str) and _STRUCTURE.match(value)):
        return "reads like a query, not like a value"
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or any(map(_is_control, value))):
        return f"is longer than {LONGEST_TEXT} characters or has control characters"
    if forbidden(identifier, value):
        return "is one that the data map forbids, because it names nobody"
    if isinstance(value, bool) or all(typed(kind, value) is None for kind in _own(identifier)):
        return "is of another type"
    return None


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc"


def encodings(identifier: Identifier, value: Any) -> tuple[bytes, ...]:
    """Return the byte patterns of a value for the residual scan, in lower case (ASCII) and at least six bytes long.

    As stored in BSON, hex, dashed, base64 (standard and URL-safe, without padding), URL-encoded, hashed, and the digits of a
    telephone number. An ``int`` has none: its four bytes are everywhere.
    """
    return tuple(patterns(identifier, value))


def patterns(identifier: Identifier, value: Any) -> dict[bytes, frozenset[bytes]]:
    """Return the lower-case patterns, each with the bytes it stands for where case matters (binary, base64); else an empty set.

    Lower-casing makes twins of two binary values that differ in one bit (counters of ObjectIds do): a hit on such a pattern counts
    only when the bytes as they are stored are among those given here.
    """
    found: dict[bytes, frozenset[bytes]] = {}
    for form in forms(identifier, value):
        for pattern, exact in _traces(form, identifier):
            low = pattern.lower()
            if len(low) >= SHORTEST:
                found[low] = found.get(low, frozenset()) | {pattern} if exact and found.get(low, True) else frozenset()
    return found


def _traces(form: Any, identifier: Identifier) -> Iterator[tuple[bytes, bool]]:
    """Yield patterns, each with whether its case matters."""
    if isinstance(form, ObjectId):
        yield from _binary_traces(form.binary)
    elif isinstance(form, bytes):
        yield from _binary_traces(bytes(form))
        if isinstance(form, Binary) and form.subtype == UUID_SUBTYPE and len(form) == UUID_BYTES:
            yield from _uuid_traces(UUID(bytes=bytes(form)))
    elif isinstance(form, str):
        yield from _text_traces(form)
        for name in identifier.hashes:
            hashed = hashlib.new(name, form.lower().encode(), usedforsecurity=False)
            yield hashed.hexdigest().encode(), False
            yield hashed.digest(), True


def _binary_traces(raw: bytes) -> Iterator[tuple[bytes, bool]]:
    yield raw, True
    yield raw.hex().encode(), False
    yield from _base64(raw)


def _uuid_traces(value: UUID) -> Iterator[tuple[bytes, bool]]:
    """Yield the text and the byte orders of old drivers (subtype 3: C# and Java)."""
    yield str(value).encode(), False
    yield value.bytes_le, True
    yield value.bytes[7::-1] + value.bytes[:7:-1], True


def _text_traces(text: str) -> Iterator[tuple[bytes, bool]]:
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, text)
        for one in {spelled, spelled.lower(), spelled.upper()}:  # outside ASCII, bytes have no case of their own
            yield one.encode(), False
            yield quote(one, safe="").encode(), False
    yield from _base64(text.encode())
    digits = "".join(letter for letter in text if letter in "0123456789")
    if _PHONE.match(text) and len(digits) >= DIGITS_OF_A_PHONE:
        yield digits.encode(), False


def _base64(raw: bytes) -> Iterator[tuple[bytes, bool]]:
    yield base64.b64encode(raw).rstrip(b"="), True
    yield base64.urlsafe_b64encode(raw).rstrip(b"="), True
