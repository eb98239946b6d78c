"""The digest of a set of documents, whatever their order: equal for source, export and restored collection. Pure.

The sum of each document's XXH3-128 modulo 2**128 over its BSON bytes, with the number of documents and of bytes. It tells
differences by accident; against a forger stand the SHA-256 of each file and the manifest's seal. (SHA-256 per document was
measured at 1.4 us, which alone would cost a third of the export's speed; XXH3 takes 0.3 us, the walk included.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import error as struct_error
from typing import Any

from xxhash import xxh3_128_intdigest

from mongo_ops.transfer.raw import Bytes, InvalidDocumentError, int32

ALGORITHM = "xxh3-128 sum"
_MODULUS = 2**128


@dataclass(frozen=True, slots=True)
class Content:
    """How many documents, how many bytes of BSON, and the digest (an integer below 2**128)."""

    count: int = 0
    bytes: int = 0
    total: int = 0

    def __add__(self, other: Content) -> Content:
        return Content(self.count + other.count, self.bytes + other.bytes, (self.total + other.total) % _MODULUS)

    @property
    def digest(self) -> str:
        """The digest as 32 hex digits."""
        return f"{self.total:032x}"

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"count": self.count, "bytes": self.bytes, "digest": self.digest}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Content:
        """Read it back."""
        return cls(int(value["count"]), int(value["bytes"]), int(value["digest"], 16))


def of_stream(stream: Bytes) -> Content:
    """Return the content of concatenated BSON documents.

    Raises:
        InvalidDocumentError: a length does not fit.
    """
    view, at, end = memoryview(stream), 0, len(stream)
    count = total = 0
    try:
        while at < end:
            stop = at + int32(stream, at)[0]
            if not at < stop <= end:
                raise InvalidDocumentError("A document's length does not fit its stream.")
            total += xxh3_128_intdigest(view[at:stop])
            count += 1
            at = stop
    except struct_error:
        raise InvalidDocumentError("A document's length does not fit its stream.") from None
    return Content(count, end, total % _MODULUS)


def of_documents(documents: Iterable[bytes]) -> Content:
    """Return the content of separate documents."""
    count = size = total = 0
    for document in documents:
        count += 1
        size += len(document)
        total += xxh3_128_intdigest(document)
    return Content(count, size, total % _MODULUS)
