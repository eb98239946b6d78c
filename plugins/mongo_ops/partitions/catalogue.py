"""Month collections as the source is: options, validator, indexes; and the router view over them. All of it may be done twice.

Reads the catalogue and changes it. Never touches a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.mongo.documents import digest
from mongo_ops.partitions.months import RETIRED, Month, month_in
from mongo_ops.storage.recreate import MAJORITY, NAMESPACE_EXISTS, index_specification, is_ours

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

RULES = ("validator", "validationLevel", "validationAction")
"""The options that ``collMod`` can change."""


@dataclass(frozen=True)
class Shape:
    """What a collection is made of: its options and the specifications of its own indexes."""

    options: Mapping[str, Any] = field(default_factory=dict)
    indexes: tuple[Mapping[str, Any], ...] = ()

    @property
    def rules(self) -> dict[str, Any]:
        """The validator, its level and action, with the server's defaults where nothing is said."""
        defaults = {"validator": {}, "validationLevel": "strict", "validationAction": "error"}
        return {name: self.options.get(name, default) for name, default in defaults.items()}

    def lacks(self, other: Shape) -> tuple[Mapping[str, Any], ...]:
        """Return the indexes of the other one that this one has not."""
        known = {_identity(index) for index in self.indexes}
        return tuple(index for index in other.indexes if _identity(index) not in known)

    def alike(self, other: Shape) -> bool:
        """Whether this one has the validator and all the indexes of the other."""
        return digest(self.rules) == digest(other.rules) and not self.lacks(other)


@dataclass(frozen=True)
class Holdings:
    """What there is of a partitioned collection. ``kinds`` is by name: collection, view, timeseries, capped."""

    kinds: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]]
    uuids: Mapping[str, str]
    months: tuple[Month, ...]
    retired: tuple[Month, ...]

    def is_collection(self, name: str) -> bool:
        """Whether there is an ordinary collection of that name."""
        return self.kinds.get(name) == "collection"


def holdings(db: Database[Document], collection: str) -> Holdings:
    """Return what there is of a collection, its months and its views."""
    kinds: dict[str, str] = {}
    options: dict[str, Mapping[str, Any]] = {}
    uuids: dict[str, str] = {}
    for info in db.list_collections():
        name, options[info["name"]] = info["name"], info.get("options", {})
        kinds[name] = "capped" if info.get("options", {}).get("capped") else str(info["type"])
        if "uuid" in info.get("info", {}):
            uuids[name] = info["info"]["uuid"].hex()
    plain = [name for name, kind in kinds.items() if kind == "collection"]
    months = sorted(found for name in plain if (found := month_in(collection, name)) is not None)
    gone = (name.removesuffix(RETIRED) for name in plain if name.endswith(RETIRED))
    retired = sorted(found for name in gone if (found := month_in(collection, name)) is not None)
    return Holdings(kinds, options, uuids, tuple(months), tuple(retired))


def shape_of(db: Database[Document], name: str, options: Mapping[str, Any]) -> Shape:
    """Return the shape of an ordinary collection."""
    kept = {key: value for key, value in options.items() if key != "uuid"}
    indexes = (dict(index) for index in db[name].list_indexes())
    return Shape(kept, tuple(index_specification(index, kept) for index in indexes if is_ours(index)))


def make(db: Database[Document], name: str, shape: Shape, lease: Lease) -> bool:
    """Make a collection of a shape, or bring the one that is there alike: validator and missing indexes. Say whether it is new."""
    lease.check()
    try:
        db.command({"create": name, **shape.options, "writeConcern": MAJORITY})
        new = True
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        new = False
    if not new:
        info = next(iter(db.list_collections(filter={"name": name})))
        if digest(shape_of(db, name, info.get("options", {})).rules) != digest(shape.rules):
            db.command({"collMod": name, **shape.rules, "writeConcern": MAJORITY})
    if shape.indexes:
        with lease.renewing():
            db.command({"createIndexes": name, "indexes": list(shape.indexes), "writeConcern": MAJORITY})
    return new


def router(members: Sequence[str]) -> dict[str, Any]:
    """Return the definition of a view over collections, read in their order.

    The source comes first: a document that is moved goes from there into a month, so that a reader who meets the move sees it
    twice rather than not at all. The server pushes a filter down into every member.
    """
    first, *rest = members
    return {"viewOn": first, "pipeline": [{"$unionWith": name} for name in rest]}


def routes(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the members of a router view; none when the view is something else."""
    stages = options.get("pipeline", [])
    if any(set(stage) != {"$unionWith"} for stage in stages):
        return ()
    others = [stage["$unionWith"] for stage in stages]
    names = (one if isinstance(one, str) else one.get("coll", "") for one in others)
    return (str(options.get("viewOn", "")), *names)


def define(db: Database[Document], view: str, members: Iterable[str], collation: Any, lease: Lease) -> None:
    """Make the router view, or lead it over these members."""
    definition = router(tuple(members))
    lease.check()
    try:
        extra = {"collation": collation} if collation else {}
        db.command({"create": view, **definition, **extra, "writeConcern": MAJORITY})
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        db.command({"collMod": view, **definition, "writeConcern": MAJORITY})


def _identity(index: Mapping[str, Any]) -> tuple[Any, str]:
    """Return what tells an index from another one. The order of its keys counts, that of its options does not."""
    rest = {name: value for name, value in index.items() if name != "key"}
    return tuple(index["key"]), digest({**rest, "key": dict(index["key"])})
