"""Make a collection again as a snapshot describes it: options, validator and indexes, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.mongo.documents import Document, digest
from mongo_ops.storage.manifest import Snapshot

if TYPE_CHECKING:
    from pymongo.database import Database

NAMESPACE_EXISTS = 48
MAJORITY = {"w": "majority"}


def create(db: Database[Document], snapshot: Snapshot, target: str) -> bool:
    """Make ``target``; return False when somebody else was quicker.

    An ordinary collection is made under another name and renamed when its indexes are there, so that a process that is
    killed in between leaves no collection without indexes. Time-series collections and views cannot be renamed; the former
    get their indexes also when they are there already.
    """
    as_view = snapshot.kind == "view" and target == snapshot.collection
    options = dict(snapshot.options or {}) if snapshot.kind != "view" or as_view else {}
    renamed = not as_view and snapshot.kind != "timeseries"
    name = f"ops_restoring_{digest({'to': target})[:16]}" if renamed else target
    if renamed:
        db.drop_collection(name)
    made = _done(db, {"create": name, **options})
    indexes = [index_specification(index, options) for index in snapshot.indexes if is_ours(index)]
    if indexes and not as_view:
        _done(db, {"createIndexes": name, "indexes": indexes})
    if renamed:
        made = _done(db.client.admin, {"renameCollection": f"{db.name}.{name}", "to": f"{db.name}.{target}"})
        db.drop_collection(name)
    return made


def _done(db: Database[Document], command: dict[str, Any]) -> bool:
    """Run the command; return False when the collection exists."""
    try:
        db.command({**command, "writeConcern": MAJORITY})
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        return False
    return True


def is_ours(index: Any) -> bool:
    """Whether the index must be made; the one on ``_id`` comes with the collection."""
    return list(index["key"].items()) != [("_id", 1)]


def index_specification(index: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what createIndexes wants. An index without the collection's collation must say so, or it would inherit it."""
    simple = {"collation": {"locale": "simple"}} if "collation" in options else {}
    return {**simple, **{name: value for name, value in index.items() if name != "ns"}}
