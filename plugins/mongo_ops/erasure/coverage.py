"""Find what the data map does not name: collections, paths and values of a real database. Reads only, with bounded memory.

Not named is not allowed: a new field with somebody's id in it must turn a check red before it outlives an erasure. A finding names
places and never holds a value. What it cannot see: a field that none of the looked-at documents has and no validator names, and
identifiers that are small integers, which look like any other number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from mongo_ops.erasure.census import Census, Seen, schema_paths
from mongo_ops.erasure.forms import Key, forms, key_of
from mongo_ops.erasure.model import CollectionEntry, DataMap, Identifier, Waiver
from mongo_ops.erasure.paths import knows, plain, reached
from mongo_ops.erasure.selectors import conditions

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

SAMPLES = 200
"""Documents looked at in each of three ways: at random, the oldest, the newest."""

PATHS_NAMED = 50
"""Findings per collection; the rest is counted."""

BEFORE_IMAGES = "ops_before_"
COPIES = ("ops_ghost_", "ops_old_", "ops_ids_", "ops_keys_")
"""An online migration keeps these in step with a collection, erased documents included."""

OWN = frozenset(
    {
        *("ops_migrations", "ops_history", "ops_leases", "ops_checkpoints", "ops_audit_head", "ops_health"),
        *("ops_transfers", "ops_rejects", "ops_legal_holds", "ops_partitions"),
        *("ops_online", "ops_online_marks", "ops_online_gates"),
        *(
            "ops_erasure_requests",
            "ops_erasure_batches",
            "ops_erasure_closures",
            "ops_erasure_runs",
            "ops_erasure_results",
        ),
        *("ops_erasure_certificates", "ops_erasure_ledger", "ops_erasure_suppressions", "ops_erasure_keys"),
        "ops_erasure_notices",
    }
)
"""This package's own collections. They hold references, digests and sealed values; the residual scan walks them all the same."""

Kind = Literal["collection", "path", "value", "waiver"]


@dataclass(frozen=True, slots=True)
class CoverageFinding:
    """One gap: ``where`` is a collection, or ``collection.path``; ``sentence`` says what is there and what to do."""

    kind: Kind
    where: str
    sentence: str


def coverage(
    db: Database[Document], data_map: DataMap, samples: int = SAMPLES, today: date | None = None
) -> list[CoverageFinding]:
    """Compare a database with the data map.

    Args:
        db: the environment's database.
        data_map: what is named.
        samples: how many documents of a collection to look at, at random, from the oldest and from the newest.
        today: the day on which waivers are judged; today (UTC) by default.

    Returns:
        What is not named, collections in order of their names; empty when everything is.
    """
    day = (today or datetime.now(UTC).date()).isoformat()
    waivers = [one for one in data_map.waivers if one.until >= day]
    found = [_expired(one) for one in data_map.waivers if one.until < day]
    known = _Known(db, data_map)
    if not any(entry.rules for name, entry in data_map.collections.items() if fnmatchcase(f"{BEFORE_IMAGES}1", name)):
        found.append(
            _unnamed(f"{BEFORE_IMAGES}*", "has no rule in the data map, and migrations keep copies of documents there")
        )
    for info in sorted(db.list_collections(), key=lambda info: str(info["name"])):
        name = str(info["name"])
        if info["type"] == "view" or name.startswith("system.") or name in OWN:
            continue
        entry = entry_of(data_map, original_of(name))
        if entry is None:
            if not _waived(waivers, name):
                found.append(_unnamed(name, "is not in the data map"))
        else:
            found += _of_collection(db, name, entry, info.get("options", {}), known, waivers, samples)
    return found


def original_of(name: str) -> str:
    """Return the collection that an online migration's copy is of; any other name as it is."""
    return next((name.removeprefix(copy) for copy in COPIES if name.startswith(copy)), name)


def entry_of(data_map: DataMap, name: str) -> CollectionEntry | None:
    """Return what the map says of a collection: by its name, or by the longest name with ``*`` that fits."""
    if name in data_map.collections:
        return data_map.collections[name]
    fitting = [one for one in data_map.collections if one.endswith("*") and fnmatchcase(name, one)]
    return data_map.collections[max(fitting, key=len)] if fitting else None


