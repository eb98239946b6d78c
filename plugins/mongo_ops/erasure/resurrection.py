"""Recognise what was erased and is there again, by the tombstones. Reads only, and knows nobody's identity beforehand.

Walks the paths at which the data map says that identifiers stand, hashes each value with the tombstone key and compares. A restore or
an import that nobody told of is found like this. Not taken for a return: what a rule of the map keeps (`retain`), a request that is
not finished yet, and a person who comes back as a new customer with the address they had before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure import register, tombstones
from mongo_ops.erasure.forms import Key, forms, key_of
from mongo_ops.erasure.model import DataMap, Identifier, Rule, State
from mongo_ops.erasure.paths import ELEMENTS, joined, named, opened, plain, reached, steps
from mongo_ops.erasure.references import NoReferenceError
from mongo_ops.erasure.selectors import applies, branches, identifier_of, is_anywhere
from mongo_ops.erasure.survey import means

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.erasure.tombstones import Tombstones
    from mongo_ops.mongo.documents import Document
    from mongo_ops.storage import Folder

FINISHED = frozenset({State.COMPLETED, State.COMPLETED_WITH_RETENTION, State.CLOSED})
REMEMBERED = 100_000
"""Values whose answer is remembered: the same person stands in many documents."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A path at which values of an identifier stand; a path ending in ``{name}`` means keys."""

    path: str
    identifier: str


@dataclass(frozen=True, slots=True)
class Returned:
    """An erased value that is there again: whose, by which request it was erased, which identifier, and the value itself (never shown)."""

    request_id: str
    reference: str
    identifier: str
    value: Any = field(repr=False)
    spot: str = ""


@dataclass
class Seen:
    """What a walk found: hits by (collection, path, identifier), the values by request, and how many documents were looked at.

    ``values``: (request id, reference) -> identifier -> values; ``where``: the same -> collections.
    """

    documents: int = 0
    hits: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    values: dict[tuple[str, str], dict[str, dict[Key, Any]]] = field(default_factory=dict)
    where: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.hits:
            return f"Nothing that was erased is there again ({self.documents:,} documents looked at)."
        where = ", ".join(
            f"{name}.{path}: {number:,} documents with {identifier}"
            for (name, path, identifier), number in sorted(self.hits.items())
        )
        return f"What was erased for {len(self.values):,} people is there again: {where}. Run `mongo-ops erase replay`."


