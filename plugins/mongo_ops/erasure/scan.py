"""Walk the raw bytes of every collection of every database for traces of people. Reads only; knows no rule of the data map's.

It is the verification's own pair of eyes: it shares nothing with what deletes, and looks everywhere, keys of documents included, for
every encoding of every traced identifier. Memory: one batch of at most 16 MB.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Collection_
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import bson
from pymongo.errors import OperationFailure

from mongo_ops.erasure.identifiers import patterns
from mongo_ops.erasure.model import DataMap, Subject
from mongo_ops.erasure.needles import Found, Needles, is_long_enough
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.collection import Collection

BATCH_DOCUMENTS = 20_000
UNAUTHORIZED = 13
UNSEEN = frozenset({"local"})
"""Not scanned: the oplog holds every write for its window and cannot be erased from; the certificate says so."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """For whom a trace may not be where it is, and for whom it is there because of a legal hold; for the others it may stay."""

    residue: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()


Judge = Callable[[str, Document, str, str, frozenset[str]], Verdict]
"""Says whether a trace may be where it is: (namespace, document, path, identifier, request ids) -> verdict."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a pattern is."""

    request_id: str
    identifier: str


@dataclass
class Traces:
    """What a walk through one collection found.

    ``spots`` counts documents by (path, identifier), of traces that may not be there, ``offenders`` by request; ``allowed`` counts by
    request the traces that may stay, ``held`` are the requests with traces under a legal hold.
    """

    namespace: str
    documents: int = 0
    hits: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    held: set[str] = field(default_factory=set)
    by_request: Counter[str] = field(default_factory=Counter)
    spots: Counter[tuple[str, str]] = field(default_factory=Counter)
    offenders: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Place:
    """A collection to walk."""

    database: str
    collection: str

    @property
    def namespace(self) -> str:
        """Its full name."""
        return f"{self.database}.{self.collection}"


class Haystack:
    """All that is looked for, ready to walk collections with. ``traceable``: the requests of which there is anything to look for."""

    def __init__(self, data_map: DataMap, subjects: Iterable[Subject]) -> None:
        self._owners: defaultdict[bytes, list[tuple[Owner, frozenset[bytes]]]] = defaultdict(list)
        for subject in subjects:
            for name, values in subject.closure.items():
                if data_map.identifiers[name].trace:
                    self._add(Owner(subject.request_id, name), data_map, values)
        self._needles = Needles(self._owners)
        self.traceable = frozenset(owner.request_id for some in self._owners.values() for owner, _ in some)

    def _add(self, owner: Owner, data_map: DataMap, values: Iterable[Any]) -> None:
        for value in values:
            for pattern, exact in patterns(data_map.identifiers[owner.identifier], value).items():
                if is_long_enough(pattern):
                    self._owners[pattern].append((owner, exact))

    def owners(self, found: Found) -> frozenset[Owner]:
        """Return whose an occurrence is; nobody's when only its lower-case twin is looked for."""
        return frozenset(owner for owner, exact in self._owners[found.pattern] if not exact or found.exact in exact)

    def find(self, buffer: bytes) -> list[Found]:
        """Return every trace in a buffer of whole documents."""
        return self._needles.find(buffer)

    @property
    def longest(self) -> int:
        """The length of the longest pattern, in bytes."""
        return max(map(len, self._needles.patterns), default=0)

    def owners_in(self, document: bytes) -> frozenset[Owner]:
        """Return whose traces one raw document holds."""
        return frozenset(owner for found in self._needles.find(document) for owner in self.owners(found))

    def walk(
        self,
        collection: Collection[Document],
        judge: Judge | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        names: Collection_[str] | None = None,
    ) -> Traces:
        """Walk one collection.

        Args:
            collection: where.
            judge: opens and judges each document with traces; without one they are only counted.
            where: which documents; all by default.
            names: which identifiers; all that are traced by default.
        """
        traces = Traces(collection.full_name)
        for batch in cast(
            "Iterator[bytes]", collection.find_raw_batches(dict(where or {}), batch_size=BATCH_DOCUMENTS)
        ):
            hits = [(found, self.owners(found)) for found in self._needles.find(batch)]
            hits = [
                (found, whose) for found, whose in hits if any(names is None or o.identifier in names for o in whose)
            ]
            if hits:
                self._take(traces, batch, hits, judge)
        return traces

    def look(self, namespace: str, documents: bytes, judge: Judge) -> Traces:
        """Look through concatenated documents that lie elsewhere than in a collection, such as in a file."""
        traces = Traces(namespace)
        hits = [(found, self.owners(found)) for found in self.find(documents)]
        self._take(traces, documents, [(found, whose) for found, whose in hits if whose], judge)
        return traces

    def _take(
        self, traces: Traces, batch: bytes, hits: Sequence[tuple[Found, frozenset[Owner]]], judge: Judge | None
    ) -> None:
        starts = list(_starts(batch))
        held: defaultdict[int, list[tuple[Found, frozenset[Owner]]]] = defaultdict(list)
        for found, whose in hits:
            held[starts[bisect_right(starts, found.start) - 1]].append((found, whose))
        traces.hits += len(hits)
        traces.documents += len(held)
        for start, inside in held.items():
            traces.by_request.update({owner.request_id for _, whose in inside for owner in whose})
            if judge is not None:
                _open(traces, batch, start, inside, judge)


