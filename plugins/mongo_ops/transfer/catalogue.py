"""Make collections, indexes and views as a manifest describes them. Everything here may be done twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.mongo.documents import digest
from mongo_ops.storage.recreate import MAJORITY, NAMESPACE_EXISTS, index_specification, is_ours
from mongo_ops.transfer.failures import TransferRefusedError
from mongo_ops.transfer.import_model import ImportTarget

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document


def create(db: Database[Document], target: ImportTarget) -> None:
    """Make a collection that is not there, with its options. Another task may be quicker."""
    _create(db, target.name, target.options)


def build_indexes(db: Database[Document], target: ImportTarget) -> int:
    """Build the manifest's indexes; those that are there stay. Return how many there were to build.

    Raises:
        TransferRefusedError: one of the same name is there and differs.
    """
    wanted = [index_specification(index, target.options) for index in target.indexes if is_ours(index)]
    if wanted:
        db.command({"createIndexes": target.name, "indexes": wanted, "writeConcern": MAJORITY})
    return len(wanted)


def create_view(db: Database[Document], target: ImportTarget) -> None:
    """Define a view, or leave it when it is there and the same.

    Raises:
        TransferRefusedError: something else has its name.
    """
    if _create(db, target.name, target.options):
        return
    info = next(iter(db.list_collections(filter={"name": target.name})))
    if info["type"] != "view" or digest(info["options"]) != digest(target.options):
        raise TransferRefusedError(
            f"{target.name} is there already and is not the view of the manifest. Drop or rename it."
        )


def is_unique(db: Database[Document], name: str, fields: Sequence[str]) -> bool:
    """Say whether a unique index keeps two documents from having the same values in these fields."""
    indexes = db[name].list_indexes()
    return tuple(fields) == ("_id",) or any(
        index.get("unique")
        and set(index["key"]) == set(fields)
        and not index.keys() & {"partialFilterExpression", "collation"}
        for index in indexes
    )


def uuid_of(db: Database[Document], name: str) -> str | None:
    """Return what tells a collection from a later one of the same name; None for a time series, whose buckets have it."""
    info = next(iter(db.list_collections(filter={"name": name})), None)
    uuid = (info or {}).get("info", {}).get("uuid")
    return None if uuid is None else str(uuid)


def _create(db: Database[Document], name: str, options: Mapping[str, Any]) -> bool:
    try:
        db.command({"create": name, **options, "writeConcern": MAJORITY})
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        return False
    return True
