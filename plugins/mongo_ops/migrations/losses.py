"""Keep what a migration is about to destroy in object storage (BSON with digests), and bring it back.

A snapshot's name is ``<database>/<migration>.<application>/<direction>/<operation>/<loss>/<attempt>-<random>``: never the same
twice, also when a database is dropped and migrated again. Which snapshots belong to an operation is therefore told by its
record, ``found["snapshots"]``, which is saved after they were taken and before anything is destroyed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops import storage
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.operations.base import Loss
from mongo_ops.storage import bsonfile
from mongo_ops.storage.load import RAW, Loader, compare

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.migrations.model import OperationRecord
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

SNAPSHOTS = "snapshots"
"""The name in an operation's ``found``; a list of ``{loss, name, collection, uuid}``, oldest first."""


@dataclass(frozen=True)
class Losses:
    """Snapshots below the environment's storage folder."""

    folder: storage.Folder

    def keep(
        self, db: Database[Document], losses: Sequence[Loss], step: str, attempt: int, run_id: str
    ) -> list[Document]:
        """Take a snapshot of each loss that is there; a collection that is gone or has nothing to lose is passed over.

        Args:
            db: the database.
            losses: what is about to be destroyed.
            step: ``<migration>.<application>/<direction>/<operation>``.
            attempt: which try of the migration this is; begins at 1.
            run_id: for the manifest.

        Returns:
            What the operation's record must remember of each snapshot.
        """
        kept: list[Document] = []
        for index, loss in enumerate(losses):
            nothing = db[loss.collection].find_one(dict(loss.where), {"_id": 1}) is None
            if nothing and (loss.fields or not db.list_collection_names(filter={"name": loss.collection})):
                continue
            identity = _identity(db, loss.collection)
            projection = dict.fromkeys(loss.fields, 1) if loss.fields else None
            name = f"{db.name}/{step}/{index}/{attempt}-{uuid.uuid4().hex[:12]}"
            storage.take(
                db, loss.collection, self.folder, name=name, where=loss.where,
                projection=projection, run_id=run_id, migration=step.partition("/")[0],
            )  # fmt: skip
            kept.append({"loss": index, "name": name, "collection": loss.collection, "uuid": identity})
        return kept

    def insist(self, db: Database[Document], operation: OperationRecord, losses: Sequence[Loss], where: str) -> None:
        """Refuse to go back when documents were destroyed and not all of their snapshots are there.

        Raises:
            MigrationRefusedError: names the snapshot that is missing, and the folder.
        """
        found = operation.found
        if losses and operation.state == "done" and found.get("count") and SNAPSHOTS not in found:
            raise MigrationRefusedError(
                f"{where} destroyed {found['count']:,} documents and its record names no snapshot of them, so it cannot be "
                f"undone. Look for them below {storage.show(self.folder)} (`mongo-ops snapshots list`), or record the state "
                "by hand with `mongo-ops mark`."
            )
        for kept in _needed(db, losses, found):
            if not storage.finished(storage.at(self.folder, kept["name"])):
                raise MigrationRefusedError(
                    f"{where} destroyed documents of {kept['collection']}, and their snapshot {kept['name']} is not below "
                    f"{storage.show(self.folder)}. Roll back on the machine that has it, or copy it there; nothing was undone."
                )

    def bring_back(
        self, db: Database[Document], losses: Sequence[Loss], found: Mapping[str, Any], lease: Lease
    ) -> None:
        """Restore each loss from all snapshots that were taken of it and are not superseded.

        A run that was killed may have destroyed a collection which a live writer then made anew. The newest snapshot is
        restored first; an older one adds the documents that are not there. (Fields: the oldest first, the newest wins.)

        Raises:
            RestoreConflictError: documents with the same ``_id`` and other content than the newest have come since.
        """
        newest = {one["loss"]: one["name"] for one in found.get(SNAPSHOTS, ())}
        fields = {index for index, loss in enumerate(losses) if loss.fields}
        needed = _needed(db, losses, found)
        for kept in (one for one in needed if one["loss"] in fields):
            storage.restore(db, storage.at(self.folder, kept["name"]), mode="merge_fields", lease=lease)
        for kept in (one for one in reversed(needed) if one["loss"] not in fields):
            place = storage.at(self.folder, kept["name"])
            if kept["name"] == newest[kept["loss"]]:
                storage.restore(db, place, mode="insert", lease=lease)
            else:
                _add_missing(db, place, lease)

    def names(self, database: str) -> Iterator[str]:
        """Yield the names of the finished snapshots of a database, in order."""
        top = self.folder / database
        if not top.exists():
            return
        found = top.fs.find(top.path)
        for path in sorted(path for path in found if path.endswith("/manifest.json")):
            yield f"{database}/{path.split(f'/{database}/', 1)[1].removesuffix('/manifest.json')}"


def remember(found: Mapping[str, Any], kept: Sequence[Document]) -> Document:
    """Return an operation's ``found`` with further snapshots."""
    return {**found, SNAPSHOTS: [*found.get(SNAPSHOTS, ()), *kept]}


def _needed(db: Database[Document], losses: Sequence[Loss], found: Mapping[str, Any]) -> list[Document]:
    """Return the snapshots to restore, oldest first.

    Of a whole collection that was snapshotted twice and not dropped in between only the last counts, and none of one that is
    still there: the server's identity of the collection tells. Otherwise documents deleted meanwhile would come back.
    """
    needed: dict[tuple[Any, ...], Document] = {}
    for number, kept in enumerate(found.get(SNAPSHOTS, ())):
        loss = losses[kept["loss"]] if kept["loss"] < len(losses) else None
        if loss is None:
            continue
        whole = kept["uuid"] and not loss.where and not loss.fields
        if whole and _identity(db, kept["collection"]) == kept["uuid"]:
            continue
        key = (kept["loss"], kept["uuid"]) if whole else (kept["loss"], number, "")
        needed.pop(key, None)
        needed[key] = kept
    return list(needed.values())


def _identity(db: Database[Document], collection: str) -> str | None:
    """Return the UUID that the server gave the collection when it was made; None when it shows none."""
    info = next(iter(db.list_collections(filter={"name": collection})), None) or {}
    identity = info.get("info", {}).get("uuid")
    return None if identity is None else str(identity)


def _add_missing(db: Database[Document], place: storage.Folder, lease: Lease) -> None:
    """Add a snapshot's documents whose ``_id`` is not there; the others stay as they are."""
    snapshot = storage.verify(place)
    if snapshot.kind == "missing":
        return
    raw = db.get_collection(snapshot.collection, codec_options=RAW)
    info = next(iter(db.list_collections(filter={"name": snapshot.collection})), None) or {}
    plain = info.get("type") == "collection"
    transactional = plain and not info.get("options", {}).get("capped")
    loader = Loader(raw, None, overwrite=False, by_id=plain, transactional=transactional, lease=lease)
    with storage.reading(place / snapshot.file) as source:
        for batch in bsonfile.batches(source):
            absent = compare(raw, batch, None).absent if plain else list(batch)
            if absent:
                loader.write(absent)
