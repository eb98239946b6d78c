"""Documents as rows of typed columns, for csv and parquet, and rows as documents again. Pure.

Embedded documents become columns with dotted paths. Arrays of texts or of numbers of one type are lists; other arrays are JSON text.
A value of another type than its column's, a field without a column, an empty embedded document and a field name with a dot go into
the column ``_overflow``: one Extended JSON document per row, laid over the row when it is read. An explicit null is an empty
cell, as a missing field is.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson import Decimal128, Int64, ObjectId, json_util
from bson.codec_options import CodecOptions

from mongo_ops.mongo.documents import CODEC, Document
from mongo_ops.transfer.model import Column

OVERFLOW = "_overflow"
INT32 = range(-(2**31), 2**31)
READ: CodecOptions[Document] = CODEC.with_options(tz_aware=False)
TYPES = (
    "string",
    "objectId",
    "int",
    "long",
    "double",
    "bool",
    "date",
    "decimal",
    "binary",
    "json",
    "strings",
    "ints",
    "longs",
    "doubles",
)
_OF: Mapping[type, str] = {
    str: "string", ObjectId: "objectId", int: "int", Int64: "long", float: "double", bool: "bool", datetime: "date",
    Decimal128: "decimal", bytes: "binary",
}  # fmt: skip
LISTS: Mapping[str, type] = {"strings": str, "ints": int, "longs": Int64, "doubles": float}
"""Types of columns for arrays whose elements are all of one type."""
_CANONICAL = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=CODEC.uuid_representation,
    datetime_conversion=CODEC.datetime_conversion,
    tz_aware=False,
)


def columns(documents: Iterable[Document], fields: Sequence[str] = ()) -> tuple[Column, ...]:
    """Return the columns of a sample, in the order in which fields are first seen; only ``fields`` when they are given.

    A column's type is the most frequent one. ``int`` widens to ``long`` when both are there.
    """
    seen: dict[str, Counter[str]] = {path: Counter() for path in fields}
    for document in documents:
        _count(document, "", seen, grow=not fields)
    leaves = [path for path in seen if not any(other.startswith(f"{path}.") for other in seen)]
    return tuple(Column(path=path, type=_widest(seen[path])) for path in leaves)


class Table:
    """Turns documents into columns."""

    def __init__(self, wanted: Sequence[Column]) -> None:
        self.columns = tuple(wanted)
        self._tree: dict[str, Any] = {}
        for number, column in enumerate(wanted):
            node = self._tree
            *parents, last = column.path.split(".")
            for name in parents:
                node = node.setdefault(name, {})
            node[last] = number
        self._takes = [_takes(column.type) for column in wanted]

    def fill(self, documents: Sequence[Document]) -> tuple[list[list[Any]], list[str | None]]:
        """Return a list of values per column, and the overflow."""
        values: list[list[Any]] = [[None] * len(documents) for _ in self.columns]
        overflow: list[str | None] = [None] * len(documents)
        for row, document in enumerate(documents):
            rest = self._row(document, self._tree, values, row)
            if rest:
                overflow[row] = text(rest)
        return values, overflow

    def _row(self, document: Document, tree: Mapping[str, Any], values: list[list[Any]], row: int) -> Document | None:
        rest: Document | None = None
        for name, value in document.items():
            node = tree.get(name)
            if type(node) is int:
                take = self._takes[node].get(type(value))
                taken = None if take is None else take(value)
                if taken is not None:
                    values[node][row] = taken
                    continue
                if value is None:
                    continue
            elif node is not None and type(value) is dict and value:
                value = self._row(value, node, values, row)  # noqa: PLW2901 - what is left of it
                if not value:
                    continue
            rest = {} if rest is None else rest
            rest[name] = value
        return rest


def document(row: Mapping[str, Any], overflow: str | None) -> Document:
    """Return the document of a row: values by path (None is missing), and the overflow laid over it.

    Raises:
        ValueError: the overflow is no document.
    """
    found: Document = {}
    for path, value in row.items():
        if value is None:
            continue
        node = found
        *parents, last = path.split(".")
        for name in parents:
            inner = node.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ValueError(path)  # noqa: TRY004 - it is the row's value that is wrong
            node = inner
        node[last] = value
    if overflow:
        rest = parsed(overflow)
        if not isinstance(rest, dict):
            raise ValueError(OVERFLOW)
        _lay_over(found, rest)
    return found


def text(value: Any) -> str:
    """Return a value as canonical Extended JSON."""
    return json_util.dumps(value, json_options=_CANONICAL, separators=(",", ":"), ensure_ascii=False)


def array_text(value: list[Any]) -> str:
    """Return an array as JSON that reads back as it was: plain where JSON has the types, else canonical Extended JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if _is_plain(value) else text(value)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(not name.startswith("$") for name in value) and all(map(_is_plain, value.values()))
    return kind in (str, int, bool, type(None)) or (kind is float and math.isfinite(value))


