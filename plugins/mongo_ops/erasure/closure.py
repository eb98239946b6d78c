"""Resolve the identity closure: everything a person's identifiers lead to. Kept sealed, so that a retry never has to find it again.

After the first deletion the way from a person to the documents is gone; a closure that is looked up again would come out smaller and
call the rest done. So what a request was ever resolved to stays sealed in ``ops_erasure_closures`` until the request is complete, and
only grows. Never shows a value; writes only sealed ones.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from bson import Binary
from pymongo import UpdateOne

from mongo_ops.erasure import vault
from mongo_ops.erasure.forms import Index, Key, forms, index_of, key_of
from mongo_ops.erasure.graph import order
from mongo_ops.erasure.model import DataMap, Finding, Identifier, Subject, names_of
from mongo_ops.erasure.paths import plain, reached
from mongo_ops.erasure.selectors import filter_for, owners
from mongo_ops.mongo.documents import canonical

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.mongo.documents import Document

CLOSURES = "ops_erasure_closures"
CHUNK = 500
"""People looked up in one query."""


@dataclass(frozen=True)
class Resolution:
    """The people of a run with their closures, who has no document of their own, who shares values with others, what to know of it."""

    subjects: tuple[Subject, ...]
    rootless: frozenset[str]
    sharing: frozenset[str]
    findings: tuple[Finding, ...]


def resolve(db: Database[Document], data_map: DataMap, people: Sequence[Subject]) -> Resolution:
    """Look up what each person's identifiers lead to; reads only.

    Args:
        db: the environment's database.
        data_map: which identifiers there are, and where they are read from.
        people: each with at least the subject's own identifier; what is known already is kept and added to.
    """
    closures = {one.request_id: {name: list(values) for name, values in one.closure.items()} for one in people}
    findings: list[Finding] = []
    rootless: set[str] = set()
    sharing: set[str] = set()
    for identifier in order(data_map.identifiers, data_map.subject):
        for some in _chunks(people):
            if identifier.name == data_map.subject:
                rootless |= _without_root(db, identifier, some)
            else:
                findings += _look_up(db, data_map, identifier, some, closures, sharing)
    subjects = tuple(
        Subject(one.request_id, one.reference, {name: tuple(v) for name, v in closures[one.request_id].items()})
        for one in people
    )
    return Resolution(subjects, frozenset(rootless), frozenset(sharing), tuple(findings))


def _without_root(db: Database[Document], identifier: Identifier, people: Sequence[Subject]) -> set[str]:
    """Return the requests whose person has no document in the collection that is the person's own."""
    index = index_of(people, [identifier])
    path = plain(identifier.path)
    values = [form for one in people for value in one.closure[identifier.name] for form in forms(identifier, value)]
    found: set[str] = set()
    for document in db[identifier.collection].find({path: {"$in": values}}, {path: 1}):
        for value in reached(document, identifier.path):
            key = key_of(value)
            found |= index.get((identifier.name, key), set()) if key else set()
    return {one.request_id for one in people} - found


def _look_up(
    db: Database[Document],
    data_map: DataMap,
    identifier: Identifier,
    people: Sequence[Subject],
    closures: Mapping[str, dict[str, list[Any]]],
    sharing: set[str],
) -> list[Finding]:
    """Add an identifier's values to the closures; leave out what belongs to somebody else as well, and note whom that concerns."""
    so_far = [
        Subject(one.request_id, one.reference, {k: tuple(v) for k, v in closures[one.request_id].items()})
        for one in people
    ]
    merged = _merged(so_far)
    query = filter_for(identifier.where, merged, data_map.identifiers)
    if query is None:
        return []
    index = index_of(so_far, [data_map.identifiers[name] for name in names_of(identifier.where)])
    found: defaultdict[str, dict[Key, Any]] = defaultdict(dict)
    together: defaultdict[Key, set[frozenset[str]]] = defaultdict(set)
    for document in db[identifier.collection].find(query):
        whose = owners(document, identifier.where, index)
        for value in reached(document, identifier.path):
            key = key_of(value)
            if key is not None and forms(identifier, value):
                together[key].add(frozenset(whose))
                for request in whose:
                    found[request].setdefault(key, value)
    shared = _shared(db, identifier, found, together, index) if identifier.unique else set()
    for request, values in found.items():
        known = {key_of(value) for value in closures[request].get(identifier.name, ())}
        new = [value for key, value in values.items() if key not in known and key not in shared]
        closures[request].setdefault(identifier.name, []).extend(new)
    concerned = {request for request, values in found.items() if shared & values.keys()}
    sharing |= concerned
    if not shared:
        return []
    sentence = (
        f"{len(shared)} values of {identifier.name} belong to somebody else as well ({len(concerned)} requests concerned, which can only be "
        "partial). They are left out: what only they lead to is not touched. Look at these documents by hand."
    )
    return [Finding(f"identifier {identifier.name}", sentence)]


