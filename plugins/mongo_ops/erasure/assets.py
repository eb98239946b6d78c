"""The product's own objects: where the keys in people's documents lead to, and what must not be touched. Removes nothing itself.

A key is data that somebody else wrote. It never leads out of the folder of the assets: not by ``..``, not by a link.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure.forms import Key, forms, key_of
from mongo_ops.erasure.model import DataMap, Identifier, Subject
from mongo_ops.erasure.paths import plain, reached
from mongo_ops.storage import Folder, is_local

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.holds import Holds
    from mongo_ops.mongo.documents import Document

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Asset:
    """An object of a person: whose, by which identifier, and its key. The key may name a person; it is never shown."""

    request_id: str
    identifier: Identifier
    key: Any


def assets_of(data_map: DataMap, subjects: Sequence[Subject]) -> Iterator[Asset]:
    """Yield the objects that people's identity closures name."""
    identifiers = [one for one in data_map.identifiers.values() if one.is_object]
    for subject in subjects:
        for identifier in identifiers:
            for key in subject.closure.get(identifier.name, ()):
                yield Asset(subject.request_id, identifier, key)


def place_of(assets: Folder, key: Any) -> Folder | None:
    """Return where a key leads to below the folder of the assets; None when it is no key, or leads out of it."""
    if not isinstance(key, str):
        return None
    segments = key.split("/")
    if any(one in ("", ".", "..") or "\\" in one or "\0" in one for one in segments):
        return None
    place = assets
    for one in segments:
        place = place / one
    if is_local(assets):
        top = Path(assets.path).resolve()
        if not Path(place.path).resolve().is_relative_to(top):
            return None
    return place


def held_keys(db: Database[Document], held: Holds, some: Sequence[Asset]) -> frozenset[Key]:
    """Return the keys that documents under a legal hold name: the object is part of what is held."""
    found: set[Key] = set()
    for identifier in {one.identifier.name: one.identifier for one in some}.values():
        free = held.exclusion(identifier.collection)
        if free is None:
            continue
        keys = (form for one in some if one.identifier == identifier for form in forms(identifier, one.key))
        path = plain(identifier.path)
        while chunk := list(islice(keys, CHUNK)):
            query = {"$and": [{path: {"$in": chunk}}, {"$nor": [free]}]}
            for document in db[identifier.collection].find(query, {path: 1}):
                found |= {key for value in reached(document, identifier.path) if (key := key_of(value)) is not None}
    return frozenset(found)
