"""Take a snapshot of a collection into object storage, and check that one is whole. Never writes to the database."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import bson
from bson.errors import BSONError
from pymongo.read_concern import ReadConcern

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC, Document, canonical, digest, set_digest
from mongo_ops.storage import bsonfile, manifest
from mongo_ops.storage.atomic import AlreadyWrittenError, Sink, reading, writing
from mongo_ops.storage.manifest import Kind, Snapshot, SnapshotCorruptError
from mongo_ops.storage.paths import Folder, show, telling

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database

BY_ID = {"_id": 1}
BATCH_COUNT = 250  # the driver keeps several copies of a batch; the digests take longer than the round trip
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[\w.+=:@-]+\Z")
_UNHINTED = ('"$text"', '"$near"', '"$nearSphere"', '"$geoNear"')
log = logging.getLogger(__name__)


class SnapshotNameError(PlanError):
    """The snapshot's name cannot be a path."""


class SnapshotDiffersError(PlanError):
    """A finished snapshot of that name is about something else."""


class NotSnapshotableError(PlanError):
    """The collection's documents, or the fields asked for, cannot be kept so that they can be put back."""


@dataclass(frozen=True)
class _Source:
    """The collection as it is: its kind, options and indexes."""

    kind: Kind
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...]


def take(
    db: Database[Document],
    collection: str,
    folder: Folder,
    *,
    name: str,
    where: Mapping[str, Any] | None = None,
    projection: Mapping[str, Any] | None = None,
    options: bool = True,
    reuse: bool = False,
    run_id: str | None = None,
    migration: str | None = None,
) -> Snapshot:
    """Write the documents that match to ``<folder>/<name>/<collection>.bson``, then ``manifest.json``; return the snapshot.

    Memory stays bounded. Documents are read with majority concern in the order of ``_id``, each once; changes made meanwhile
    may or may not be in it, so hold the lease or stop the writers where that matters. A try that was killed is overwritten.

    Args:
        db: the database.
        collection: what to take; one that does not exist gives a snapshot that says so.
        folder: the environment's storage.
        name: path of the snapshot in it, such as ``run/migration/step``.
        where: which documents; all by default.
        projection: ``{"field": 1, "a.b": 1}``: keep ``_id`` and these fields only, to be put back with ``merge_fields``.
        options: keep the collection's options and indexes too.
        reuse: return a finished snapshot of the same name and question, after checking it, instead of refusing.
        run_id: the run that takes it, for the manifest.
        migration: the migration that it belongs to, for the manifest.

    Raises:
        AlreadyWrittenError: it is finished and ``reuse`` is not given.
        SnapshotDiffersError, SnapshotCorruptError: it cannot be reused.
        SnapshotNameError, NotSnapshotableError: nothing was finished.
        StorageDeniedError, StorageFailedError: the store failed.
    """
    place = at(folder, name)
    paths = _paths(projection)
    question: dict[str, Any] = {
        "database": db.name,
        "collection": collection,
        "where_digest": digest(where or {}),
        "projection": paths,
    }
    if manifest.finished(place):
        return _reused(place, question, reuse=reuse)
    source = _describe(db, collection)
    file = f"{quote(collection, safe='')}.bson"
    with writing(place / file, overwrite=True) as sink:
        count, content = set_digest(_copied(_cursor(db[collection], source, where or {}, paths), paths or (), sink))
    snapshot = Snapshot(
        **question,
        kind=source.kind,
        file=file,
        count=count,
        bytes=sink.bytes,
        sha256=sink.sha256,
        content_digest=content,
        options=source.options if options else None,
        indexes=source.indexes if options else (),
        created_at=db.client.admin.command("hello", codec_options=CODEC)["localTime"],
        run_id=run_id,
        migration=migration,
    )
    manifest.write(place, snapshot)
    log.info("Snapshot %s: %s documents, %s bytes of %s.", name, f"{count:,}", f"{sink.bytes:,}", collection)
    return manifest.read(place)


def verify(place: Folder) -> Snapshot:
    """Read a snapshot's files again and compare them with its manifest; return it.

    Raises:
        SnapshotMissingError: there is no finished snapshot.
        SnapshotCorruptError: a file is gone, cut off or changed; the message names the file.
    """
    snapshot = manifest.read(place)
    path = place / snapshot.file
    with telling(path):
        there = path.exists()
    if not there:
        raise _corrupt(path, "is gone")
    with reading(path) as source:
        try:
            count, content = set_digest(map(bsonfile.decoded, bsonfile.documents(source)))
        except (BSONError, ValueError, OverflowError, RecursionError):
            raise _corrupt(path, "is cut off or damaged") from None
    if (source.bytes, source.sha256) != (snapshot.bytes, snapshot.sha256):
        raise _corrupt(path, f"is not the file that was written ({source.bytes:,} bytes, {snapshot.bytes:,} expected)")
    if (count, content) != (snapshot.count, snapshot.content_digest):
        raise _corrupt(path, "does not hold the documents that its manifest names")
    return snapshot


