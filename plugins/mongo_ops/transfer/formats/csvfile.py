"""``csv``: flat text for spreadsheets (RFC 4180, UTF-8, a header). See ``flat`` for the columns.

Spreadsheets run cells that begin with ``=``, ``+``, ``-`` or ``@`` as formulas. Texts that begin so (or with a tab, a carriage
return or ``'``) get a ``'`` in front, and so do empty text and empty binary, to tell them from a missing field; reading takes it off again.
Numbers are written as numbers.
"""

from __future__ import annotations

import csv
import io
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import BSONError, InvalidDocument

from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer.formats import flat
from mongo_ops.transfer.formats.base import Chunk, Chunks, Readable, Reject
from mongo_ops.transfer.formats.bsonfile import LARGEST, broken
from mongo_ops.transfer.formats.flat import OVERFLOW, Table
from mongo_ops.transfer.formats.jsontext import Lines
from mongo_ops.transfer.model import Column

if TYPE_CHECKING:
    from mongo_ops.transfer.compression import Writer

MARK = "'"
DANGEROUS = ("=", "+", "-", "@", "\t", "\r", MARK)
LONGEST_CELL = 6 * LARGEST
_CELL = rb'(?:"(?:[^"]++|"")*+"|(?!"))[^,]*+'
_CLOSED = re.compile(_CELL + rb"(?:," + _CELL + rb")*+")
"""A line of which every quoted cell ends."""
Cells = tuple[int, int, list[str] | None]
"""Line and offset of a row's beginning, and its cells; None when it is no csv."""


class CsvEncoder:
    """Writes rows."""

    def __init__(self, writer: Writer, columns: Sequence[Column]) -> None:
        self._writer, self._table = writer, Table(columns)
        self._show = [_SHOWN.get(column.type, _plain) for column in columns]
        self.misfits = 0
        self._write([[safe(name)] for name in (*(column.path for column in columns), OVERFLOW)])

    def write(self, stream: bytes) -> None:
        """Write documents as rows."""
        documents = bson.decode_all(stream, flat.READ)
        values, overflow = self._table.fill(documents)
        shown: list[list[str]] = [
            ["" if value is None else show(value) for value in column]
            for show, column in zip(self._show, values, strict=True)
        ]
        self.misfits += sum(1 for rest in overflow if rest)
        self._write([*shown, [rest or "" for rest in overflow]])

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _write(self, columns: Sequence[Sequence[str]]) -> None:
        out = io.StringIO()
        csv.writer(out, lineterminator="\r\n").writerows(zip(*columns, strict=True))
        self._writer.write(out.getvalue().encode())


def safe(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula."""
    return MARK + text if not text or text.startswith(DANGEROUS) else text


def chunks(reader: Readable, name: str, *, columns: Sequence[Column], foreign: bool) -> Chunks:
    """Yield chunks of a csv file. The header names the columns.

    Args:
        reader: the file.
        name: its name.
        columns: types by path; a foreign column without one is guessed cell by cell.
        foreign: written by another tool: a leading ``'`` is text, and an empty cell is a missing field.

    Raises:
        BrokenFileError: no header, or the file is not UTF-8 text.
    """
    rows = _rows(Lines(reader, name, LONGEST_CELL))
    _, _, header = next(rows, (1, 0, None))
    if not header or len(set(header)) < len(header):
        raise broken(name, 1, 0, "is no header with a name for each column")
    paths = [_bare(path) for path in header] if not foreign else header
    kinds = {column.path: column.type for column in columns}
    cell = [_from_cell(kinds.get(path), path, foreign=foreign) for path in paths]
    chunk = Chunk(0)
    for line, offset, cells in rows:
        if cells == []:
            continue
        try:
            chunk.add(_document(paths, cell, cells), line, offset)
        except _RowError as error:
            chunk.rejects.append(Reject(line, offset, str(error)))
        if chunk.full:
            yield chunk
            chunk = Chunk(chunk.number + 1)
    if chunk:
        yield chunk


class _RowError(ValueError):
    """Why a row is no document."""


def _document(paths: Sequence[str], readers: Sequence[Callable[[str], Any]], cells: list[str] | None) -> bytes:
    if cells is None:
        raise _RowError("no valid csv, or not UTF-8")
    if len(cells) != len(paths):
        raise _RowError(f"{len(cells)} cells, {len(paths)} expected")
    row: dict[str, Any] = {}
    overflow: str | None = None
    for path, read, cell in zip(paths, readers, cells, strict=True):
        if path == OVERFLOW:
            overflow = cell
        elif cell:
            try:
                row[path] = read(cell)
            except (ValueError, KeyError, ArithmeticError):
                raise _RowError(f"column {path} is not of its type") from None
    try:
        return bson.encode(flat.document(row, overflow), codec_options=CODEC)
    except (BSONError, InvalidDocument, ValueError, OverflowError):
        raise _RowError("no valid document") from None


def _rows(lines: Lines) -> Iterator[Cells]:
    """Yield rows; a quoted cell may hold line ends."""
    csv.field_size_limit(LONGEST_CELL)
    for line, offset, text in _whole(lines):
        try:
            yield line, offset, next(csv.reader([text.decode()], strict=True), [])
        except (csv.Error, UnicodeDecodeError, StopIteration):
            yield line, offset, None


def _whole(lines: Lines) -> Iterator[tuple[int, int, bytes]]:
    """Join the lines of a row: one that ends within a quoted cell goes on in the next.

    A quote inside of a cell that does not begin with one is text, as the csv module has it.

    Raises:
        BrokenFileError: a quoted cell does not end, or not before it is longer than any cell; nobody can tell where the next row begins.
    """
    held: list[bytes] = []
    size, begin, at = 0, 1, 0
    for line, offset, text in lines.rows():
        if not held:
            size, begin, at = 0, line, offset
        held.append(text)
        size += len(text) + 1
        if size > LONGEST_CELL:
            break
        if not _is_open(text, within=len(held) > 1):
            yield begin, at, b"\n".join(held).removesuffix(b"\r")
            held = []
    if len(held) == 1 and size <= LONGEST_CELL:  # only itself is lost
        yield begin, at, held[0]
    elif held:
        raise broken(lines.name, begin, at, "has a quoted cell that does not end")


def _is_open(text: bytes, *, within: bool) -> bool:
    """Say whether a line ends within a quoted cell, ``within`` which it began or not."""
    if b'"' not in text:
        return within
    return _CLOSED.fullmatch(b'"' + text if within else text) is None


def _from_cell(kind: str | None, path: str, *, foreign: bool) -> Callable[[str], Any]:
    if kind is None:
        return flat.guessed if foreign and path != OVERFLOW else str
    read = flat.reader(kind)
    if kind == "binary" and not foreign:
        return lambda cell: read(_bare(cell))
    return _bare if kind == "string" and not foreign else read


def _bare(cell: str) -> str:
    return cell.removeprefix(MARK)


def _plain(value: Any) -> str:
    return str(value)


def _date(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds") + "Z"


_SHOWN: Mapping[str, Callable[[Any], str]] = {
    "string": safe, "date": _date, "bool": lambda value: str(value).lower(), "binary": lambda value: b64encode(value).decode() or MARK,
    "double": repr, **dict.fromkeys(flat.LISTS, flat.array_text),
}  # fmt: skip
