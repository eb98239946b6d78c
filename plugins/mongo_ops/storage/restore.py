"""Put a snapshot's documents back. Checks everything before the first write, and can be killed and run again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pymongo.write_concern import WriteConcern

from mongo_ops.mongo.documents import Document
from mongo_ops.storage import bsonfile, recreate
from mongo_ops.storage.atomic import reading
from mongo_ops.storage.load import RAW, Loader, Mode, Restored, RestoreRefusedError, compare, conflict
from mongo_ops.storage.manifest import Snapshot
from mongo_ops.storage.paths import Folder, show
from mongo_ops.storage.snapshots import verify

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.lease import Lease

log = logging.getLogger(__name__)


def restore(
    db: Database[Document], place: Folder, *, into: str | None = None, mode: Mode = "insert", lease: Lease | None = None
) -> Restored:
    """Load a snapshot back and return the counts.

    A collection that does not exist is made first, with its options and indexes if the snapshot has them. Documents are
    written as they were taken, without asking the validator. What a document in the collection does not share with the
    snapshot stays as it is; documents that are not in the snapshot are never touched.

    ``insert``: add the documents that are missing. One that is there and equal counts as restored already, which is what
        makes a second run finish a killed one. One that is there and differs is a conflict: refused before the first
        write. One that somebody inserts during the restore is never overwritten either; it ends the run with the same error.
    ``replace``: put every document back as it was, over whatever has its ``_id`` now.
    ``merge_fields``: for field-level snapshots. Sets exactly the fields named, and removes those that the document did
        not have; documents that are gone stay gone and are counted.

    Args:
        db: the database to load into.
        place: ``folder / name`` of the snapshot.
        into: another collection instead of the one it was taken from.
        mode: see above.
        lease: asserted with every batch, in one transaction with it where the collection allows transactions.

    Raises:
        SnapshotMissingError, SnapshotCorruptError: nothing was written.
        RestoreRefusedError: nothing was written; the message says what would work.
        RestoreConflictError: documents are in the way; the message gives their number.
        LeaseLostError: another run took over.
    """
    snapshot = verify(place)
    target = into or snapshot.collection
    _refuse_mode(snapshot, mode)
    if snapshot.kind == "missing":
        return Restored(target)
    kind = _refuse_target(db, snapshot, target, mode)
    if mode == "insert" and kind == "collection":
        _refuse_conflicts(db, place, snapshot, target)
    if lease is not None:
        lease.check()
    unmade = kind is None or kind == "timeseries"  # one of those may be half made
    done = Restored(target, created=unmade and recreate.create(db, snapshot, target))
    if snapshot.kind == "view" and target == snapshot.collection:
        return done
    loader = _loader(db, snapshot, target, mode, lease)
    with reading(place / snapshot.file) as source:
        for batch in bsonfile.batches(source):
            done += loader.write(batch)
    log.info("Restored %s from %s: %s", target, show(place), done)
    return done


def _refuse_mode(snapshot: Snapshot, mode: Mode) -> None:
    if (snapshot.projection is not None) != (mode == "merge_fields"):
        kind, other = (
            ("fields only", "merge_fields") if snapshot.projection is not None else ("whole documents", "insert")
        )
        raise RestoreRefusedError(
            f"The snapshot of {snapshot.collection} holds {kind}; restore it with mode `{other}`."
        )


def _refuse_target(db: Database[Document], snapshot: Snapshot, target: str, mode: Mode) -> str | None:
    """Return the kind of the collection to load into, or None when it is to be made."""
    info = next(iter(db.list_collections(filter={"name": target})), None)
    kind: str | None = None if info is None else info["type"]
    if snapshot.kind == "view" and target == snapshot.collection:
        if mode == "merge_fields":
            raise RestoreRefusedError(f"{target} is a view; its fields belong to the collection behind it.")
        if kind not in (None, "view"):
            raise RestoreRefusedError(f"{target} was a view and is a {kind} now. Rename it, then run again.")
        return kind
    if kind == "timeseries" and snapshot.kind == "timeseries":
        if mode != "insert" or (snapshot.count and db[target].find_one() is not None):
            raise RestoreRefusedError(
                f"{target} is a time-series collection with documents in it, which have no unique `_id`. Drop it (or restore "
                "into another name), then run again; nothing was written."
            )
    elif kind not in (None, "collection"):
        raise RestoreRefusedError(f"{target} is a {kind} and cannot be restored into. Name another collection.")
    elif kind is None and mode == "merge_fields":
        raise RestoreRefusedError(f"{target} does not exist, so there is nothing to put the fields back into.")
    return kind


def _refuse_conflicts(db: Database[Document], place: Folder, snapshot: Snapshot, target: str) -> None:
    collection = db.get_collection(target, codec_options=RAW)
    with reading(place / snapshot.file) as source:
        conflicts = sum(len(compare(collection, batch, None).different) for batch in bsonfile.batches(source))
    if conflicts:
        raise conflict(
            target, f"{conflicts:,} documents of the snapshot are there with another content; nothing was written."
        )


def _loader(db: Database[Document], snapshot: Snapshot, target: str, mode: Mode, lease: Lease | None) -> Loader:
    info = next(iter(db.list_collections(filter={"name": target})), None) or {"type": "collection"}
    plain = info["type"] == "collection"
    return Loader(
        raw=db.get_collection(target, codec_options=RAW, write_concern=WriteConcern("majority")),
        paths=snapshot.projection,
        overwrite=mode == "replace",
        by_id=plain,
        transactional=plain and not info.get("options", {}).get("capped"),
        lease=lease,
    )
