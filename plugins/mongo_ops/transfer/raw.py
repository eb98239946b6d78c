"""Walk BSON bytes without decoding them: documents in a stream, elements in a document. Pure.

Source: https://bsonspec.org/spec.html (version 1.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from struct import Struct
from struct import error as struct_error

from mongo_ops.errors import PlanError

Bytes = bytes | memoryview
int32 = Struct("<i").unpack_from
DOCUMENT, ARRAY, SCOPED_CODE, OBJECT_ID, INT64 = 0x03, 0x04, 0x0F, 0x07, 0x12
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_TEXTS = (0x02, 0x0D, 0x0E)
_SIZED = (DOCUMENT, ARRAY, SCOPED_CODE)
_BINARY, _REGEX, _POINTER = 0x05, 0x0B, 0x0C


class InvalidDocumentError(PlanError):
    """Bytes are not a BSON document, or not one that the server would store."""


def edges(stream: Bytes) -> list[int]:
    """Return where each document of a stream of concatenated BSON begins, and where the last one ends.

    Raises:
        InvalidDocumentError: a length does not fit.
    """
    found, end = [0], len(stream)
    start = 0
    try:
        while start < end:
            stop = start + int32(stream, start)[0]
            if not start + 5 <= stop <= end:
                raise InvalidDocumentError("A document's length does not fit its file.")
            found.append(stop)
            start = stop
    except struct_error:
        raise InvalidDocumentError("A document's length does not fit its file.") from None
    return found


def split(stream: Bytes) -> list[bytes]:
    """Return the documents of a stream of concatenated BSON.

    Raises:
        InvalidDocumentError: a length does not fit.
    """
    return [bytes(stream[start:stop]) for start, stop in pairwise(edges(stream))]


def elements(document: Bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield (type, name, start of value, end of value) for each element of the outermost level.

    Raises:
        InvalidDocumentError: a type is unknown, or a length does not fit.
    """
    data = bytes(document)
    at, end = 4, len(data) - 1
    try:
        while at < end:
            kind = data[at]
            stop = data.index(0, at + 1)
            name, start = data[at + 1 : stop], stop + 1
            at = start + _size(data, kind, start)
            if at > end:
                raise InvalidDocumentError("An element is longer than its document.")
            yield kind, name, start, at
    except (struct_error, ValueError, IndexError):
        raise InvalidDocumentError("An element does not fit its document.") from None
    if at != end or data[end] != 0:
        raise InvalidDocumentError("A document does not end where it says.")


def value(document: Bytes, name: bytes) -> tuple[int, bytes] | None:
    """Return (type, bytes) of an element of the outermost level; None when there is none."""
    for kind, found, start, stop in elements(document):
        if found == name:
            return kind, bytes(document[start:stop])
    return None


def with_id(document: bytes, key: bytes) -> bytes:
    """Return the document with an ObjectId (12 bytes) as ``_id`` in front."""
    body = b"\x07_id\x00" + key + document[4:]
    return (len(body) + 4).to_bytes(4, "little") + body


def _size(data: bytes, kind: int, start: int) -> int:
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed
    if kind in _TEXTS:
        return 4 + _length(data, start, 1)
    if kind in _SIZED:
        return _length(data, start, 5)
    if kind == _BINARY:
        return 5 + _length(data, start, 0)
    if kind == _REGEX:
        return data.index(0, data.index(0, start) + 1) + 1 - start
    if kind == _POINTER:
        return 4 + _length(data, start, 1) + 12
    raise InvalidDocumentError(f"A BSON type is unknown (0x{kind:02x}).")


def _length(data: bytes, start: int, least: int) -> int:
    length: int = int32(data, start)[0]
    if length < least:
        raise InvalidDocumentError("A length is impossible.")
    return length
