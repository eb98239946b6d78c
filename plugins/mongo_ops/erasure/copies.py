"""Take people out of the files that this package itself has written: snapshots for rolling back, and what killed runs left of them.

A snapshot is written anew without them, under another name, and its manifest is pointed to that file at one stroke; then the old file
goes, with all versions that the store keeps of it. So at every instant the snapshot is whole and can be restored, and a retry finishes.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from bson.errors import BSONError
from pymongo.errors import OperationFailure

from mongo_ops.erasure.cleaning import Cleaned, Cleaner
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import Document, digest
from mongo_ops.storage import (
    Folder,
    Snapshot,
    SnapshotCorruptError,
    bsonfile,
    manifest,
    reading,
    show,
    versions,
    writing,
)
from mongo_ops.storage.versions import Version

if TYPE_CHECKING:
    from mongo_ops.erasure.holds import Holds
    from mongo_ops.erasure.scan import Owner
    from mongo_ops.storage import Source

OWN = "erasure"
"""The folder of tombstones and certificates: they hold keyed references and no document."""

LEFT_OVERS = (".bson", ".partial")
"""What a snapshot that was never finished consists of."""

CLAIM = "claim.json"
"""What stands in the folder of an export while it is written."""

_GENERATION = re.compile(r"(?P<stem>.*?)(?:~(?P<number>\d+))?\.bson\Z")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A folder with files below the environment's storage, and the versions of each file by its name.

    ``kind``: a snapshot; (a part of) an export, finished or not; or files that no manifest describes.
    """

    folder: Folder
    files: Mapping[str, Sequence[Version]]
    kind: Literal["snapshot", "export", "loose"]

    @property
    def current(self) -> tuple[str, ...]:
        """The names of the files that a reader sees."""
        return _current(self.files)

    @property
    def is_export(self) -> bool:
        """Whether it is the folder of an export, or was before somebody removed it: old versions of its files may be there."""
        return self.kind != "snapshot" and not {manifest.FILE, CLAIM}.isdisjoint(self.files)


@dataclass
class Rewritten:
    """What was done to one place: documents taken out or changed, for whom, and versions of files that are gone."""

    documents: int = 0
    versions: int = 0
    by_request: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.documents or self.versions)


def places(storage: Folder) -> Iterator[Place]:
    """Yield the folders below an environment's storage that hold files. Memory grows with the number of files, not with their size."""
    found: defaultdict[tuple[str, ...], dict[str, list[Version]]] = defaultdict(dict)
    top = len(_segments(storage.path))
    for one in versions.below(storage):
        within = tuple(_segments(one.path)[top:])
        if within[:1] != (OWN,):
            found[within[:-1]].setdefault(within[-1], []).append(one)
    exports: set[tuple[str, ...]] = set()
    for parents, files in sorted(found.items()):
        folder = storage
        for segment in parents:
            folder = folder / segment
        if any(parents[:length] in exports for length in range(len(parents) + 1)):
            yield Place(folder, files, "export")
        elif manifest.FILE in _current(files) and manifest.describes(folder):
            yield Place(folder, files, "snapshot")
        elif {manifest.FILE, CLAIM} & set(_current(files)):
            exports.add(parents)
            yield Place(folder, files, "export")
        else:
            yield Place(folder, files, "loose")


def finished_at(place: Place) -> datetime | None:
    """Return when an export was finished; None when it was not, or does not say."""
    if manifest.FILE not in place.current:
        return None
    with reading(place.folder / manifest.FILE) as source:
        try:
            moment = datetime.fromisoformat(json.loads(source.read(manifest.MAX_BYTES))["finished_at"])
        except (ValueError, KeyError, TypeError):
            return None
    return moment if moment.tzinfo else None


def _segments(path: str) -> list[str]:
    return [one for one in path.split("/") if one]


def _current(files: Mapping[str, Sequence[Version]]) -> tuple[str, ...]:
    return tuple(name for name, found in files.items() if any(one.latest and not one.marker for one in found))


def rewrite(work: Work, held: Holds, place: Place) -> Rewritten:
    """Take the people of a run out of a snapshot, and remove everything in its folder that its manifest does not name.

    Raises:
        SnapshotCorruptError: the file is not what was written; nothing was changed.
        StorageDeniedError, StorageFailedError: the store failed; run again.
    """
    snapshot = manifest.read(place.folder)
    done = Rewritten()
    if snapshot.kind != "missing" and _concerns(work, held, place.folder, snapshot):
        snapshot = _anew(work, held, place.folder, snapshot, done)
        manifest.write(place.folder, snapshot, overwrite=True)
        log.info("%s was written anew without %s documents.", show(place.folder), f"{done.documents:,}")
    gone = [one for one in versions.below(place.folder) if not _is_needed(one, snapshot)]
    done.versions = versions.remove(place.folder, gone)
    return done


def sweep(work: Work, held: Holds, storage: Folder, place: Place) -> Rewritten:
    """Remove what killed runs left of snapshots and holds traces of the people. Call it while no migration runs."""
    done = Rewritten()
    ours = _segments(place.folder.path)[len(_segments(storage.path)) :][:1] == [work.db.name]
    for name in place.files:
        if ours and name.endswith(LEFT_OVERS):
            path, is_deleted = place.folder / name, name not in place.current
            whose = set() if is_deleted else _free(work, held, traces(work, path))
            if whose or is_deleted:
                done.versions += versions.remove(path, versions.of_file(path))
                done.by_request.update(whose)
    return done


