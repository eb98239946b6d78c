"""Keep what a migration is about to destroy in object storage (BSON with digests), and bring it back.

A snapshot's name is ``<database>/<migration>.<application>/<direction>/<operation>/<loss>/<attempt>``. Every attempt takes its
own, since documents may have come between a kill and the retry; the latest one is what was there right before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongo_ops import storage
from mongo_ops.migrations.operations.base import Loss

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease


@dataclass(frozen=True)
class Losses:
    """Snapshots below the environment's storage folder."""

    folder: storage.Folder

    def keep(self, db: Database[Document], losses: Sequence[Loss], step: str, attempt: int, run_id: str) -> None:
        """Take a snapshot of each loss that is there; a collection that is gone or has nothing to lose is passed over.

        Args:
            db: the database.
            losses: what is about to be destroyed.
            step: ``<migration>.<application>/<direction>/<operation>``.
            attempt: which try of the migration this is; begins at 1.
            run_id: for the manifest.
        """
        for index, loss in enumerate(losses):
            nothing = db[loss.collection].find_one(dict(loss.where), {"_id": 1}) is None
            if nothing and (loss.fields or not db.list_collection_names(filter={"name": loss.collection})):
                continue
            projection = dict.fromkeys(loss.fields, 1) if loss.fields else None
            storage.take(
                db, loss.collection, self.folder, name=f"{db.name}/{step}/{index}/{attempt}", where=loss.where,
                projection=projection, run_id=run_id, migration=step.partition("/")[0],
            )  # fmt: skip

    def bring_back(
        self, db: Database[Document], losses: Sequence[Loss], step: str, attempts: int, lease: Lease
    ) -> None:
        """Restore each loss from the latest snapshot taken of it.

        Raises:
            RestoreConflictError: documents with the same ``_id`` and other content have come since.
        """
        for index, loss in enumerate(losses):
            places = (
                storage.at(self.folder, f"{db.name}/{step}/{index}/{attempt}") for attempt in range(attempts, 0, -1)
            )
            latest = next((place for place in places if storage.finished(place)), None)
            if latest is not None:
                storage.restore(db, latest, mode="merge_fields" if loss.fields else "insert", lease=lease)

    def names(self, database: str) -> Iterator[str]:
        """Yield the names of the finished snapshots of a database, in order."""
        top = self.folder / database
        if not top.exists():
            return
        found = top.fs.find(top.path)
        for path in sorted(path for path in found if path.endswith("/manifest.json")):
            yield f"{database}/{path.split(f'/{database}/', 1)[1].removesuffix('/manifest.json')}"
