"""A snapshot's manifest: what was taken, how much of it, and the digests. Written last, so that it says "finished".

Values of documents never enter it: the filter is kept as a digest only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mongo_ops.errors import PlanError
from mongo_ops.storage import ejson
from mongo_ops.storage.atomic import reading, writing
from mongo_ops.storage.paths import Folder, show, telling

FORMAT = "mongo-ops snapshot"
VERSION = 1
FILE = "manifest.json"
MAX_BYTES = 64 * 1024 * 1024
Kind = Literal["collection", "timeseries", "view", "missing"]
_HEX = r"^[0-9a-f]{64}$"


class SnapshotMissingError(PlanError):
    """There is no finished snapshot at that place."""


class SnapshotCorruptError(PlanError):
    """A snapshot's files are not what was written."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A finished snapshot of one collection.

    ``kind`` tells what the collection was; ``missing`` if there was none. ``count`` documents take ``bytes`` bytes of BSON in
    ``file``, whose digest is ``sha256``; ``content_digest`` is ``documents.set_digest`` of them, whatever their order.
    ``options`` (the validator included) and ``indexes`` are as listCollections and listIndexes give them, or None and empty
    when they were not asked for. ``projection`` names the fields of a field-level snapshot.
    """

    database: str
    collection: str
    kind: Kind
    file: str
    count: int
    bytes: int
    sha256: str
    content_digest: str
    where_digest: str
    projection: tuple[str, ...] | None
    options: Mapping[str, Any] | None
    indexes: tuple[Mapping[str, Any], ...]
    created_at: datetime
    run_id: str | None = None
    migration: str | None = None


class ManifestModel(BaseModel):
    """The manifest as written, version 1. ``options`` and ``indexes`` are canonical Extended JSON."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["mongo-ops snapshot"]
    version: Literal[1]
    database: str
    collection: str
    kind: Kind
    file: str = Field(pattern=r"^[^/\\]+\.bson$")
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_HEX)
    content_digest: str = Field(pattern=_HEX)
    where_digest: str = Field(pattern=_HEX)
    projection: tuple[str, ...] | None
    options: dict[str, Any] | None
    indexes: tuple[dict[str, Any], ...]
    created_at: datetime
    run_id: str | None
    migration: str | None
    manifest_sha256: str = Field(pattern=_HEX)


def write(place: Folder, snapshot: Snapshot, *, overwrite: bool = False) -> None:
    """Write the manifest, which finishes the snapshot; ``overwrite`` to point it to another file at one stroke.

    Raises:
        AlreadyWrittenError: another process finished a snapshot of that name.
    """
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(snapshot)}
    content["created_at"] = snapshot.created_at.isoformat()
    content["options"] = ejson.plain(snapshot.options)
    content["indexes"] = [ejson.plain(index) for index in snapshot.indexes]
    content["projection"] = None if snapshot.projection is None else list(snapshot.projection)
    content["manifest_sha256"] = ejson.seal(content)
    with writing(place / FILE, overwrite=overwrite) as sink:
        sink.write(json.dumps(content, indent=2).encode() + b"\n")


def finished(place: Folder) -> bool:
    """Whether there is a manifest at that place."""
    with telling(place):
        return (place / FILE).exists()


def read(place: Folder) -> Snapshot:
    """Return the snapshot that the manifest describes.

    Raises:
        SnapshotMissingError: there is none, or it was never finished.
        SnapshotCorruptError: the manifest was changed or cut, or is of an unknown version.
    """
    if not finished(place):
        raise SnapshotMissingError(f"There is no finished snapshot at {show(place)}. Check the name, or take it again.")
    with reading(place / FILE) as source:
        text = source.read(MAX_BYTES)
    try:
        content = json.loads(text)
        model = ManifestModel.model_validate(content)
    except (ValueError, ValidationError):
        raise SnapshotCorruptError(
            f"{show(place / FILE)} is not a snapshot manifest of version {VERSION}. Restore it from a copy of the store."
        ) from None
    if ejson.seal(content) != model.manifest_sha256:
        raise SnapshotCorruptError(
            f"{show(place / FILE)} was changed after it was written. Restore it from a copy of the store."
        )
    values = {item.name: getattr(model, item.name) for item in fields(Snapshot)}
    values["options"] = ejson.rich(model.options)
    values["indexes"] = tuple(ejson.rich(index) for index in model.indexes)
    return Snapshot(**values)


def describes(place: Folder) -> bool:
    """Whether the manifest at that place is one of a snapshot, damaged or not."""
    with reading(place / FILE) as source:
        text = source.read(MAX_BYTES)
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