def traces(work: Work, path: Folder) -> set[str]:
    """Return the requests of which a file of any format holds a trace in its bytes."""
    with reading(path) as source:
        return {owner.request_id for owner in owners_in(work, iter(lambda: source.read(READ), b""))}


def owners_in(work: Work, parts: Iterable[bytes]) -> set[Owner]:
    """Return whose traces a long text holds, wherever it is cut into parts."""
    found: set[Owner] = set()
    overlap = work.haystack.longest + 2 * MARGIN
    before = b""
    for part in parts:
        buffer = before + part
        for spot in work.haystack.find(buffer):
            if spot.start >= MARGIN or not before:
                found |= work.haystack.owners(spot)
        before = buffer[-overlap:]
    return found


MARGIN, READ = 8, 8 * 1024 * 1024
"""Bytes beside a trace that say whether it stands for itself, and bytes read at a time."""


def cleaner(work: Work, held: Holds, snapshot: Snapshot) -> Cleaner:
    """Return what cleans a snapshot's documents."""
    own = snapshot.database == work.db.name
    whole = snapshot.projection is None
    free = partial(not_held, work, held, snapshot.database, snapshot.collection)
    return Cleaner(work, snapshot.collection, held, free, own and whole)


def cleaned(one: Cleaner, source: Source) -> Iterator[tuple[Sequence[bytes], Sequence[Cleaned]]]:
    """Yield the documents of a file in batches, each with what becomes of those that concern the people."""
    for batch in bsonfile.batches(source):
        yield batch, tuple(one.clean(batch))


def _concerns(work: Work, held: Holds, folder: Folder, snapshot: Snapshot) -> bool:
    try:
        with reading(folder / snapshot.file) as source:
            return any(some for _, some in cleaned(cleaner(work, held, snapshot), source))
    except (BSONError, ValueError):
        raise _corrupt(folder, snapshot) from None


def _anew(work: Work, held: Holds, folder: Folder, snapshot: Snapshot, done: Rewritten) -> Snapshot:
    """Write the file anew and return the snapshot that describes it."""
    name, count, content = _next(snapshot.file), snapshot.count, int(snapshot.content_digest, 16)
    with reading(folder / snapshot.file) as source, writing(folder / name, overwrite=True) as sink:
        for batch, some in cleaned(cleaner(work, held, snapshot), source):
            instead = {one.before: one for one in some}
            sink.write(b"".join(_after(one, instead) for one in batch))
            for one in some:
                content -= _digest(one.before)
                content += _digest(one.after) if one.after is not None else 0
                count -= one.after is None
                done.documents += 1
                done.by_request.update(one.whose)
        if (source.bytes, source.sha256) != (snapshot.bytes, snapshot.sha256):
            raise _corrupt(folder, snapshot)
    return replace(
        snapshot,
        file=name,
        count=count,
        bytes=sink.bytes,
        sha256=sink.sha256,
        content_digest=f"{content % 2**256:064x}",
    )


def _after(raw: bytes, instead: dict[bytes, Cleaned]) -> bytes:
    return raw if raw not in instead else instead[raw].after or b""


def _digest(raw: bytes) -> int:
    return int(digest(bsonfile.decoded(raw)), 16)


def _next(file: str) -> str:
    """Return the name of the file's next generation: ``users.bson``, ``users~1.bson``, ``users~2.bson``."""
    match = _GENERATION.match(file)
    if match is None:
        raise ValueError(f"{file} is no file of a snapshot.")
    return f"{match['stem']}~{int(match['number'] or 0) + 1}.bson"


def _is_needed(one: Version, snapshot: Snapshot) -> bool:
    return one.latest and not one.marker and one.path.rpartition("/")[2] in (snapshot.file, manifest.FILE)


def _free(work: Work, held: Holds, requests: set[str]) -> set[str]:
    return {one for one in requests if not held.of(work.references[one])}


def not_held(work: Work, held: Holds, database: str, collection: str, some: Sequence[Document]) -> Sequence[bool]:
    """Ask the server which documents of a collection no hold covers: a hold is a filter, and only the server applies filters."""
    query = held.exclusion(collection) if database == work.db.name else None
    if query is None:
        return [True] * len(some)
    numbered = [{**document, NUMBER: number} for number, document in enumerate(some)]
    stages = [{"$documents": {"$literal": numbered}}, {"$match": query}, {"$project": {NUMBER: 1, "_id": 0}}]
    try:
        free = {one[NUMBER] for one in work.db.aggregate(stages)}
    except (
        OperationFailure
    ):  # a server before 5.1 cannot look at documents that are not stored: what may be held, stays
        return [False] * len(some)
    return [number in free for number in range(len(some))]


NUMBER = "ops_number"


def _corrupt(folder: Folder, snapshot: Snapshot) -> SnapshotCorruptError:
    return SnapshotCorruptError(
        f"{show(folder / snapshot.file)} is not the file that was written, so people cannot be taken out of it. It cannot be restored "
        "either: remove the snapshot, or get the file back from a copy of the store."
    )
