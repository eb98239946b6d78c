"""Which files an import reads: those of a manifest, or files that other tools wrote. Reads names and first bytes only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from mongo_ops import storage
from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, show
from mongo_ops.storage.paths import telling
from mongo_ops.transfer import manifest
from mongo_ops.transfer.compression import Compression
from mongo_ops.transfer.import_model import ImportPart, ImportRequest
from mongo_ops.transfer.manifest import CollectionModel, ManifestModel
from mongo_ops.transfer.model import FORMATS, Column, FormatName

_ENDINGS: dict[str, FormatName] = {
    "bson": "bson", "json": "jsonl", "jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "parquet": "parquet",
}  # fmt: skip
_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst", "zstd": "zst"}
_METADATA = re.compile(r"(\.metadata\.json(\.gz)?|^prelude\.json(\.gz)?|^oplog\.bson)$")


class SourceError(PlanError):
    """The source is not there, is empty, or does not say what it is."""


def of_manifest(found: ManifestModel, request: ImportRequest) -> tuple[tuple[str, CollectionModel], ...]:
    """Return (name here, collection) of those asked for.

    Raises:
        SourceError: one of them is not in the manifest, or two get the same name.
    """
    known = {one.name: one for one in found.collections}
    unknown = sorted(set(request.collections) - set(known))
    if unknown:
        raise SourceError(f"The export holds no collection {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    chosen = request.collections or {name: name for name in known}
    if len(set(chosen.values())) < len(chosen):
        raise SourceError("Two collections of the export would be loaded into the same one. Give each its own name.")
    return tuple((here, known[name]) for name, here in chosen.items())


def manifest_parts(found: ManifestModel, chosen: Sequence[tuple[str, CollectionModel]]) -> tuple[ImportPart, ...]:
    """Return the files to read, numbered."""
    parts: list[ImportPart] = []
    for here, collection in chosen:
        for part in collection.parts:
            parts.append(
                ImportPart(
                    number=len(parts),
                    collection=here,
                    file=part.file,
                    format=found.file_format,
                    compression=found.compression,
                    columns=manifest.columns_of(collection),
                    count=part.content.count,
                    bytes=part.bytes,
                    sha256=part.sha256,
                    content_bytes=part.content.bytes,
                )
            )
    return tuple(parts)


def foreign_parts(folder: Folder, names: Sequence[str], request: ImportRequest) -> tuple[ImportPart, ...]:
    """Return the files that other tools wrote. mongodump's metadata files are left out.

    Raises:
        SourceError: a file's name does not tell its format, or there is none.
    """
    kept = [name for name in names if not _METADATA.search(name.rpartition("/")[2])]
    if not kept:
        raise SourceError(f"There is no file to import at {show(folder)}. Check the place and the pattern.")
    columns = tuple(Column(path=path, type=kind) for path, kind in request.columns.items())
    parts = []
    for number, name in enumerate(sorted(kept)):
        file_format, compression = format_of(name, request.format)
        collection = request.into or _collection(name)
        parts.append(
            ImportPart(
                number=number,
                collection=collection,
                file=name,
                format=file_format,
                compression=compression,
                columns=columns,
            )
        )
    return tuple(parts)


def format_of(name: str, given: str | None) -> tuple[FormatName, Compression]:
    """Return a file's format and compression from what was given, else from its name.

    Raises:
        SourceError: neither tells.
    """
    if given is not None:
        if given not in FORMATS:
            raise SourceError(f"There is no format {given!r}. Choose one of {', '.join(FORMATS)}.")
        return FORMATS[given]
    *_, before, last = ["", "", *name.lower().rpartition("/")[2].split(".")]
    compression = _COMPRESSIONS.get(last, "none")
    ending = before if compression != "none" else last
    if ending not in _ENDINGS:
        raise SourceError(f"The name {name} does not tell a format. Give one: {', '.join(FORMATS)}.")
    return _ENDINGS[ending], compression


def listed(folder: Folder, pattern: str) -> tuple[str, ...]:
    """Return the names of files below the folder that match a pattern of ``*`` and ``?`` (no ``..``).

    Raises:
        SourceError: the pattern leads out of the folder.
    """
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise SourceError("The pattern must stay inside of the source folder.")
    root = folder.path.rstrip("/")
    with telling(folder):
        fs = storage.fresh(folder).fs
        found = sorted(str(path) for path in fs.glob(f"{root}/{pattern}") if fs.isfile(path))
    return tuple(path[path.index(root) + len(root) + 1 :] for path in found)


def mark(path: Folder) -> str:
    """Return what changes when a file is written anew: its size, and its entity tag or when it was written, as far as the store says."""
    with telling(path):
        info = storage.fresh(path).fs.info(path.path)
    return " ".join(str(info.get(name, "")) for name in ("size", "ETag", "etag", "mtime", "LastModified", "updated"))


def _collection(name: str) -> str:
    """Return the collection that a file is named after, as mongodump and mongoexport do: ``users.bson.gz`` -> ``users``."""
    stem = name.rpartition("/")[2]
    for ending in (*_COMPRESSIONS, *_ENDINGS):
        stem = stem.removesuffix(f".{ending}")
    found = unquote(stem)
    if not found or found.startswith("system.") or "$" in found or "\0" in found or len(found) > 200:  # noqa: PLR2004
        raise SourceError("A file's name cannot be a collection's name. Give the collection with `into`.")
    return found