def _shared(
    db: Database[Document],
    identifier: Identifier,
    found: Mapping[str, Mapping[Key, Any]],
    together: Mapping[Key, set[frozenset[str]]],
    index: Index,
) -> set[Key]:
    """Return the values that stand in a document of one person and in another that is not that person's.

    A document of two people (one prompted for it, it is about the other's track) makes its values both's, not anybody else's.
    """
    shared = {key for key, groups in together.items() if len(groups) > 1}
    everything = [form for values in found.values() for value in values.values() for form in forms(identifier, value)]
    path = plain(identifier.path)
    for some in _chunks(everything):
        for document in db[identifier.collection].find({path: {"$in": list(some)}}):
            if not owners(document, identifier.where, index):
                keys = (key_of(value) for value in reached(document, identifier.path))
                shared |= {key for key in keys if key is not None and key in together}
    return shared


def keep(
    db: Database[Document],
    keyring: Keyring,
    subjects: Sequence[Subject],
    run: str,
    traces: Mapping[str, int],
    sharing: frozenset[str],
) -> None:
    """Keep closures, sealed, how many traces of each person the scan saw at most, who shares values with others, and in which runs.

    What was kept before is replaced: load it first and give it to ``resolve``.
    """
    for some in _chunks(subjects):
        writes = [
            UpdateOne(
                {"_id": one.request_id},
                {
                    "$set": {
                        "reference": one.reference,
                        "sealed": Binary(vault.seal(keyring, _packed(one))),
                        "shares": one.request_id in sharing,
                    },
                    "$max": {"traces": traces.get(one.request_id, 0)},
                    "$addToSet": {"runs": run},
                },
                upsert=True,
            )
            for one in some
        ]
        db[CLOSURES].bulk_write(writes, ordered=False)


def traces(db: Database[Document], requests: Sequence[str]) -> dict[str, int]:
    """Return how many traces of each person the scan has seen at most, before anything was erased."""
    found: dict[str, int] = {}
    for some in _chunks(requests):
        for document in db[CLOSURES].find({"_id": {"$in": list(some)}}, {"traces": 1}):
            found[document["_id"]] = int(document["traces"])
    return found


def sharing(db: Database[Document], requests: Sequence[str]) -> frozenset[str]:
    """Return the requests of people who share a value with somebody else."""
    found = (db[CLOSURES].find({"_id": {"$in": list(some)}, "shares": True}, {"_id": 1}) for some in _chunks(requests))
    return frozenset(document["_id"] for some in found for document in some)


def runs(db: Database[Document], requests: Sequence[str]) -> tuple[str, ...]:
    """Return the runs in which these people were planned since their requests were received, or were complete the last time."""
    found = (db[CLOSURES].distinct("runs", {"_id": {"$in": list(some)}}) for some in _chunks(requests))
    return tuple(sorted({run for some in found for run in some}))


def load(db: Database[Document], keyring: Keyring, requests: Sequence[str]) -> tuple[Subject, ...]:
    """Return the closures that were kept, opened, in the order of ``requests``; those without one are left out."""
    found: dict[str, Subject] = {}
    for some in _chunks(requests):
        for document in db[CLOSURES].find({"_id": {"$in": list(some)}}):
            opened = vault.open_(keyring, bytes(document["sealed"]))
            closure = {name: tuple(values) for name, values in opened["closure"].items()}
            found[document["_id"]] = Subject(document["_id"], document["reference"], closure)
    return tuple(found[request] for request in requests if request in found)


def forget(db: Database[Document], session: ClientSession, requests: Sequence[str]) -> None:
    """Delete the closures of completed requests."""
    db[CLOSURES].delete_many({"_id": {"$in": list(requests)}}, session=session)


def commitment(keyring: Keyring, subjects: Iterable[Subject]) -> str:
    """Return a keyed digest (64 hex digits) of all closures: the same people with the same identifiers, whatever the order."""
    total = 0
    key = keyring.newest("subject").secret
    for one in subjects:
        sorted_closure = {
            name: sorted(canonical({"": v}) for v in values) for name, values in one.closure.items() if values
        }
        text = canonical({"request": one.request_id, "closure": sorted_closure})
        total += int.from_bytes(hmac.digest(key, b"closure\0" + text.encode(), "sha256"))
    return hashlib.sha256(f"{total % 2**256:064x}".encode()).hexdigest()


def _packed(one: Subject) -> dict[str, Any]:
    return {"closure": {name: list(values) for name, values in one.closure.items()}}


def _merged(people: Iterable[Subject]) -> dict[str, list[Any]]:
    merged: defaultdict[str, list[Any]] = defaultdict(list)
    for one in people:
        for name, values in one.closure.items():
            merged[name].extend(values)
    return merged


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    rest = iter(items)
    while some := list(islice(rest, CHUNK)):
        yield some
