"""Look at the database before an export: collections, sizes, sampled keys, the history window. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bson.binary import Binary
from pymongo.errors import OperationFailure

from mongo_ops.transfer.model import EVERYTHING, CollectionFacts, ExportRequest, Kind
from mongo_ops.transfer.plan import SAMPLES_PER_PART, ExportRefusedError

if TYPE_CHECKING:
    from bson import Timestamp
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

WINDOW = "minSnapshotHistoryWindowInSeconds"
SMALL_COUNT, SMALL_BYTES = 20_000, 64 * 1024 * 1024
NOT_EXPORTED = ("system.", "ops_leases", "ops_checkpoints", "ops_transfers", "ops_rejects", "ops_restoring_")
"""With "*": what the server or a running operation keeps for itself."""


def collections(db: Database[Document], request: ExportRequest) -> tuple[CollectionFacts, ...]:
    """Return the collections of a request in the order of their names.

    Raises:
        ExportRefusedError: one of them does not exist.
    """
    found = {info["name"]: info for info in db.list_collections()}
    if request.collections == (EVERYTHING,):
        names = [name for name in found if not name.startswith(NOT_EXPORTED)]
    else:
        names = list(dict.fromkeys(request.collections))
        missing = [name for name in names if name not in found]
        if missing:
            raise ExportRefusedError(f"{db.name} has no collection {', '.join(sorted(missing))}. Check the names.")
    return tuple(_facts(db, found[name]) for name in sorted(names))


def sample(db: Database[Document], facts: CollectionFacts, count: int) -> list[tuple[Any, int]]:
    """Return (``_id``, bytes) of documents chosen at random, or of all where that is cheap, in the order of ``_id``."""
    wanted = SAMPLES_PER_PART * count
    small = facts.count <= wanted or (facts.count <= SMALL_COUNT and facts.bytes <= SMALL_BYTES)
    chosen: list[Mapping[str, Any]] = [] if small else [{"$sample": {"size": wanted}}]
    shown = {"$project": {"_id": 1, "size": {"$bsonSize": "$$ROOT"}}}
    rows = db[facts.name].aggregate([*chosen, shown, {"$sort": {"_id": 1}}], allowDiskUse=True)
    return [(row["_id"], row["size"]) for row in rows]


def history_window(db: Database[Document]) -> float | None:
    """Return how many seconds of history the server keeps for snapshot reads; None when it does not say."""
    try:
        return float(db.client.admin.command({"getParameter": 1, WINDOW: 1})[WINDOW])
    except OperationFailure:  # no right to see it, or a router
        return None


def now(db: Database[Document]) -> Timestamp:
    """Return the cluster time of this moment."""
    moment: Timestamp = db.client.admin.command("hello")["operationTime"]
    return moment


def _facts(db: Database[Document], info: Mapping[str, Any]) -> CollectionFacts:
    name, options = info["name"], info.get("options", {})
    kind: Kind = "capped" if options.get("capped") else info["type"]
    count, size = (0, 0) if kind == "view" else _size(db, name)
    uuid = info.get("info", {}).get("uuid")
    return CollectionFacts(
        name=name,
        kind=kind,
        uuid=_text(uuid),
        options=options,
        indexes=() if kind == "view" else tuple(dict(index) for index in db[name].list_indexes()),
        count=count,
        bytes=size,
    )


def _text(uuid: Any) -> str | None:
    if isinstance(uuid, Binary):
        return str(uuid.as_uuid())
    return str(uuid) if isinstance(uuid, UUID) else None


def _size(db: Database[Document], name: str) -> tuple[int, int]:
    """Return count and bytes. They are estimates; nothing is verified against them."""
    try:
        rows = list(db[name].aggregate([{"$collStats": {"storageStats": {}}}]))
    except OperationFailure:
        count = db[name].estimated_document_count()
        return count, count * 512
    stats = [row["storageStats"] for row in rows]
    return sum(int(one.get("count", 0)) for one in stats), sum(int(one.get("size", 0)) for one in stats)