def at(folder: Folder, name: str) -> Folder:
    """Return the place of a snapshot in a folder.

    Raises:
        SnapshotNameError: a segment of the name is empty, ``..`` or holds a character that not every store takes.
    """
    for segment in name.split("/"):
        if not _SEGMENT.match(segment):
            raise SnapshotNameError(
                f"A snapshot cannot be named {name!r}. Use letters, digits, . _ + = : @ - and / only."
            )
        folder = folder / segment
    return folder


def _reused(place: Folder, question: Mapping[str, Any], *, reuse: bool) -> Snapshot:
    if not reuse:
        raise AlreadyWrittenError(f"There is a finished snapshot at {show(place)}. Choose another name, or reuse it.")
    snapshot = manifest.read(place)
    for name, value in question.items():
        if getattr(snapshot, name) != value:
            raise SnapshotDiffersError(f"The snapshot at {show(place)} has another {name}. Choose another name.")
    return verify(place)


def _describe(db: Database[Document], collection: str) -> _Source:
    info = next(iter(db.list_collections(filter={"name": collection})), None)
    if info is None:
        return _Source("missing", {}, ())
    kind: Kind = info["type"]
    indexes = () if kind == "view" else tuple(dict(index) for index in db[collection].list_indexes())
    return _Source(kind, info.get("options", {}), indexes)


def _cursor(
    collection: Collection[Document], source: _Source, where: Mapping[str, Any], paths: tuple[str, ...] | None
) -> Iterator[bytes]:
    """Ask for the documents as the server sends them: batches of concatenated BSON."""
    if source.kind == "missing":
        return iter(())
    reader = collection.with_options(read_concern=ReadConcern("majority"))
    fields = None if paths is None else {"_id": 1, **dict.fromkeys(paths, 1)}
    cursor = reader.find_raw_batches(dict(where), fields, batch_size=BATCH_COUNT)
    if source.kind == "collection" and not source.options.get("capped"):  # capped: the natural order is what counts
        if not any(word in canonical(where) for word in _UNHINTED):
            cursor = cursor.hint(BY_ID)
        cursor = cursor.sort(BY_ID).allow_disk_use(True)
    return cast("Iterator[bytes]", cursor)


def _copied(batches: Iterator[bytes], paths: tuple[str, ...], sink: Sink) -> Iterator[Document]:
    """Copy the batches to the sink and yield each document decoded."""
    nested = tuple(path.split(".") for path in paths if "." in path)
    try:
        for batch in batches:
            sink.write(batch)
            for document in bson.decode_iter(batch, CODEC):
                _refuse_arrays(document, nested)
                yield document
    except BSONError:
        raise NotSnapshotableError(
            "The collection holds a document that is not valid BSON. Find it with the `validate` command and mend it."
        ) from None


def _paths(projection: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return the fields of an inclusion projection, sorted."""
    if projection is None:
        return None
    wanted = {path: value for path, value in projection.items() if path != "_id"}
    if not wanted or not all(value is True or value == 1 for value in projection.values()):
        raise NotSnapshotableError("A snapshot's projection must name the fields to keep, each with 1, and keep `_id`.")
    if any("$" in path or "" in path.split(".") for path in wanted):
        raise NotSnapshotableError("A snapshot's projection must name plain field paths, without `$`.")
    return tuple(sorted(wanted))


def _refuse_arrays(document: Document, nested: tuple[list[str], ...]) -> None:
    """A path through an array names several values at once, which could not be put back one by one."""
    for path in nested:
        value: Any = document
        for name in path[:-1]:
            value = value.get(name) if isinstance(value, Mapping) else None
            if isinstance(value, list):
                raise NotSnapshotableError(
                    f"`{'.'.join(path)}` goes through an array. Take the whole field `{path[0]}`."
                )


def _corrupt(path: Folder, what: str) -> SnapshotCorruptError:
    return SnapshotCorruptError(
        f"{show(path)} {what}. Nothing was restored; get the file back from a copy of the store."
    )
