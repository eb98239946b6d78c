"""Where the exports of an environment are, and which of their files nobody needs any more. For erasure; reads only.

Known are the destinations in ``ops_transfers``, noted when an export begins. What was copied elsewhere afterwards nobody can know.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, StorageDeniedError, fresh, is_local, versions
from mongo_ops.storage.paths import telling
from mongo_ops.storage.versions import Version
from mongo_ops.transfer import history, manifest, place
from mongo_ops.transfer.rewriting import FinishedExport

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

Open = Callable[[str, str | None], Folder]
"""Opens a folder: (URI, connection id or None)."""

Being = Literal["finished", "unfinished", "none"]
_PART = re.compile(r"\d{5}-[0-9a-f]{8}(?:~\d+)?\.(?:bson|jsonl|csv|parquet)(?:\.(?:zst|gz))?\Z")
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.partial\Z")


@dataclass(frozen=True)
class Exports:
    """The exports of one environment's database. ``open`` opens a destination as whoever exports does."""

    db: Database[Document]
    open: Open

    def known(self) -> tuple[list[Folder], list[str]]:
        """Return the destinations that were ever noted, and sentences about those that cannot be opened or seen from here."""
        folders, faults = [], []
        for one in self._noted():
            where = str(one["destination"])
            try:
                folder = self.open(where, one.get("storage_connection"))
                if self._is_elsewhere(folder, one):
                    faults.append(
                        f"{where} is a folder of the machine {one['host']}, where an export was written, and cannot be seen from here. Remove "
                        f"it there, and then its entries from {history.TRANSFERS}; or run the erasure there."
                    )
                else:
                    folders.append(folder)
            except PlanError as error:
                faults.append(f"An export at {where} cannot be looked at: {error}")
        return folders, faults

    def being(self, folder: Folder) -> Being:
        """Say whether there is an export, and whether it is finished."""
        if manifest.finished(folder):
            return "finished"
        return "none" if place.claimed(folder) is None else "unfinished"

    def read(self, folder: Folder) -> FinishedExport:
        """Return a finished export.

        Raises:
            ExportMissingError, ExportCorruptError: its manifest is not usable.
        """
        return FinishedExport(folder, manifest.read(folder))

    def leftovers(self, folder: Folder) -> Sequence[Version]:
        """Return the versions of an export's own files that no reader needs: old ones, what tries that were killed left, notes."""
        top = f"{folder.path.strip('/')}/"
        if not _has_bucket(folder):
            return ()
        being = self.being(folder)
        needed = {manifest.FILE, place.CLAIM, *(self.read(folder).parts if being == "finished" else ())}

        def is_left(one: Version) -> bool:
            name = one.path.strip("/").removeprefix(top)
            if not self._is_own(name):
                return False
            return one.marker or not one.latest or (being == "finished" and name not in needed)

        return tuple(one for one in versions.below(folder) if is_left(one))

    def is_part(self, name: str) -> bool:
        """Say whether a file's name (without its folder) is one of those that parts of exports have."""
        return _PART.match(name) is not None

    def _noted(self) -> Iterator[Mapping[str, Any]]:
        """Yield each destination once, as it was noted last."""
        fields = ("destination", "storage_connection", "host")
        stages: list[dict[str, Any]] = [
            {"$match": {"kind": "export", "destination": {"$type": "string"}}},
            {"$sort": {"begun_at": -1}},
            {"$group": {"_id": "$destination", **{name: {"$first": f"${name}"} for name in fields}}},
            {"$sort": {"_id": 1}},
        ]
        yield from self.db[history.TRANSFERS].aggregate(stages)

    def _is_elsewhere(self, folder: Folder, noted: Mapping[str, Any]) -> bool:
        host = noted.get("host")
        with telling(folder):
            return bool(is_local(folder) and host and host != socket.gethostname() and not folder.exists())

    def _is_own(self, name: str) -> bool:
        """Say whether a path below an export's folder is one that exports give to their files."""
        parents, _, last = name.rpartition("/")
        partial = _PARTIAL.match(last)
        last = partial["name"] if partial else last
        if parents.startswith(f"{place.RECEIPTS}/"):
            return parents.count("/") == 1 and last.endswith(".json")
        return (not parents and last in (manifest.FILE, place.CLAIM)) or (
            parents != "" and "/" not in parents and self.is_part(last)
        )


def _has_bucket(folder: Folder) -> bool:
    """Say whether the folder's bucket is there (on a disk, the folder): without it, a store cannot be asked for versions."""
    bucket: Any = folder
    while not is_local(folder) and "/" in bucket.path.strip("/"):
        bucket = bucket.parent
    try:
        with telling(folder):
            return bool(fresh(bucket).exists())
    except StorageDeniedError:  # of all of the bucket; the folder may be allowed
        return True