def _of_collection(
    db: Database[Document],
    name: str,
    entry: CollectionEntry,
    options: Mapping[str, Any],
    known: _Known,
    waivers: list[Waiver],
    samples: int,
) -> Iterator[CoverageFinding]:
    census = Census(entry.fields)
    for document in _documents(db, name, samples):
        census.add(document)
    waived = [path for path in census.seen if _waived(waivers, f"{name}.{path}")]
    seen = {path: one for path, one in census.seen.items() if path not in waived}
    promised = schema_paths(options.get("validator", {}).get("$jsonSchema"))
    missing = dict.fromkeys(path for path, one in seen.items() if not one.classified)
    missing |= dict.fromkeys(
        path for path in promised if not knows(entry.fields, path) and not _waived(waivers, f"{name}.{path}")
    )
    whose = known.among(seen)
    for path in list(missing)[:PATHS_NAMED]:
        held = _held(seen.get(path), whose.get(path))
        how_often = (
            f"in {seen[path].documents:,} of the documents looked at" if path in seen else "named by the validator"
        )
        yield CoverageFinding(
            "path", f"{name}.{path}", f"{name}.{path} is not in the data map ({how_often}{held}). Classify it."
        )
    if len(missing) > PATHS_NAMED:
        yield CoverageFinding(
            "path", name, f"{name} has {len(missing) - PATHS_NAMED:,} more paths that are not in the data map."
        )
    for path, one in seen.items():
        held = _held(one, whose.get(path))
        if path not in missing and held:
            sentence = f"{name}.{path} is `system` in the data map{held}. Classify it and give it a rule."
            yield CoverageFinding("value", f"{name}.{path}", sentence)


def _documents(db: Database[Document], name: str, samples: int) -> Iterator[Document]:
    yield from db[name].aggregate([{"$sample": {"size": samples}}])
    for direction in (1, -1):
        yield from db[name].find().sort("_id", direction).limit(samples)


def _held(seen: Seen | None, identifiers: Iterable[str] | None) -> str:
    """Say what personal values a path has, without any of them."""
    found = ["e-mail addresses"] if seen is not None and seen.emails else []
    found += [f"values of {name}" for name in sorted(identifiers or ())]
    return f", and holds {' and '.join(found)}" if found else ""


class _Known:
    """Looks values up among the traced identifiers of everybody, where an index leads to them."""

    def __init__(self, db: Database[Document], data_map: DataMap) -> None:
        self._db = db
        self._identifiers = [one for one in data_map.traced if set(one.types) != {"int"} and self._is_quick(one)]

    def among(self, seen: Mapping[str, Seen]) -> dict[str, set[str]]:
        """Return which paths hold whose values: path -> names of identifiers."""
        found: dict[str, set[str]] = {}
        for identifier in self._identifiers:
            asked: dict[Key, Any] = {}
            for one in seen.values():
                for value in one.values.values():
                    asked |= {key: form for form in forms(identifier, value) if (key := key_of(form)) is not None}
            theirs = self._stored(identifier, list(asked.values())) if asked else set()
            for path, one in seen.items():
                if any(key_of(form) in theirs for value in one.values.values() for form in forms(identifier, value)):
                    found.setdefault(path, set()).add(identifier.name)
        return found

    def _stored(self, identifier: Identifier, values: list[Any]) -> set[Key]:
        """Return which of the values some person really has, in all their forms."""
        path = plain(identifier.path)
        demanded = {name: one for name, one in identifier.where.items() if name != "any"} if identifier.where else {}
        query = {"$and": [{path: {"$in": values}}, conditions(demanded) if demanded else {}]}
        return {
            key
            for document in self._db[identifier.collection].find(query, {path: 1})
            for value in reached(document, identifier.path)
            for form in forms(identifier, value)
            if (key := key_of(form)) is not None
        }

    def _is_quick(self, identifier: Identifier) -> bool:
        path = plain(identifier.path)
        if identifier.collection not in self._db.list_collection_names(filter={"name": identifier.collection}):
            return False
        indexes = self._db[identifier.collection].list_indexes()
        return any(next(iter(one["key"])) == path and "collation" not in one for one in indexes)


def _waived(waivers: Iterable[Waiver], place: str) -> bool:
    return any(fnmatchcase(place, one.path.replace("[", "[[]")) for one in waivers)


def _expired(one: Waiver) -> CoverageFinding:
    sentence = f"The waiver of {one.path} ended on {one.until}. Classify what it covers, or have {one.owner} renew it."
    return CoverageFinding("waiver", one.path, sentence)


def _unnamed(name: str, what: str) -> CoverageFinding:
    return CoverageFinding(
        "collection", name, f"{name} {what}. Add it with its fields and rules, or a waiver with a day."
    )
