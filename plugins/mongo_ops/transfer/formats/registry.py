"""Which encoder and decoder belong to a format. Parquet's library is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mongo_ops.transfer.formats import bsonfile, csvfile, jsonl
from mongo_ops.transfer.formats.base import Chunks, Encoder, Readable
from mongo_ops.transfer.model import FORMATS, Column, ExportRequest, FormatName

if TYPE_CHECKING:
    from mongo_ops.transfer.compression import Writer

Decoder = Callable[[Readable, str], Chunks]
"""Takes decompressed bytes and the file's name for messages."""


def encoder(request: ExportRequest, columns: Sequence[Column], writer: Writer) -> Encoder:
    """Return what writes documents in the request's format."""
    name = FORMATS[request.format][0]
    if name == "bson":
        return bsonfile.BsonEncoder(writer)
    if name == "jsonl":
        return jsonl.JsonlEncoder(writer, request.json_mode)
    if name == "csv":
        return csvfile.CsvEncoder(writer, columns)
    from mongo_ops.transfer.formats.parquet import ParquetEncoder  # noqa: PLC0415 - loads Arrow

    return ParquetEncoder(writer, columns)


def decoder(name: FormatName, columns: Sequence[Column], *, strict: bool) -> Decoder:
    """Return what reads a file of a format.

    Args:
        name: the format.
        columns: the columns of csv and parquet, from the manifest or the user; empty to infer types.
        strict: no manifest vouches for the file: it is another tool's, and bson is looked into.
    """
    if name == "bson":
        return partial(bsonfile.chunks, strict=strict)
    if name == "jsonl":
        return jsonl.chunks
    if name == "csv":
        return partial(csvfile.chunks, columns=columns, foreign=strict)
    from mongo_ops.transfer.formats import parquet  # noqa: PLC0415 - loads Arrow

    return partial(parquet.chunks, columns=columns, foreign=strict)