class Recogniser:
    """Answers which erased people a document holds values of."""

    def __init__(self, db: Database[Document], data_map: DataMap, keyring: Keyring, stones: Tombstones) -> None:
        """Gather.

        Args:
            db: the environment's database, asked for requests and for accounts of today.
            data_map: where identifiers stand.
            keyring: needs `tombstone`, with the keys of all epochs of the stones.
            stones: from ``tombstones.load``.
        """
        self._db, self._map, self._keyring, self._stones = db, data_map, keyring, stones
        self._known: dict[str, tuple[Spot, ...]] = {}
        self._ask = lru_cache(REMEMBERED)(self._asked)
        self._is_finished = lru_cache(REMEMBERED)(self._asked_finished)
        self._lives = lru_cache(REMEMBERED)(self._asked_lives)

    def spots(self, collection: str) -> tuple[Spot, ...]:
        """Return where identifiers of which tombstones are made stand in a collection, by the map."""
        if collection not in self._known:
            found = {spot: None for rule in self._map.rules if means(rule, collection) for spot in _spots_of(rule)}
            sources = (one for one in self._map.identifiers.values() if one.collection == collection)
            found |= {Spot(one.path, one.name): None for one in sources}
            self._known[collection] = tuple(one for one in found if _is_marked(self._map.identifiers[one.identifier]))
        return self._known[collection]

    def returned(self, collection: str, document: Mapping[str, Any]) -> list[Returned]:
        """Return the erased values that a document of a collection holds where none may be."""
        found = []
        for spot in self.spots(collection):
            for value in _values(document, spot.path):
                hit = self._hit(spot.identifier, value)
                if hit is not None and not self._is_justified(collection, document, spot, value):
                    found.append(Returned(hit[1], hit[0], spot.identifier, value, spot.path))
        return found

    def _hit(self, identifier: str, value: Any) -> tuple[str, str] | None:
        key = key_of(value)
        if key is None or not forms(self._map.identifiers[identifier], value):
            return None
        hit = self._ask(identifier, _Kept(key, value))
        return hit if hit is not None and self._is_finished(hit[1]) else None

    def _asked(self, identifier: str, kept: _Kept) -> tuple[str, str] | None:
        try:
            return self._stones.request_of(self._keyring, identifier, kept.value)
        except NoReferenceError:
            return None

    def _asked_finished(self, request_id: str) -> bool:
        """Say whether a request is finished. One that the database does not know any more was: its tombstones say so."""
        known = self._db[register.REQUESTS].find_one({"_id": request_id}, {"state": 1})
        return known is None or State(known["state"]) in FINISHED

    def _is_justified(self, collection: str, document: Mapping[str, Any], spot: Spot, value: Any) -> bool:
        for rule in self._retaining:
            if means(rule, collection) and spot in _spots_of(rule) and applies(document, rule.select):
                return True
        identifier = self._map.identifiers[spot.identifier]
        return self._is_own(identifier) and self._lives_again(identifier, collection, document, value)

    def _is_own(self, identifier: Identifier) -> bool:
        """Say whether an identifier is something that the account of a person says of them (an address), not its key."""
        subject = self._map.identifiers[self._map.subject]
        return identifier.name != subject.name and identifier.collection == subject.collection

    def _lives_again(self, identifier: Identifier, collection: str, document: Mapping[str, Any], value: Any) -> bool:
        """Say whether the value belongs to an account of today: one whose own key was never erased."""
        if collection == identifier.collection:
            return self._is_of_today(document)
        key = key_of(value)
        return key is not None and self._lives(identifier.name, _Kept(key, value))

    def _asked_lives(self, name: str, kept: _Kept) -> bool:
        identifier = self._map.identifiers[name]
        path = plain(identifier.path)
        found = self._db[identifier.collection].find({path: {"$in": list(forms(identifier, kept.value))}})
        return any(map(self._is_of_today, found))

    def _is_of_today(self, account: Mapping[str, Any]) -> bool:
        subject = self._map.identifiers[self._map.subject]
        keys = [one for one in reached(account, subject.path) if key_of(one) is not None]
        return bool(keys) and all(self._hit(subject.name, one) is None for one in keys)

    @cached_property
    def _retaining(self) -> tuple[Rule, ...]:
        return tuple(one for one in self._map.rules if one.action == "retain" and not one.changes)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A value past a cache, told apart from others by its key alone: 1 and True are one to Python, and two to MongoDB."""

    key: Key
    value: Any = field(compare=False, hash=False)


def recogniser(db: Database[Document], data_map: DataMap, keyring: Keyring, storage: Folder) -> Recogniser | None:
    """Return what recognises erased people by the tombstones of an environment's storage; None when nobody was ever erased.

    Raises:
        TombstonesDamagedError, KeyMissingError: nobody can say what was erased.
    """
    stones = tombstones.load(tombstones.at(storage))
    if not len(stones):
        return None
    for epoch in stones.epochs:
        keyring.of_epoch("tombstone", epoch)
    return Recogniser(db, data_map, keyring, stones)


def scan(db: Database[Document], data_map: DataMap, keyring: Keyring, storage: Folder) -> Seen:
    """Walk every mapped path of every collection; memory grows with what has come back only.

    Raises:
        TombstonesDamagedError, KeyMissingError: nobody can say what was erased.
    """
    seen, asked = Seen(), recogniser(db, data_map, keyring, storage)
    if asked is None:
        return seen
    for info in sorted(db.list_collections(), key=lambda one: str(one["name"])):
        name = str(info["name"])
        if info["type"] != "view" and not name.startswith("system.") and asked.spots(name):
            _walk(db, asked, name, _shown(data_map, asked.spots(name), name), seen)
    return seen


def _walk(db: Database[Document], asked: Recogniser, name: str, shown: Mapping[str, int], seen: Seen) -> None:
    for document in db[name].find({}, shown):
        seen.documents += 1
        met: set[tuple[str, str, str]] = set()
        for one in asked.returned(name, document):
            met.add((name, one.spot, one.identifier))
            person = (one.request_id, one.reference)
            seen.where.setdefault(person, set()).add(name)
            values = seen.values.setdefault(person, {}).setdefault(one.identifier, {})
            key = key_of(one.value)
            if key is not None:
                values.setdefault(key, one.value)
        seen.hits.update(met)


def _shown(data_map: DataMap, spots: Sequence[Spot], name: str) -> dict[str, int]:
    """Return the top-level fields to read: where identifiers stand, and by which rules judge."""
    paths = {spot.path for spot in spots}
    for rule in data_map.rules:
        if means(rule, name):
            paths |= {path for branch in branches(rule.select) for path in branch if path != "anywhere"}
    subject = data_map.identifiers[data_map.subject]
    paths |= {subject.path} if subject.collection == name else set()
    return {"_id": 1} | {steps(path)[0]: 1 for path in paths}


def _is_marked(identifier: Identifier) -> bool:
    """Say whether tombstones are made of an identifier: of what is a person's own, not of what stays."""
    return identifier.trace and not identifier.remains


def _spots_of(rule: Rule) -> frozenset[Spot]:
    if is_anywhere(rule.select):
        return frozenset()
    pairs = (
        (path, identifier_of(path, condition)) for branch in branches(rule.select) for path, condition in branch.items()
    )
    return frozenset(Spot(path, name) for path, name in pairs if name is not None)


def _values(document: Mapping[str, Any], path: str) -> Iterator[Any]:
    """Yield the values at a path; the keys, where its last step stands for keys."""
    parts = steps(path)
    if named(parts[-1]) is None:
        yield from reached(document, path.removesuffix(ELEMENTS))
        return
    holders = reached(document, joined(parts[:-1])) if parts[:-1] else (document,)
    for holder in holders:
        inner = opened(holder)
        if isinstance(inner, Mapping):
            yield from inner
