"""The manifest of an export, written last: what makes the parts an export. JSON, version 1, sealed.

docs/transfer.md describes every field.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import pymongo
from bson import Timestamp
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import mongo_ops
from mongo_ops import storage
from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, ejson, show
from mongo_ops.storage.paths import telling
from mongo_ops.transfer.compression import Compression
from mongo_ops.transfer.content import ALGORITHM, Content
from mongo_ops.transfer.model import Column, FormatName, JsonMode, Kind, time_of

FORMAT, VERSION, FILE = "mongo-ops export", 1, "manifest.json"
MAX_BYTES = 64 * 1024 * 1024
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[list[int], Field(min_length=2, max_length=2)]
SafeFile = Annotated[str, Field(pattern=r"^[^./\\\x00][^/\\\x00]*/[^./\\\x00][^/\\\x00]*$", max_length=400)]


class ExportMissingError(PlanError):
    """There is no finished export at that place."""


class ExportCorruptError(PlanError):
    """An export's files are not what was written."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContentModel(_Model):
    """Documents, their bytes as BSON, and the digest that does not depend on their order."""

    count: int = Field(ge=0)
    bytes: int = Field(ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{32}$")


class ColumnModel(_Model):
    """A column of csv or parquet."""

    path: str
    type: str


class PartModel(_Model):
    """One file. ``lower`` and ``upper`` are bounds of ``_id`` in canonical Extended JSON, null where open."""

    file: SafeFile
    bytes: int = Field(ge=0)
    sha256: Sha
    content: ContentModel
    lower: dict[str, Any] | None
    upper: dict[str, Any] | None
    cluster_time: Time | None
    misfits: int = Field(ge=0)


class IndexModel(_Model):
    """What every index has; the rest is the server's business."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str
    key: dict[str, Any] = Field(min_length=1)


class CollectionModel(_Model):
    """One collection. ``subjects`` are opaque keyed references of the persons in it, where erasure has filled them in."""

    name: str = Field(min_length=1)
    kind: Kind
    uuid: str | None
    options: dict[str, Any]
    indexes: list[dict[str, Any]]
    content: ContentModel
    columns: list[ColumnModel]
    subjects: list[str] = Field(default_factory=list)
    parts: list[PartModel]

    @field_validator("indexes")
    @classmethod
    def _insist_on_indexes(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for one in value:
            IndexModel.model_validate(one)
        return value


class ToolModel(_Model):
    """What wrote it."""

    mongo_ops: str
    server: str
    pymongo: str
    python: str


class ManifestModel(_Model):
    """The manifest as written."""

    format: Literal["mongo-ops export"]
    version: Literal[1]
    run_id: str
    plan_digest: Sha
    environment: str
    database: str
    consistency: Literal["snapshot", "fuzzy"]
    cluster_time: Time | None
    everything: bool
    where: dict[str, Any]
    projection: dict[str, Any] | None
    file_format: FormatName
    compression: Compression
    json_mode: JsonMode
    digest_algorithm: Literal["xxh3-128 sum"]
    started_at: datetime
    finished_at: datetime
    tool: ToolModel
    collections: list[CollectionModel]
    total: ContentModel
    total_file_bytes: int = Field(ge=0)
    erased: int = Field(default=0, ge=0)
    manifest_sha256: Sha

    @property
    def moment(self) -> Timestamp | None:
        """The cluster time that all of it was read at; None for a fuzzy export."""
        return time_of(self.cluster_time)

    def collection(self, name: str) -> CollectionModel:
        """Return one collection."""
        return next(one for one in self.collections if one.name == name)


def content_of(model: ContentModel) -> Content:
    """Return the value that the model was made of."""
    return Content.of(model.model_dump())


def columns_of(collection: CollectionModel) -> tuple[Column, ...]:
    """Return a collection's columns."""
    return tuple(Column(path=one.path, type=one.type) for one in collection.columns)


def tool(server: str) -> dict[str, str]:
    """Return the versions for the manifest."""
    return {
        "mongo_ops": mongo_ops.__version__,
        "server": server,
        "pymongo": pymongo.version,
        "python": platform.python_version(),
    }


def write(folder: Folder, content: Mapping[str, Any], collections: Sequence[Mapping[str, Any]]) -> ManifestModel:
    """Write the manifest, which finishes the export; return it as a reader will see it.

    Raises:
        AlreadyWrittenError: there is a finished export.
    """
    whole = {"format": FORMAT, "version": VERSION, "digest_algorithm": ALGORITHM, **content, "collections": collections}
    plain = sealed(json.loads(json.dumps(whole, default=datetime.isoformat)))
    model = ManifestModel.model_validate(plain)
    storage.create(folder / FILE, _as_file(plain))
    return model


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest says (JSON data) with its seal."""
    return {**content, ejson.SEAL: ejson.seal(content)}


def replace(folder: Folder, content: Mapping[str, Any]) -> None:
    """Put another manifest in the place of a finished export's own, at one stroke. ``content`` is sealed."""
    ManifestModel.model_validate(content)
    with storage.writing(folder / FILE, overwrite=True) as sink:
        sink.write(_as_file(content))


def _as_file(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"


def finished(folder: Folder) -> bool:
    """Whether there is a manifest."""
    with telling(folder):
        return storage.fresh(folder / FILE).exists()


def read(folder: Folder) -> ManifestModel:
    """Return the manifest.

    Raises:
        ExportMissingError: there is none, or the export was never finished.
        ExportCorruptError: it was changed, cut, leads out of its folder, or is of an unknown version.
    """
    if not finished(folder):
        raise ExportMissingError(f"There is no finished export at {show(folder)}. Check the place, or export again.")
    with storage.reading(folder / FILE) as source:
        text = source.read(MAX_BYTES)
    try:
        content = json.loads(text)
        model = ManifestModel.model_validate(content)
    except (ValidationError, ValueError, RecursionError):
        raise ExportCorruptError(
            f"{show(folder / FILE)} is not an export manifest of version {VERSION}, or a name in it leads out of its folder. "
            "Get it back from a copy of the store."
        ) from None
    if ejson.seal(content) != model.manifest_sha256:
        raise ExportCorruptError(
            f"{show(folder / FILE)} was changed after it was written. Get it back from a copy of the store."
        )
    return model
