"""The two sides that a verification compares, in one direction: what the transform makes of one collection, and what the other holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson

from mongo_ops.migrations.operations import catalogue
from mongo_ops.mongo.documents import CODEC
from mongo_ops.online import names
from mongo_ops.online.compare import Side
from mongo_ops.online.model import Phase
from mongo_ops.online.shape import Shape
from mongo_ops.online.stream import key_bytes

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.online.model import Transform
    from mongo_ops.online.work import Work

ORDERED_BY_COLLATION = ["string", "object", "array"]


@dataclass(frozen=True)
class Touched:
    """Keys to look at: of the source, and of the target. They are the same where the transform keeps ``_id``."""

    sources: tuple[Any, ...] = ()
    targets: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.sources) + len(self.targets)


@dataclass(frozen=True)
class Sides:
    """Where the two sides are. ``ids`` is the map of keys, with the names of its fields, where the transform changes ``_id``."""

    work: Work
    source: str
    target: str
    transform: Transform | None
    ids: str | None
    source_key: str = "_id"
    target_key: str = "to"

    def wanted(self, where: Mapping[str, Any]) -> Side:
        """Return what should be there, of the source's documents that match."""
        shape = Shape(self.transform)
        return lambda session: shape.read(self.work.db, self.source, where, session)

    def actual(self, where: Mapping[str, Any]) -> Side:
        """Return what is there, of the target's documents that match."""
        shape = Shape(())
        return lambda session: shape.read(self.work.db, self.target, where, session)

    def by_keys(self, touched: Touched) -> tuple[Side, Side]:
        """Return both sides for some keys."""
        return self.wanted(_among(touched.sources)), self.actual(_among(touched.targets))

    def completed(self, touched: Touched, session: ClientSession | None) -> Touched:
        """Return the keys with their counterparts on the other side, as far as those are known."""
        if self.ids is None:
            both = _distinct([*touched.sources, *touched.targets])
            return Touched(both, both)
        entries = self.work.db[self.ids]
        wanted = [{self.source_key: {"$in": list(touched.sources)}}, {self.target_key: {"$in": list(touched.targets)}}]
        rows = list(entries.find({"$or": wanted}, session=session))
        sources = _distinct([*touched.sources, *(row[self.source_key] for row in rows)])
        return Touched(sources, _distinct([*touched.targets, *(row[self.target_key] for row in rows)]))

    def sources_of(self, targets: Sequence[Any], session: ClientSession | None) -> tuple[Any, ...]:
        """Return the keys of the source's documents that should have these keys in the target; reads the source where ids change."""
        if self.ids is None:
            return tuple(targets)
        wanted = {key_bytes(key) for key in targets}
        pairs = Shape(self.transform).pairs(self.work.db, self.source, {}, session)
        return tuple(old for old, made in pairs if key_bytes(_id(made)) in wanted)

    def ranged(self) -> bool:
        """Whether a range of keys holds the same documents on both sides: same keys, in the same order."""
        if self.ids is not None:
            return False
        forms = [catalogue.collection(self.work.db, name) for name in (self.source, self.target)]
        collations = [catalogue.collation_form(one.options.get("collation")) if one else None for one in forms]
        if collations[0] == collations[1]:
            return True
        return self.work.db[self.source].find_one({"_id": {"$type": ORDERED_BY_COLLATION}}, {"_id": 1}) is None

    @property
    def collections(self) -> list[str]:
        """The collections whose changes matter."""
        return list(dict.fromkeys([self.source, self.target]))


def of(work: Work) -> Sides:
    """Return the sides of the direction that the phase has."""
    spec = work.spec
    if not spec.ghost:
        return Sides(work, spec.collection, spec.collection, spec.transform, None)
    ids = names.ids(spec.collection) if spec.changes_id else None
    source, target = work.place("source"), work.place("target")
    if work.phase in (Phase.SOAK, Phase.ROLLING_BACK):
        return Sides(work, target, source, spec.inverse, ids, source_key="to", target_key="_id")
    return Sides(work, source, target, spec.transform, ids)


def between(first: Mapping[str, Any], stop: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filter of keys from ``first["key"]`` up to before ``stop["key"]``; open where there is none. It crosses types."""
    bounds = [
        {operator: ["$_id", {"$literal": end["key"]}]} for operator, end in (("$gte", first), ("$lt", stop)) if end
    ]
    return {"$expr": {"$and": bounds}} if bounds else {}


def _among(keys: Iterable[Any]) -> dict[str, Any]:
    return {"_id": {"$in": list(keys)}}


def _distinct(keys: Iterable[Any]) -> tuple[Any, ...]:
    return tuple({key_bytes(key): key for key in keys}.values())


def _id(document: bytes) -> Any:
    return bson.decode(document, CODEC)["_id"]
