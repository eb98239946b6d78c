"""Files of concatenated BSON documents, read one document at a time. The format of ``mongodump``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import bson

from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from mongo_ops.storage.atomic import Source

SMALLEST, LARGEST = 5, 16 * 1024 * 1024 + 16 * 1024
BATCH_COUNT, BATCH_BYTES = 1000, 8 * 1024 * 1024


class BrokenFileError(ValueError):
    """The bytes are not whole BSON documents one after the other."""


def documents(source: Source) -> Iterator[bytes]:
    """Yield each document's bytes.

    Raises:
        BrokenFileError: the file is cut off, or a length is impossible.
    """
    while header := source.read(4):
        length = int.from_bytes(header, "little", signed=True)
        if len(header) < 4 or not SMALLEST <= length <= LARGEST:  # noqa: PLR2004
            raise BrokenFileError
        rest = source.read(length - 4)
        if len(rest) != length - 4 or rest[-1] != 0:
            raise BrokenFileError
        yield header + rest


def batches(source: Source) -> Iterator[Sequence[bytes]]:
    """Yield documents in lists of at most 1000 and about 8 MB."""
    batch: list[bytes] = []
    size = 0
    for document in documents(source):
        batch.append(document)
        size += len(document)
        if len(batch) >= BATCH_COUNT or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def decoded(document: bytes) -> Document:
    """Return the document that the bytes are."""
    return bson.decode(document, codec_options=CODEC)