def parsed(value: str) -> Any:
    """Read Extended JSON back.

    Raises:
        ValueError: it is none.
    """
    try:
        return json_util.loads(value, json_options=_CANONICAL)
    except (TypeError, RecursionError, OverflowError, KeyError) as error:
        raise ValueError(type(error).__name__) from None


def reader(kind: str) -> Callable[[str], Any]:
    """Return what turns a cell's text into a column's value; it raises ValueError when the text is none of the type."""
    return _READERS[kind]


def guessed(cell: str) -> Any:
    """Return a cell of a file without types: a whole number, a finite decimal number, else the text, as mongoimport does."""
    try:
        number: float = int(cell) if cell.lstrip("+-").isdigit() else float(cell)
    except ValueError:
        return cell
    if isinstance(number, int):
        return number if number in INT32 or -(2**63) <= number < 2**63 else cell
    return number if math.isfinite(number) and "_" not in cell else cell


def _count(document: Document, prefix: str, seen: dict[str, Counter[str]], *, grow: bool) -> None:
    for name, value in document.items():
        if not name or "." in name:
            continue
        path = f"{prefix}{name}"
        if type(value) is dict and value and path not in seen:
            _count(value, f"{path}.", seen, grow=grow)
        elif (path in seen or (grow and path != OVERFLOW)) and (kind := _kind(value)):
            seen.setdefault(path, Counter())[kind] += 1
        elif grow and path != OVERFLOW:
            seen.setdefault(path, Counter())


def _kind(value: Any) -> str | None:
    """Return the column type for a value; None when it says nothing or belongs into the overflow."""
    if type(value) is list and value:
        return next((name for name, python in LISTS.items() if all(type(one) is python for one in value)), "json")
    return "json" if type(value) is list else _OF.get(type(value))


def _widest(found: Counter[str]) -> str:
    if not found:
        return "string"
    if found["long"] and found["int"]:
        found["long"] += found.pop("int")
    return found.most_common(1)[0][0]


def _same(value: Any) -> Any:
    return value


def _all_str(value: list[Any]) -> list[str] | None:
    return value if all(type(one) is str for one in value) else None


def _all_int(value: list[Any]) -> list[int] | None:
    return value if all(type(one) is int for one in value) else None


def _all_long(value: list[Any]) -> list[int] | None:
    return list(map(int, value)) if all(type(one) is Int64 for one in value) else None


def _all_float(value: list[Any]) -> list[float] | None:
    return value if all(type(one) is float for one in value) else None


def _takes(kind: str) -> Mapping[type, Callable[[Any], Any]]:
    """Return what a column of a type takes, by the value's type."""
    plain: dict[str, Mapping[type, Callable[[Any], Any]]] = {
        "objectId": {ObjectId: str},
        "decimal": {Decimal128: str},
        "long": {Int64: int, int: _same},
        "json": {list: array_text},
        "strings": {list: _all_str},
        "ints": {list: _all_int},
        "longs": {list: _all_long},
        "doubles": {list: _all_float},
    }
    return plain.get(kind) or {python: _same for python, name in _OF.items() if name == kind}


def _lay_over(below: Document, above: Document) -> None:
    for name, value in above.items():
        if isinstance(value, dict) and value and isinstance(below.get(name), dict):
            _lay_over(below[name], value)
        else:
            below[name] = value


def _date(cell: str) -> datetime:
    found = datetime.fromisoformat(cell)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _bool(cell: str) -> bool:
    return {"true": True, "false": False}[cell.lower()]


def _objectid(cell: str) -> ObjectId:
    if not ObjectId.is_valid(cell):
        raise ValueError
    return ObjectId(cell)


def _int(cell: str) -> int:
    number = int(cell)
    if number not in INT32:
        raise ValueError
    return number


def _long(cell: str) -> Int64:
    number = int(cell)
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return Int64(number)


def _binary(cell: str) -> bytes:
    return b64decode(cell, validate=True)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "string": str, "objectId": _objectid, "int": _int, "long": _long, "double": float, "bool": _bool, "date": _date,
    "decimal": Decimal128, "binary": _binary, "json": parsed, **dict.fromkeys(LISTS, parsed),
}  # fmt: skip
KINDS = tuple(_READERS)
"""The names of the column types."""
