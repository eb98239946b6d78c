"""What a database looks like at one moment: each collection's documents as a digest, and its definition. Compared later.

The documents' own digests are kept in the database itself (``ops_picture_*``), so that a comparison can name each document that
differs in bounded memory. For scratch and test databases only: it writes.
"""

from __future__ import annotations

import hashlib
import uuid as uuids
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bson import ObjectId

from mongo_ops.migrations.operations import catalogue
from mongo_ops.mongo.documents import Document, canonical, digest, set_digest

if TYPE_CHECKING:
    from pymongo.database import Database

AUDIT_LOG = "audit_log"
CHUNK = 500
CAP = 1_000
"""Documents named at most in one list."""


@dataclass(frozen=True)
class Face:
    """One collection: number of documents, their digest, the digest of its options and indexes, where the marks are."""

    count: int
    documents: str
    definition: str
    marks: str


@dataclass(frozen=True)
class Difference:
    """Where a collection is not as it was.

    ``kind`` is ``changed``, ``missing`` or ``extra`` (of ``count`` documents, the first of them in ``documents`` as
    :func:`shown`), or ``definition`` (options, validator or indexes).
    """

    collection: str
    kind: str
    count: int
    documents: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "definition":
            return f"{self.collection}: options, validator or indexes differ"
        return f"{self.collection}: {self.count:,} documents {self.kind}: {', '.join(self.documents[:10])}"


def shown(key: Any) -> str:
    """Return an ``_id`` for people: ObjectIds, UUIDs and integers as they are, anything else as a hash, for it may be personal.

    The hash is SHA-256 of the canonical ``{"_id": ...}``, 16 hex digits: equal keys look equal, and who has the key can find it.
    """
    if isinstance(key, ObjectId | UUID | int) and not isinstance(key, bool):
        return str(key)
    return f"sha256:{hashlib.sha256(canonical({'_id': key}).encode()).hexdigest()[:16]}"


def take(db: Database[Document], collections: Iterable[str] | None = None) -> Mapping[str, Face]:
    """Return what the collections look like now; all but our own when none are named. Absent and bare empty ones have no face."""
    there = {name for name in db.list_collection_names() if not name.startswith(("ops_", "system."))}
    wanted = there if collections is None else there.intersection(collections)
    faces = {name: _face(db, name) for name in sorted(wanted)}
    bare = _definition({}, ())
    return {name: face for name, face in faces.items() if face is not None and (face.count or face.definition != bare)}


def differences(
    db: Database[Document], before: Mapping[str, Face], after: Mapping[str, Face]
) -> tuple[Difference, ...]:
    """Return where two pictures of the same collections differ, document by document."""
    found: list[Difference] = []
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or one.definition != other.definition:
            found.append(Difference(name, "definition", 0))
        if (one.count, one.documents) != (other.count, other.documents) if one and other else True:
            found += _documents(db, name, one.marks if one else None, other.marks if other else None)
    return tuple(found)


def forget(db: Database[Document], *pictures: Mapping[str, Face]) -> None:
    """Drop the marks of pictures that nobody compares any more."""
    for name in {face.marks for picture in pictures for face in picture.values()}:
        db.drop_collection(name)


def _face(db: Database[Document], name: str) -> Face | None:
    listed = catalogue.collection(db, name)
    if listed is None or listed.type == "view":
        return None
    marks = f"ops_picture_{uuids.uuid4().hex[:16]}"
    where: Document = {"chain": {"$exists": False}} if name == AUDIT_LOG else {}  # the run's own entries come and go
    count, documents = set_digest(_marked(db, db[name].find(where), marks if listed.type == "collection" else None))
    return Face(
        count, documents, _definition(listed.options, [index.spec for index in catalogue.indexes(db, name)]), marks
    )


def _marked(db: Database[Document], documents: Iterable[Document], marks: str | None) -> Iterator[Document]:
    rest = iter(documents)
    while some := list(islice(rest, CHUNK)):
        if marks is not None:
            db[marks].insert_many([{"_id": one["_id"], "digest": digest(one)} for one in some], ordered=False)
        yield from some


def _definition(options: Mapping[str, Any], indexes: Sequence[Mapping[str, Any]]) -> str:
    by_name = {str(spec["name"]): catalogue.index_form(spec) for spec in indexes if spec["name"] != "_id_"}
    return digest({"options": catalogue.options_form(options), "indexes": dict(sorted(by_name.items()))})


def _documents(db: Database[Document], name: str, before: str | None, after: str | None) -> Iterator[Difference]:
    """Compare the marks of two moments: what is only in one of them, and what is in both with other content."""
    found: dict[str, tuple[int, list[str]]] = {}
    for kind, ours, theirs in (("missing", before, after), ("extra", after, before)):
        for some in _chunks(db, ours):
            there = _digests(db, theirs, [mark["_id"] for mark in some])
            for mark in some:
                other = there.get(canonical({"_id": mark["_id"]}))
                if other is None or (kind == "missing" and other != mark["digest"]):
                    count, keys = found.setdefault("changed" if other else kind, (0, []))
                    found["changed" if other else kind] = (
                        count + 1,
                        [*keys, shown(mark["_id"])] if count < CAP else keys,
                    )
    yield from (Difference(name, kind, count, tuple(keys)) for kind, (count, keys) in found.items())


def _chunks(db: Database[Document], marks: str | None) -> Iterator[list[Document]]:
    rest = iter(db[marks].find()) if marks else iter(())
    while some := list(islice(rest, CHUNK)):
        yield some


def _digests(db: Database[Document], marks: str | None, keys: list[Any]) -> dict[str, str]:
    rows = db[marks].find({"_id": {"$in": keys}}) if marks else ()
    return {canonical({"_id": row["_id"]}): row["digest"] for row in rows}
