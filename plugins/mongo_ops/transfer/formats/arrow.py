"""Columns of BSON values as Arrow arrays: straight from the bytes where ``lockstep`` found them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import bson
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from bson import Decimal128

from mongo_ops.transfer.formats import flat
from mongo_ops.transfer.formats.lockstep import ELEMENTS, LONG, TEXT, Batch, Flags, Found, Places

TYPES: dict[str, Any] = {
    "string": pa.string(), "objectId": pa.string(), "int": pa.int32(), "long": pa.int64(), "double": pa.float64(), "bool": pa.bool_(),
    "date": pa.timestamp("ms", tz="UTC"), "decimal": pa.string(), "binary": pa.binary(), "json": pa.string(),
    "strings": pa.list_(pa.string()), "ints": pa.list_(pa.int32()), "longs": pa.list_(pa.int64()), "doubles": pa.list_(pa.float64()),
}  # fmt: skip
"""The Arrow type of each column type."""
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.dtype("V2"))
_NUMBERS = {"int": "<i4", "double": "<f8", "date": "<i8", "ints": "<i4", "longs": "<i8", "doubles": "<f8"}


def array(batch: Batch, found: Found, kind: str) -> Any:
    """Return a column's values; null where there are none.

    Raises:
        pyarrow.ArrowInvalid: a text is not UTF-8.
        bson.errors.InvalidBSON: an array is malformed inside.
    """
    if kind in ("string", "binary"):
        return _cut(batch, TYPES[kind], found.start, found.size, found.there)
    if kind in ELEMENTS:
        return _lists(batch, found, kind)
    return _MADE.get(kind, _numbers)(batch, found, kind)


def _numbers(batch: Batch, found: Found, kind: str) -> Any:
    values = batch.window(_NUMBERS[kind])[found.start]
    return pa.array(values, mask=~found.there, from_pandas=False).view(TYPES[kind])  # a NaN is a value


def _long(batch: Batch, found: Found, _: str) -> Any:
    values = np.where(found.kind == LONG, batch.int64[found.start], batch.int32[found.start])
    return pa.array(values, mask=~found.there)


def _bool(batch: Batch, found: Found, _: str) -> Any:
    return pa.array(batch.bytes[found.start] == 1, mask=~found.there)


def _cut(batch: Batch, kind: Any, start: Places, size: Places, there: Flags) -> Any:
    """Return texts or binaries. The values and the gaps between them are one array over the same bytes, of which every other is taken."""
    count = len(start)
    edges = np.zeros(2 * count + 1, np.int32)
    begin = np.maximum.accumulate(np.where(there, start, 0)) if count else start
    edges[0 : 2 * count : 2] = begin
    edges[1 : 2 * count : 2] = np.where(there, begin + size, begin)
    edges[-1] = edges[-2] if count else 0
    over = pa.Array.from_buffers(kind, 2 * count, [None, pa.py_buffer(edges), pa.py_buffer(batch.bytes)])
    taken = over.take(pa.array(np.arange(0, 2 * count, 2, dtype=np.int32), mask=~there))
    taken.validate(full=True)
    return taken


def _hex(batch: Batch, found: Found, _: str) -> Any:
    there, count = found.there, len(found.start)
    text = _HEX[batch.window("V12")[found.start].view(np.uint8)]
    offsets = np.arange(0, 24 * count + 1, 24, dtype=np.int32)
    bitmap = None if there.all() else pa.array(there).buffers()[1]
    return pa.Array.from_buffers(pa.string(), count, [bitmap, pa.py_buffer(offsets), pa.py_buffer(text)])


def _decimals(batch: Batch, found: Found, _: str) -> Any:
    values = batch.window("V16")[found.start].tolist()
    texts = [_text(one) if here else None for one, here in zip(values, found.there.tolist(), strict=True)]
    return pa.array(texts, pa.string())


@lru_cache(maxsize=65_536)
def _text(raw: bytes) -> str:
    return str(Decimal128.from_bid(raw))


def _json(batch: Batch, found: Found, _: str) -> Any:
    """Return arrays as JSON text: each is decoded as the only field of a document."""
    data = batch.bytes.tobytes()
    texts: list[str | None] = [None] * len(found.there)
    for row in np.flatnonzero(found.there).tolist():
        begin, size = int(found.start[row]), int(found.size[row])
        wrapped = (size + 8).to_bytes(4, "little") + b"\x04a\0" + data[begin : begin + size] + b"\0"
        texts[row] = flat.array_text(bson.decode(wrapped, flat.READ)["a"])
    return pa.array(texts, pa.string())


def _lists(batch: Batch, found: Found, kind: str) -> Any:
    rows, start, size = (
        _joined(parts) for parts in (zip(*found.elements, strict=True) if found.elements else ((), (), ()))
    )
    kept = np.flatnonzero(found.there[rows])
    kept = kept[np.argsort(rows[kept], kind="stable")]
    start, size = start[kept], size[kept]
    counts = np.bincount(rows[kept], minlength=len(found.there))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    if ELEMENTS[kind] == TEXT:
        values = _cut(batch, pa.string(), start, size, np.ones(len(start), np.bool_))
    else:
        values = pa.array(batch.window(_NUMBERS[kind])[start], from_pandas=False)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~found.there)).cast(TYPES[kind])


def _joined(parts: Sequence[Places]) -> Places:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


_MADE = {"long": _long, "bool": _bool, "objectId": _hex, "decimal": _decimals, "json": _json}
