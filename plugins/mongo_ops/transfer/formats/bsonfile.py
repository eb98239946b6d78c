"""``bson``: documents one after the other, byte for byte as the server stores them. What mongodump writes and mongorestore reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bson
from bson.errors import BSONError

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer.formats.base import Chunk, Chunks, Readable, Reject

if TYPE_CHECKING:
    from mongo_ops.transfer.compression import Writer

SMALLEST, LARGEST = 5, 16 * 1024 * 1024


class BrokenFileError(PlanError):
    """A file is cut off, or is not of its format. What was before the fault is known, what comes after is not."""


class BsonEncoder:
    """Passes streams on."""

    misfits = 0

    def __init__(self, writer: Writer) -> None:
        self.write = writer.write
        self.close = writer.close


def chunks(reader: Readable, name: str, *, strict: bool) -> Chunks:
    """Yield chunks of a file of BSON documents.

    A length that cannot be ends the file: nobody can tell where the next document begins. With ``strict`` each document is
    also decoded once, and rejected when it is malformed inside, too deep, or holds text that is not UTF-8, which the server
    would store. What a manifest vouches for needs no such look.

    Raises:
        BrokenFileError: see above.
    """
    chunk, line, offset = Chunk(0), 0, 0
    while header := reader.read(4):
        line += 1
        length = int.from_bytes(header, "little", signed=True)
        if len(header) < 4 or not SMALLEST <= length <= LARGEST:  # noqa: PLR2004
            raise broken(name, line, offset, "is no BSON document, or the file is cut off")
        document = header + reader.read(length - 4)
        if len(document) != length or document[-1] != 0:
            raise broken(name, line, offset, "is cut off")
        fault = _fault(document) if strict else None
        if fault is None:
            chunk.add(document, line, offset)
        else:
            chunk.rejects.append(Reject(line, offset, fault))
        offset += length
        if chunk.full:
            yield chunk
            chunk = Chunk(chunk.number + 1)
    if chunk:
        yield chunk


def broken(name: str, line: int, offset: int, what: str) -> BrokenFileError:
    """Return the error for a file that cannot be read any further."""
    return BrokenFileError(
        f"{name}: document {line:,} (offset {offset:,}) {what}. What was imported before it stays; get the file again."
    )


def _fault(document: bytes) -> str | None:
    try:
        bson.decode(document, CODEC)
    except RecursionError:
        return "nested too deeply"
    except (BSONError, ValueError, OverflowError):  # UnicodeDecodeError is a ValueError
        return "malformed BSON, or text that is not UTF-8"
    return None
