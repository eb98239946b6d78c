"""The values of an import: what is asked, which files it reads, what came of them. Pure: no database, no clock, no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mongo_ops.storage import ejson
from mongo_ops.transfer.compression import Compression
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.model import Column, FormatName, digest_of

Mode = Literal["insert", "upsert", "replace", "merge"]
OnError = Literal["stop", "reject"]
Validation = Literal["check", "bypass"]
Indexes = Literal["before", "after", "none"]


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What a person asks for.

    Attributes:
        mode: ``insert`` adds documents, one that is there is an error; ``upsert`` replaces the document of the same key or
            adds it; ``replace`` replaces only; ``merge`` sets the file's outermost fields in the document of the same key, or
            adds it.
        keys: the fields of the key, dotted paths allowed.
        collections: which collections of a manifest, and their names here: ``{"users": "users_copy"}``; empty for all.
        into: the collection for files without a manifest.
        format: a key of ``model.FORMATS`` for files whose name does not tell.
        on_error: ``stop`` at the first bad row, or ``reject`` it and go on.
        max_rejects, max_reject_share: more rejected rows than this stop the run.
        validation: whether the collection's validator is asked.
        indexes: when the manifest's indexes are made.
        columns: types of csv columns: ``{"age": "int"}``.
        lanes: connections that write at once, per part. A run's checkpoints depend on it.
    """

    mode: Mode = "insert"
    keys: tuple[str, ...] = ("_id",)
    collections: Mapping[str, str] = field(default_factory=dict)
    into: str | None = None
    format: str | None = None
    on_error: OnError = "stop"
    max_rejects: int = 1000
    max_reject_share: float = 0.1
    validation: Validation = "check"
    indexes: Indexes = "after"
    columns: Mapping[str, str] = field(default_factory=dict)
    lanes: int = 4

    @property
    def adds_by_key(self) -> bool:
        """Whether a document is added when none has its key."""
        return self.mode in ("upsert", "merge")

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        value = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**value, "keys": list(self.keys), "collections": dict(self.collections), "columns": dict(self.columns)}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ImportRequest:
        """Read it back."""
        return cls(**{**value, "keys": tuple(value["keys"])})


@dataclass(frozen=True, kw_only=True)
class ImportPart:
    """One file. ``sha256``, ``bytes`` and ``content_bytes`` (of its documents as BSON) are known from a manifest.

    Such a file is checked before it is used.
    """

    number: int
    collection: str
    file: str
    format: FormatName
    compression: Compression
    columns: tuple[Column, ...] = ()
    count: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    content_bytes: int = 0

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ImportPart:
        """Read it back."""
        return cls(**{**value, "columns": tuple(Column(**column) for column in value["columns"])})


@dataclass(frozen=True, kw_only=True)
class ImportTarget:
    """A collection to load into, or a view to define.

    ``kind`` and ``options`` are what it is made with when it is not there; ``exists`` and ``count`` are what was seen.
    ``content`` is what the manifest says it will hold; ``exact`` whether the files give the documents back byte for byte.
    """

    name: str
    kind: str
    exists: bool
    count: int
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...]
    content: Content | None = None
    exact: bool = False

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "exists": self.exists,
            "count": self.count,
            "options": ejson.plain(self.options),
            "indexes": [ejson.plain(index) for index in self.indexes],
            "content": None if self.content is None else self.content.as_value(),
            "exact": self.exact,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ImportTarget:
        """Read it back."""
        rest = {name: value[name] for name in ("name", "kind", "exists", "count", "exact")}
        return cls(
            options=ejson.rich(value["options"]),
            indexes=tuple(ejson.rich(index) for index in value["indexes"]),
            content=None if value["content"] is None else Content.of(value["content"]),
            **rest,
        )


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """What an import will do. ``notes`` are sentences for the person who approves it."""

    environment: str
    database: str
    source: str
    manifest_sha256: str | None
    request: ImportRequest
    targets: tuple[ImportTarget, ...]
    parts: tuple[ImportPart, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over what will be done and where (64 hex digits); what was counted does not enter it."""
        told = {
            "environment": self.environment,
            "database": self.database,
            "source": self.source,
            "manifest": self.manifest_sha256,
            "request": self.request.as_value(),
            "parts": [[part.file, part.collection, part.format, part.compression, part.sha256] for part in self.parts],
        }
        return digest_of(told)

    def target(self, name: str) -> ImportTarget:
        """Return a collection of the plan."""
        return next(one for one in self.targets if one.name == name)

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON (XCom)."""
        return {
            "environment": self.environment,
            "database": self.database,
            "source": self.source,
            "manifest_sha256": self.manifest_sha256,
            "request": self.request.as_value(),
            "targets": [one.as_value() for one in self.targets],
            "parts": [part.as_value() for part in self.parts],
            "notes": list(self.notes),
            "digest": self.digest,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> ImportPlan:
        """Read it back."""
        rest = {name: value[name] for name in ("environment", "database", "source", "manifest_sha256")}
        return cls(
            request=ImportRequest.of(value["request"]),
            targets=tuple(map(ImportTarget.of, value["targets"])),
            parts=tuple(map(ImportPart.of, value["parts"])),
            notes=tuple(value["notes"]),
            **rest,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of rows. ``content`` is of the documents sent to the server; ``erased`` were refused by a tombstone."""

    inserted: int = 0
    matched: int = 0
    modified: int = 0
    missing: int = 0
    rejected: int = 0
    erased: int = 0
    content: Content = field(default_factory=Content)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.inserted + other.inserted,
            self.matched + other.matched,
            self.modified + other.modified,
            self.missing + other.missing,
            self.rejected + other.rejected,
            self.erased + other.erased,
            self.content + other.content,
        )

    @property
    def rows(self) -> int:
        """How many rows were looked at."""
        return self.content.count + self.rejected + self.erased

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON and checkpoints."""
        names = ("inserted", "matched", "modified", "missing", "rejected", "erased")
        return {**{name: getattr(self, name) for name in names}, "content": self.content.as_value()}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Tally:
        """Read it back."""
        return cls(**{**value, "content": Content.of(value["content"])})
