"""Find the same fields in thousands of BSON documents at once, with numpy instead of an object per value. Pure.

All documents of a batch stand at their own place; at each step those that stand before the field whose turn it is go over it. A
document that goes over its end exactly, and met nothing but what the columns take, *fits*. What does not fit (a field without
a column, a value of another type, a name twice, malformed bytes) is only told apart here; ``flat`` decides what becomes of it.

Source: https://bsonspec.org/spec.html (version 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mongo_ops.transfer.model import Column
from mongo_ops.transfer.raw import Bytes

Places = NDArray[np.int64]
Flags = NDArray[np.bool_]
DOUBLE, TEXT, DOCUMENT, ARRAY, BINARY, OBJECT_ID, BOOL, DATE, NULL, INT, LONG, DECIMAL = (
    1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 18, 19,
)  # fmt: skip
_KINDS = {
    "string": (TEXT,), "objectId": (OBJECT_ID,), "int": (INT,), "long": (INT, LONG), "double": (DOUBLE,), "bool": (BOOL,),
    "date": (DATE,), "decimal": (DECIMAL,), "binary": (BINARY,),
}  # fmt: skip
ELEMENTS = {"strings": TEXT, "ints": INT, "longs": LONG, "doubles": DOUBLE}
"""The type of each element of a list column."""
_WIDTH = {DOUBLE: 8, OBJECT_ID: 12, BOOL: 1, DATE: 8, INT: 4, LONG: 8, DECIMAL: 16}
YEAR_1, YEAR_9999 = -62_135_596_800_000, 253_402_300_799_999  # milliseconds; what Python's datetime holds
PASSES = 4  # over the fields of a level; each takes all fields that are in the columns' order
STEPS = 16  # elements that are walked per array that is still being walked: a lone giant is left to the other path
_WORD, _SMALLEST = 8, 5


@dataclass(slots=True)
class Found:
    """Where a column's values are, by row. ``start`` is behind a length, ``size`` only of what has one."""

    there: Flags
    seen: Flags
    start: Places
    size: Places
    kind: NDArray[np.uint8]
    elements: list[tuple[Places, Places, Places]] = field(default_factory=list)
    """Of a list column: row, start and size of elements, the first ones first."""


class Batch:
    """The bytes of some documents, to be read at any place. Bytes behind the end are zero."""

    def __init__(self, stream: Bytes, longest_name: int) -> None:
        self.end = len(stream)
        self.bytes = np.zeros(self.end + longest_name + 4 * _WORD, np.uint8)
        self.bytes[: self.end] = np.frombuffer(stream, np.uint8)
        self.int32 = self.window("<i4")
        self.int64 = self.window("<i8")
        self._words = self.window("<u8")

    def window(self, kind: str) -> NDArray[Any]:
        """Return what stands at each place, read as a type."""
        width = np.dtype(kind).itemsize
        return np.ndarray((len(self.bytes) - width + 1,), kind, self.bytes.data, 0, (1,))

    def named(self, name: _Name, at: Places) -> Flags:
        """Return at which places an element of this name stands."""
        same: Flags = np.ones(len(at), np.bool_)
        for number, (word, mask) in enumerate(name.words):
            same &= (self._words[at + (1 + _WORD * number)] & mask) == word
        return same


class _Name:
    """An element's name and its zero, as words of eight bytes."""

    def __init__(self, name: str) -> None:
        text = name.encode() + b"\0"
        self.size = len(text)
        self.words = []
        for at in range(0, len(text), _WORD):
            part = text[at : at + _WORD]
            mask = (b"\xff" * len(part)).ljust(_WORD, b"\0")
            self.words.append((np.uint64(int.from_bytes(part, "little")), np.uint64(int.from_bytes(mask, "little"))))


@dataclass(slots=True)
class _Field:
    name: _Name
    number: int
    """Of the column, or behind the columns for an embedded document."""
    inner: dict[str, _Field] | None = None


