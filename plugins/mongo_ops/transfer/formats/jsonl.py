"""``jsonl``: one document per line as Extended JSON v2, canonical (types kept exactly) or relaxed (easy to read).

Reading takes lines of either mode, as mongoexport writes them, and a single JSON array. The work is done by libbson (``bsonjs``),
straight between BSON and text, so that duplicate keys and the order of fields survive. It stops at about 95 levels; deeper
documents go through ``bson.json_util``.

Source: https://github.com/mongodb/specifications (source/extended-json/extended-json.md).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import bson
import bsonjs  # type: ignore[import-not-found]
from bson import json_util
from bson.errors import BSONError

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer.formats.base import Chunk, Chunks, Readable, Reject
from mongo_ops.transfer.formats.bsonfile import LARGEST
from mongo_ops.transfer.formats.jsontext import Lines, is_array, members
from mongo_ops.transfer.model import JsonMode
from mongo_ops.transfer.raw import split

if TYPE_CHECKING:
    from mongo_ops.transfer.compression import Writer

LONGEST_LINE = 6 * LARGEST
"""A document of 16 MB may take more as text: base64, escapes, type wrappers."""
MAX_DEPTH = 180
_TRUNCATED = " ... "
_WRAPPERS = re.compile(
    rb"\$(?:oid|symbol|numberInt|numberLong|numberDouble|numberDecimal|binary|type|uuid|code|scope|timestamp|regularExpression"
    rb"|regex|options|dbPointer|date|ref|id|db|minKey|maxKey|undefined)\x00"
)
_CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=CODEC.uuid_representation,
    datetime_conversion=CODEC.datetime_conversion,
    tz_aware=True,
)
_RELAXED = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    uuid_representation=CODEC.uuid_representation,
    datetime_conversion=CODEC.datetime_conversion,
    tz_aware=True,
)


class NotExpressibleError(PlanError):
    """Extended JSON has no words for a document: a field is named like one of its type wrappers, such as ``$oid``."""


class JsonlEncoder:
    """Writes lines."""

    misfits = 0

    def __init__(self, writer: Writer, mode: JsonMode) -> None:
        self._writer, self._mode = writer, bsonjs.CANONICAL if mode == "canonical" else bsonjs.RELAXED
        self.close = writer.close

    def write(self, stream: bytes) -> None:
        """Write a stream of documents.

        Raises:
            NotExpressibleError: reading a line back would give another document.
        """
        documents = split(stream)
        if _WRAPPERS.search(stream):
            for document in documents:
                _insist_expressible(document)
        mode = self._mode
        try:
            lines = [bsonjs.dumps(document, mode=mode) for document in documents]
        except ValueError:
            raise NotExpressibleError(
                "A document is malformed or holds text that is not UTF-8; JSON cannot hold it. Export as bson instead."
            ) from None
        lines = [
            _slowly(document, mode) if _TRUNCATED in line else line
            for line, document in zip(lines, documents, strict=True)
        ]
        lines.append("")
        self._writer.write("\n".join(lines).encode())


def chunks(reader: Readable, name: str) -> Chunks:
    """Yield chunks of a file of lines, or of one JSON array. Empty lines do not count as rows.

    A line that is no document is rejected with its reason; the file goes on with the next. A broken array ends the file.

    Raises:
        BrokenFileError: the file is in UTF-16 or UTF-32, is a broken array, or a line is longer than any document.
    """
    lines = Lines(reader, name, LONGEST_LINE)
    rows = members(lines) if is_array(lines) else lines.rows()
    chunk = Chunk(0)
    for line, offset, text in rows:
        if not text.strip():
            continue
        try:
            document = parse(text)
        except _RowError as error:
            chunk.rejects.append(Reject(line, offset, str(error)))
        else:
            chunk.add(document, line, offset)
        if chunk.full:
            yield chunk
            chunk = Chunk(chunk.number + 1)
    if chunk:
        yield chunk


def parse(text: bytes) -> bytes:
    """Return the BSON of one document's text.

    Raises:
        _RowError: with a reason that holds nothing of the text.
    """
    try:
        document = _only_value(bsonjs.loads(f'{{"d":{text.decode()}}}'))
    except UnicodeDecodeError:
        raise _RowError("not UTF-8") from None
    except _RowError:
        raise
    except ValueError as error:
        if "LEVELS_EXCEEDED" not in str(error):
            raise _RowError("no valid Extended JSON document") from None
        document = _parse_deep(text)
    except (OverflowError, MemoryError):
        raise _RowError("no valid Extended JSON document") from None
    if len(document) > LARGEST:
        raise _RowError("larger than 16 MB")
    return document


class _RowError(ValueError):
    """Why a row is no document."""


def _only_value(wrapped: bytes) -> bytes:
    """Take the document out of ``{"d": ...}``. By itself, libbson would leave out what follows it, and take arrays."""
    document = wrapped[7:-1]
    if wrapped[4:7] != b"\x03d\x00" or int.from_bytes(document[:4], "little") != len(document):
        raise _RowError("no valid Extended JSON document")
    return document


def _parse_deep(text: bytes) -> bytes:
    try:
        found = json_util.loads(text, json_options=_CANONICAL)
        if not isinstance(found, dict):
            raise _RowError("not an object")
        return bson.encode(found, codec_options=CODEC)
    except RecursionError:
        raise _RowError(f"nested more than {MAX_DEPTH} levels deep") from None
    except (BSONError, ValueError, TypeError, OverflowError):
        raise _RowError("no valid Extended JSON document") from None


def _slowly(document: bytes, mode: int) -> str:
    """Return the line of a document that libbson cut short, or that holds the text `` ... ``."""
    options = _CANONICAL if mode == bsonjs.CANONICAL else _RELAXED
    line: str = bsonjs.dumps(document, mode=mode)
    try:
        json.loads(line)
    except ValueError:
        line = json_util.dumps(bson.decode(document, CODEC), json_options=options)
        if mode == bsonjs.CANONICAL and _parse_deep(line.encode()) != document:
            raise NotExpressibleError(
                "A document of more than 95 levels holds values that JSON cannot give back. Export as bson instead."
            ) from None
    return line


def _insist_expressible(document: bytes) -> None:
    """Refuse a document whose field names read as type wrappers; DBRefs are fine, they read back as they are."""
    if _WRAPPERS.search(document) is None:
        return
    try:
        if bsonjs.loads(bsonjs.dumps(document, mode=bsonjs.CANONICAL)) == document:
            return
    except ValueError:
        pass
    raise NotExpressibleError(
        "A document has a field named like a type wrapper of Extended JSON (such as $oid), so that reading it back would give "
        "another document. Export as bson instead."
    )
