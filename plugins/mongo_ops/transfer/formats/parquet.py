"""``parquet``: typed columns for analysis (zstd inside). See ``flat`` for the columns.

ObjectId and Decimal128 are text (Decimal128 has exponents and specials that no Arrow decimal holds), dates are milliseconds in UTC,
arrays of one type are lists and others JSON text. The file's metadata names the BSON type of each column, so that reading needs no manifest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import bson
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from bson import Decimal128, Int64, ObjectId
from bson.errors import BSONError

from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer import raw
from mongo_ops.transfer.compression import MAX_RATIO, RATIO_FROM, CompressionError
from mongo_ops.transfer.formats import arrow, flat
from mongo_ops.transfer.formats.base import CHUNK_COUNT, Chunk, Chunks, Readable, Reject
from mongo_ops.transfer.formats.bsonfile import broken
from mongo_ops.transfer.formats.flat import OVERFLOW, Table
from mongo_ops.transfer.formats.lockstep import Lockstep, Places
from mongo_ops.transfer.model import Column

if TYPE_CHECKING:
    from mongo_ops.transfer.compression import Writer

GROUP_ROWS = 20_000
AT_ONCE = 4000  # documents; enough to make numpy's own cost small, few enough for the caches
METADATA = b"mongo_ops.columns"
IN_MEMORY = 16 * 1024 * 1024
_BACK: dict[str, Any] = {
    "objectId": ObjectId,
    "decimal": Decimal128,
    "long": Int64,
    "json": flat.parsed,
    "longs": lambda value: list(map(Int64, value)),
}


class ParquetEncoder:
    """Writes row groups of about 20,000 rows."""

    def __init__(self, writer: Writer, columns: Sequence[Column]) -> None:
        self._writer, self._table, self._lockstep = writer, Table(columns), Lockstep(columns)
        self.misfits = 0
        fields = [pa.field(column.path, arrow.TYPES[column.type]) for column in columns]
        told = json.dumps([column.as_value() for column in columns]).encode()
        self._schema = pa.schema([*fields, pa.field(OVERFLOW, pa.string())], metadata={METADATA: told})
        self._file = pq.ParquetWriter(_Out(writer), self._schema, compression="zstd", compression_level=1)
        self._held: list[Any] = []
        self._rows = 0

    def write(self, stream: bytes) -> None:
        """Write documents as rows."""
        edges = raw.edges(stream)
        view = memoryview(stream)
        for first in range(0, len(edges) - 1, AT_ONCE):
            some = np.array(edges[first : first + AT_ONCE + 1], np.int64)
            self._held.append(self._rows_of(view[some[0] : some[-1]], some - some[0]))
            self._rows += len(some) - 1
            if self._rows >= GROUP_ROWS:
                self._flush()

    def _rows_of(self, stream: memoryview, edges: Places) -> Any:
        """Return documents as rows. Those whose fields all have a column are never made into objects."""
        batch, found, fits = self._lockstep.walk(stream, edges[:-1])
        try:
            arrays = [
                arrow.array(batch, values, column.type)
                for values, column in zip(found, self._lockstep.columns, strict=True)
            ]
        except (pa.ArrowInvalid, BSONError):
            return self._one_by_one(stream)  # which says what is wrong
        arrays.append(pa.nulls(len(fits), pa.string()))
        rows = pa.record_batch(arrays, schema=self._schema)
        if fits.all():
            return rows
        odd = np.flatnonzero(~fits)
        others = self._one_by_one(b"".join(stream[edges[at] : edges[at + 1]] for at in odd))
        order = np.arange(len(fits))
        order[odd] = len(fits) + np.arange(len(odd))
        return pa.concat_batches([rows, others]).take(pa.array(order))

    def _one_by_one(self, stream: bytes | memoryview) -> Any:
        values, overflow = self._table.fill(bson.decode_all(stream, flat.READ))
        self.misfits += sum(1 for rest in overflow if rest)
        arrays = [
            pa.array(column, type=field.type) for column, field in zip([*values, overflow], self._schema, strict=True)
        ]
        return pa.record_batch(arrays, schema=self._schema)

    def close(self) -> None:
        """Write the last group and the footer."""
        self._flush()
        self._file.close()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(pa.Table.from_batches(self._held), row_group_size=self._rows)
        self._held, self._rows = [], 0


def chunks(reader: Readable, name: str, *, columns: Sequence[Column], foreign: bool = True) -> Chunks:
    """Yield chunks of a parquet file; its end is read first, so it goes into a temporary file.

    Columns of other writers keep the types that Arrow gives them; nested ones become embedded documents.

    Raises:
        BrokenFileError: it is no parquet file, or is damaged.
        CompressionError: no manifest vouches for it (``foreign``), and it swells beyond reason.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        size = done = 0
        while data := reader.some():
            size += spool.write(data)
        spool.seek(0)
        try:
            file = pq.ParquetFile(spool)
            swollen = _said(file.metadata)
            told = (file.schema_arrow.metadata or {}).get(METADATA)
            kinds = {c["path"]: c["type"] for c in json.loads(told)} if told else {c.path: c.type for c in columns}
            for chunk in _chunks(file, kinds):
                swollen = max(
                    swollen, chunk.size + done
                )  # a dictionary of a few texts can stand for any number of rows
                done += chunk.size
                if foreign and swollen > max(RATIO_FROM, MAX_RATIO * size):
                    raise CompressionError(
                        f"{name} swells to more than {MAX_RATIO} times its size; it is not read any further."
                    )
                yield chunk
        except (pa.ArrowException, OSError, ValueError, KeyError):
            raise broken(name, 1, 0, "is not readable: the file is no parquet, or is damaged") from None


def _said(metadata: Any) -> int:
    """Return how many bytes the row groups say they take when they are unpacked."""
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _chunks(file: Any, kinds: dict[str, str]) -> Chunks:
    line = 0
    for number, batch in enumerate(file.iter_batches(batch_size=CHUNK_COUNT)):
        chunk = Chunk(number)
        for row in batch.to_pylist():
            line += 1
            try:
                chunk.add(_document(row, kinds), line, 0)
            except (BSONError, ValueError, TypeError, OverflowError, ArithmeticError):
                chunk.rejects.append(Reject(line, 0, "a value is not of its column's type"))
        yield chunk


def _document(row: dict[str, Any], kinds: dict[str, str]) -> bytes:
    overflow = row.pop(OVERFLOW, None)
    for path, kind in kinds.items():
        value = row.get(path)
        if value is not None and kind in _BACK:
            row[path] = _BACK[kind](value)
    if kinds:
        return bson.encode(flat.document(row, overflow), codec_options=CODEC)
    found = {name: value for name, value in row.items() if value is not None}
    return bson.encode(found, codec_options=CODEC)


class _Out:
    """A writer as Arrow wants a file."""

    closed = False

    def __init__(self, writer: Writer) -> None:
        self._writer, self._at = writer, 0

    def write(self, data: Any) -> int:
        """Write bytes."""
        self._writer.write(bytes(data))
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self._at

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The encoder closes the writer."""

    def readable(self) -> bool:
        """It is not."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is not."""
        return False