class Lockstep:
    """Walks documents for columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self._tree: dict[str, _Field] = {}
        self._count = len(self.columns)
        for number, column in enumerate(self.columns):
            level = self._tree
            *parents, last = column.path.split(".")
            for parent in parents:
                level = self._embedded(level, parent)
            level[last] = _Field(_Name(last), number)
        self._longest = max((len(column.path.encode()) for column in self.columns), default=0)

    def walk(self, stream: Bytes, starts: Places) -> tuple[Batch, list[Found], Flags]:
        """Return the bytes, where each column's values are in them, and which documents fit.

        Args:
            stream: concatenated documents.
            starts: where each begins.
        """
        batch, count = Batch(stream, self._longest), len(starts)
        walk = _Walk(batch, self.columns, [_nothing(count) for _ in range(self._count)])
        stop = starts + batch.int32[starts] - 1
        fits = batch.bytes[stop] == 0
        at = np.where(fits, starts + 4, batch.end)
        at = walk.level(self._tree, np.arange(count), at, stop)
        fits = at == stop
        for found in walk.found:
            found.there &= fits
        return batch, walk.found[: len(self.columns)], fits

    def _embedded(self, level: dict[str, _Field], name: str) -> dict[str, _Field]:
        found = level.get(name)
        if found is None:
            found = level[name] = _Field(_Name(name), self._count, {})
            self._count += 1
        if found.inner is None:
            raise ValueError(name)
        return found.inner


class _Walk:
    """One walk over a batch. A document that does not fit is put behind the batch's end, where nothing is."""

    def __init__(self, batch: Batch, columns: Sequence[Column], found: list[Found]) -> None:
        self.batch, self.columns, self.found = batch, columns, found

    def level(self, fields: dict[str, _Field], rows: Places, at: Places, stop: Places) -> Places:
        """Go over the fields of (embedded) documents; return where each then stands: at ``stop`` if it fits."""
        at = at.copy()
        for _ in range(PASSES):
            todo = np.flatnonzero(at < stop)
            if not todo.size:
                break
            at[todo] = self._once(fields, rows[todo], at[todo], stop[todo])
        return at

    def _once(self, fields: dict[str, _Field], rows: Places, at: Places, stop: Places) -> Places:
        for one in fields.values():
            here = np.flatnonzero((at < stop) & self.batch.named(one.name, at))
            if here.size:
                at[here] = self._field(one, rows[here], at[here], stop[here])
        return at

    def _field(self, one: _Field, rows: Places, at: Places, stop: Places) -> Places:
        """Return the field's end, or the batch's end where it does not fit."""
        found, kind, start = self.found[one.number], self.batch.bytes[at], at + (1 + one.name.size)
        if one.inner is None:
            end, taken = self._leaf(one.number, rows, kind, start)
        else:
            end, taken = self._inner(one.inner, rows, kind, start, stop), None
        end = np.where((end > stop) | found.seen[rows], self.batch.end, end)
        found.seen[rows] = True
        if taken is not None:
            found.there[rows] = taken & (end < self.batch.end)
        return end

    def _inner(
        self, fields: dict[str, _Field], rows: Places, kind: NDArray[np.uint8], start: Places, stop: Places
    ) -> Places:
        end = np.full(len(rows), self.batch.end)
        size = self.batch.int32[start].astype(np.int64)
        wanted = (kind == DOCUMENT) & (size > _SMALLEST) & (start + size <= stop)
        here = np.flatnonzero(wanted)
        last = start[here] + size[here] - 1
        reached = self.level(fields, rows[here], start[here] + 4, last)
        fits = (reached == last) & (self.batch.bytes[last] == 0)
        end[here[fits]] = last[fits] + 1
        return end

    def _leaf(self, number: int, rows: Places, kind: NDArray[np.uint8], start: Places) -> tuple[Places, Flags]:
        """Return the end of each value, and whether it is one (no null) of the column's type."""
        found, told = self.found[number], self.columns[number].type
        end = np.where(kind == NULL, start, self.batch.end)
        taken: Flags = np.zeros(len(rows), np.bool_)
        for wanted in _KINDS.get(told, (ARRAY,)):
            here = np.flatnonzero(kind == wanted)
            if not here.size:
                continue
            begin, size = self._value(wanted, start[here])
            if wanted == ARRAY and told in ELEMENTS:
                size = self._elements(ELEMENTS[told], found, rows[here], begin, size)
            good = size >= 0
            place, here = rows[here][good], here[good]
            found.start[place], found.size[place], found.kind[place] = begin[good], size[good], wanted
            end[here] = begin[good] + size[good] + (wanted == TEXT)
            taken[here] = True
        return end, taken

    def _value(self, kind: int, start: Places) -> tuple[Places, Places]:
        """Return where values begin and their sizes, -1 for those that are malformed or that no column takes."""
        batch = self.batch
        if kind in _WIDTH:
            size = np.full(len(start), _WIDTH[kind])
            if kind == BOOL:
                size[batch.bytes[start] > 1] = -1
            if kind == DATE:
                moment = batch.int64[start]
                size[(moment < YEAR_1) | (moment > YEAR_9999)] = -1
            return start, size
        told = batch.int32[start].astype(np.int64)
        if kind == BINARY:
            begin, size, good = start + 5, told, batch.bytes[start + 4] == 0
        elif kind == TEXT:
            begin, size, good = start + 4, told - 1, told > 0
        else:
            begin, size, good = start, told, told >= _SMALLEST
        good &= (size >= 0) & (begin + size < batch.end)
        if kind != BINARY:  # the zero behind a text, and at an array's end
            zero = np.where(good, begin + size - (kind == ARRAY), 0)
            good &= batch.bytes[zero] == 0
        return begin, np.where(good, size, -1)

    def _elements(self, kind: int, found: Found, rows: Places, begin: Places, size: Places) -> Places:
        """Note the elements of arrays; return the arrays' sizes, -1 for those with an element of another type."""
        good = size >= 0
        at, stop = np.where(good, begin + 4, self.batch.end), np.where(good, begin + size - 1, self.batch.end - 1)
        live, number = np.flatnonzero(at < stop), 0
        while live.size and number < STEPS * live.size:
            place, name = at[live], _Name(str(number))
            start, width = self._value(kind, place + (1 + name.size))
            end = start + width + (kind == TEXT)
            fits = (
                self.batch.named(name, place) & (self.batch.bytes[place] == kind) & (width >= 0) & (end <= stop[live])
            )
            found.elements.append((rows[live[fits]], start[fits], width[fits]))
            at[live] = np.where(fits, end, self.batch.end)
            live, number = live[at[live] < stop[live]], number + 1
        return np.where(at == stop, size, -1)


def _nothing(count: int) -> Found:
    none, zeros = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    return Found(none, none.copy(), zeros, zeros.copy(), np.zeros(count, np.uint8))