def _open(
    traces: Traces, batch: bytes, start: int, inside: Sequence[tuple[Found, frozenset[Owner]]], judge: Judge
) -> None:
    """Decode a document, say at which paths the traces are, and have each judged."""
    (length,) = struct.unpack_from("<i", batch, start)
    document = bson.decode(batch[start : start + length], CODEC)
    spots: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for found, whose in inside:
        for path in paths_of(document, found.exact):
            for owner in whose:
                spots[path, owner.identifier].add(owner.request_id)
    for (path, identifier), requests in spots.items():
        verdict = judge(traces.namespace, document, path, identifier, frozenset(requests))
        traces.allowed.update(requests - verdict.residue)
        traces.held |= verdict.held
        if verdict.residue:
            traces.spots[path, identifier] += 1
            traces.offenders.update(verdict.residue)


def paths_of(document: Mapping[str, Any], exact: bytes) -> tuple[str, ...]:
    """Return the paths under which bytes are stored; a key that holds them is named by its parent and ``{}``."""
    found: dict[str, None] = {}

    def look(value: Any, path: str) -> None:
        if exact not in bson.encode({"": value}, codec_options=CODEC):
            return
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if exact in key.encode():
                    found[f"{path}.{{}}" if path else "{}"] = None
                look(inner, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for inner in value:
                look(inner, f"{path}[]")
        else:
            found[path] = None

    look(document, "")
    return tuple(found) or ("?",)


def places(client: MongoClient[Document], own: str) -> tuple[list[Place], list[str]]:
    """Return every collection that can be walked, and sentences about what cannot. Views and buckets are read at their source."""
    blind: list[str] = []
    try:
        databases = [name for name in client.list_database_names() if name not in UNSEEN]
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise
        databases = [own]
        blind.append("Other databases were not scanned: the user may not list them (role `readAnyDatabase`).")
    found: list[Place] = []
    for database in databases:
        try:
            infos = list(client[database].list_collections())
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            blind.append(f"Database {database} was not scanned: the user may not read it.")
            continue
        found += [Place(database, info["name"]) for info in infos if _is_walked(database, info)]
    return sorted(found, key=lambda place: place.namespace), blind


def _is_walked(database: str, info: Mapping[str, Any]) -> bool:
    name = str(info["name"])
    if database == "config":  # the server's own, but for the images of documents before they changed
        return name == "system.preimages"
    return info["type"] != "view" and not name.startswith("system.")


def _starts(batch: bytes) -> Iterator[int]:
    position = 0
    while position < len(batch):
        yield position
        position += struct.unpack_from("<i", batch, position)[0]
