"""BSON values: how they are read, how they are compared, and digests that do not depend on order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

Document = dict[str, Any]

CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True, uuid_representation=UuidRepresentation.STANDARD, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, uuid_representation=UuidRepresentation.STANDARD, tz_aware=True
)


def as_stored(document: Mapping[str, Any]) -> Document:
    """Return the document as a read would return it (dates cut to milliseconds, integers in their BSON width)."""
    return bson.decode(bson.encode(document, codec_options=CODEC), CODEC)


def canonical(document: Mapping[str, Any]) -> str:
    """Return canonical Extended JSON with sorted keys: one text for one value, types kept apart, field order ignored.

    Source: Extended JSON v2, https://github.com/mongodb/specifications (source/extended-json).
    """
    return json_util.dumps(as_stored(document), json_options=_JSON, sort_keys=True, separators=(",", ":"))


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def set_digest(documents: Iterable[Mapping[str, Any]]) -> tuple[int, str]:
    """Return (count, digest) of a set of documents, whatever their order, in constant memory.

    The digest is the sum of the documents' SHA-256 values modulo 2**256, as 64 hex digits.
    """
    count, total = 0, 0
    for document in documents:
        count += 1
        total += int(digest(document), 16)
    return count, f"{total % 2**256:064x}"
