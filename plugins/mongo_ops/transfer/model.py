"""The values of an export: what is asked, which parts it has, what was written. Pure: no database, no clock, no file.

Everything that crosses a process (an Airflow task, a receipt) has ``as_value`` and ``of``: JSON data, BSON values in it as canonical
Extended JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bson import Timestamp

from mongo_ops.storage import ejson
from mongo_ops.transfer.compression import Compression
from mongo_ops.transfer.content import Content

Consistency = Literal["snapshot", "prefer_snapshot", "fuzzy"]
Kind = Literal["collection", "timeseries", "view", "capped"]
FormatName = Literal["bson", "jsonl", "csv", "parquet"]
JsonMode = Literal["relaxed", "canonical"]
FORMATS: Mapping[str, tuple[FormatName, Compression]] = {
    "bson": ("bson", "none"),
    "bson.zst": ("bson", "zst"),
    "bson.gz": ("bson", "gz"),
    "jsonl": ("jsonl", "none"),
    "jsonl.zst": ("jsonl", "zst"),
    "jsonl.gz": ("jsonl", "gz"),
    "csv": ("csv", "none"),
    "csv.gz": ("csv", "gz"),
    "csv.zst": ("csv", "zst"),
    "parquet": ("parquet", "none"),
}
EVERYTHING = "*"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What a person asks for.

    Attributes:
        collections: their names, or ``("*",)`` for all of the database: a backup set, with views as definitions.
        format: a key of ``FORMATS``. Parquet compresses inside its own pages.
        where: a filter for every collection.
        projection: fields as for ``find``; the content digest is then of what was read.
        consistency: ``snapshot`` reads everything at one cluster time or refuses; ``prefer_snapshot`` falls back, and says so;
            ``fuzzy`` reads what is there meanwhile, as mongoexport does.
        partitions: parts per collection; None for one per ``plan.PART_BYTES`` bytes.
        json_mode: Extended JSON v2, for jsonl.
        fields: columns of csv and parquet; empty to infer them from a sample.
    """

    collections: tuple[str, ...]
    format: str = "bson.zst"
    where: Mapping[str, Any] = field(default_factory=dict)
    projection: Mapping[str, Any] | None = None
    consistency: Consistency = "snapshot"
    partitions: int | None = None
    json_mode: JsonMode = "relaxed"
    fields: tuple[str, ...] = ()

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "collections": list(self.collections),
            "format": self.format,
            "where": ejson.plain(self.where),
            "projection": ejson.plain(self.projection),
            "consistency": self.consistency,
            "partitions": self.partitions,
            "json_mode": self.json_mode,
            "fields": list(self.fields),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ExportRequest:
        """Read it back."""
        rest = {name: value[name] for name in ("format", "consistency", "partitions", "json_mode")}
        return cls(
            collections=tuple(value["collections"]),
            where=ejson.rich(value["where"]),
            projection=ejson.rich(value["projection"]),
            fields=tuple(value["fields"]),
            **rest,
        )


@dataclass(frozen=True, slots=True)
class Edge:
    """A bound of a part: an ``_id`` of any type."""

    key: Any


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a collection: documents from ``lower`` (inclusive) to ``upper`` (exclusive) by ``_id``; None is open."""

    number: int
    collection: str
    index: int
    lower: Edge | None = None
    upper: Edge | None = None

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "number": self.number,
            "collection": self.collection,
            "index": self.index,
            "lower": edge_value(self.lower),
            "upper": edge_value(self.upper),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Part:
        """Read it back."""
        return cls(
            value["number"], value["collection"], value["index"], edge_of(value["lower"]), edge_of(value["upper"])
        )


def edge_value(edge: Edge | None) -> Any:
    """Return a bound for JSON."""
    return None if edge is None else ejson.plain({"_id": edge.key})


def edge_of(value: Any) -> Edge | None:
    """Read a bound back."""
    return None if value is None else Edge(ejson.rich(value)["_id"])


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of csv or parquet: the path of the field, and the BSON type of its values (see ``formats.flat.TYPES``)."""

    path: str
    type: str

    def as_value(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"path": self.path, "type": self.type}


@dataclass(frozen=True, kw_only=True)
class CollectionFacts:
    """A collection as the server describes it.

    ``count`` and ``bytes`` (of BSON, uncompressed) are the server's estimates: for progress and partitions, never for verifying.
    """

    name: str
    kind: Kind
    uuid: str | None
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...]
    count: int
    bytes: int
    columns: tuple[Column, ...] = ()

    @property
    def average(self) -> float:
        """The average size of a document in bytes."""
        return self.bytes / self.count if self.count else 512.0

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "uuid": self.uuid,
            "options": ejson.plain(self.options),
            "indexes": [ejson.plain(index) for index in self.indexes],
            "count": self.count,
            "bytes": self.bytes,
            "columns": [column.as_value() for column in self.columns],
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> CollectionFacts:
        """Read it back."""
        return cls(
            name=value["name"],
            kind=value["kind"],
            uuid=value["uuid"],
            options=ejson.rich(value["options"]),
            indexes=tuple(ejson.rich(index) for index in value["indexes"]),
            count=value["count"],
            bytes=value["bytes"],
            columns=tuple(Column(**column) for column in value["columns"]),
        )


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What an export will do. ``notes`` are sentences for the person who reads the plan.

    ``storage_connection`` is the id of the connection by which the destination is opened, for whoever must find the export again.
    """

    environment: str
    database: str
    destination: str
    request: ExportRequest
    collections: tuple[CollectionFacts, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    storage_connection: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over what will be done and where (64 hex digits); counts and sizes do not enter it."""
        told = {
            "environment": self.environment,
            "database": self.database,
            "destination": self.destination,
            "request": self.request.as_value(),
            "collections": [[one.name, one.kind, one.uuid] for one in self.collections],
        }
        return digest_of(told)

    @property
    def count(self) -> int:
        """About how many documents."""
        return sum(one.count for one in self.collections)

    @property
    def bytes(self) -> int:
        """About how many bytes of BSON."""
        return sum(one.bytes for one in self.collections)

    def facts(self, name: str) -> CollectionFacts:
        """Return a collection of the plan."""
        return next(one for one in self.collections if one.name == name)

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON (XCom)."""
        return {
            "environment": self.environment,
            "database": self.database,
            "destination": self.destination,
            "request": self.request.as_value(),
            "collections": [one.as_value() for one in self.collections],
            "parts": [part.as_value() for part in self.parts],
            "notes": list(self.notes),
            "storage_connection": self.storage_connection,
            "digest": self.digest,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ExportPlan:
        """Read it back."""
        return cls(
            environment=value["environment"],
            database=value["database"],
            destination=value["destination"],
            request=ExportRequest.of(value["request"]),
            collections=tuple(map(CollectionFacts.of, value["collections"])),
            parts=tuple(map(Part.of, value["parts"])),
            notes=tuple(value["notes"]),
            storage_connection=value["storage_connection"],
        )


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A part that was written: its file below the destination, the file's bytes and SHA-256, and its documents' content.

    ``cluster_time`` is the moment at which it was read; None for a fuzzy read. ``misfits`` counts documents with values in the
    overflow column (csv, parquet).
    """

    part: Part
    file: str
    bytes: int
    sha256: str
    content: Content
    cluster_time: Timestamp | None
    misfits: int = 0

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "part": self.part.as_value(),
            "file": self.file,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "content": self.content.as_value(),
            "cluster_time": time_value(self.cluster_time),
            "misfits": self.misfits,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Receipt:
        """Read it back."""
        return cls(
            part=Part.of(value["part"]),
            file=value["file"],
            bytes=value["bytes"],
            sha256=value["sha256"],
            content=Content.of(value["content"]),
            cluster_time=time_of(value["cluster_time"]),
            misfits=value["misfits"],
        )


def time_value(moment: Timestamp | None) -> list[int] | None:
    """Return a cluster time for JSON: seconds since 1970 and the increment."""
    return None if moment is None else [moment.time, moment.inc]


def time_of(value: Sequence[int] | None) -> Timestamp | None:
    """Read a cluster time back."""
    return None if value is None else Timestamp(*value)


def digest_of(value: Any) -> str:
    """Return the SHA-256 (hex) of JSON data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
