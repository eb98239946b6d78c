"""Build an index."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Fault, Operation, OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

BUILT_PER_SECOND = 150_000
"""Documents indexed per second; an assumption for estimates only."""
KINDS = frozenset({"text", "2d", "2dsphere", "hashed"})
IDENTITY = ("key", "collation", "partialFilterExpression", "unique", "sparse", "weights", "wildcardProjection")
"""The parts of a definition of which the server allows no second index under another name."""
LONGEST_TTL = 2**31 - 1
DUPLICATES_SHOWN = 1000


class Standing(enum.Enum):
    """How the catalogue stands to the wanted index."""

    NO_COLLECTION = "no collection"
    ABSENT = "absent"
    BUILDING = "building"
    THERE = "there"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class CreateIndex(Operation):
    """Build an index, and recognise it by its whole definition, not only by its name.

    A unique one is preceded by a search for duplicates, so that no build of hours ends in a refusal. An unfinished build of
    the same definition, left by a killed run, is joined. Undoing drops it unless it was there before.
    """

    collection: str
    keys: Sequence[tuple[str, int | str]]
    name: str | None = None
    unique: bool = False
    sparse: bool = False
    partial: Mapping[str, Any] | None = None
    ttl_seconds: int | None = None
    collation: Mapping[str, Any] | None = None
    weights: Mapping[str, int] | None = None
    default_language: str | None = None
    language_override: str | None = None
    wildcard_projection: Mapping[str, Any] | None = None
    hidden: bool = False
    commit_quorum: str | int = "votingMembers"

    @property
    def index_name(self) -> str:
        """The name: as given, else as the server's drivers make it."""
        return self.name or "_".join(f"{field}_{way}" for field, way in self.keys)

    def describe(self) -> str:
        """Say which index, with its options' names."""
        keys = ", ".join(f"{field}: {way}" for field, way in self.keys)
        said = [word for word, on in (("unique", self.unique), ("sparse", self.sparse), ("hidden", self.hidden)) if on]
        said += ["partial"] if self.partial is not None else []
        said += [f"documents expire after {self.ttl_seconds:,} s"] if self.ttl_seconds is not None else []
        said += [f"collation {self.collation.get('locale')}"] if self.collation else []
        return f"Build the index {self.index_name} of {self.collection} on {{{keys}}}" + (
            f": {', '.join(said)}" if said else ""
        )

    def writes(self) -> tuple[str, ...]:
        """The collection."""
        return (self.collection,)

    def spec(self) -> Document:
        """Return the definition for ``createIndexes``, the unset options left out."""
        ways = {way for _, way in self.keys}
        collation = self.collation or (catalogue.SIMPLE if ways & {"text", "2d"} else None)  # they allow no other
        made: Document = {
            "key": dict(self.keys),
            "name": self.index_name,
            "unique": self.unique or None,
            "sparse": self.sparse or None,
            "partialFilterExpression": self.partial,
            "expireAfterSeconds": self.ttl_seconds,
            "collation": collation,
            "weights": self.weights,
            "default_language": self.default_language,
            "language_override": self.language_override,
            "wildcardProjection": self.wildcard_projection,
            "hidden": self.hidden or None,
        }
        return {key: value for key, value in made.items() if value is not None}

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note whether an index of this name is there; one that a killed run was still building is not."""
        found = catalogue.indexes(db, self.collection)
        return {"existed": any(index.name == self.index_name and not index.building for index in found)}

    def forward(self, at: Bench) -> Counts:
        """Search for duplicates, then build it or join its unfinished build."""
        catalogue.check_names(self.collection)
        standing, text = self.standing(at.db)
        if standing in (Standing.CONFLICT, Standing.NO_COLLECTION):
            raise OperationError(text)
        if standing is not Standing.THERE:
            if standing is Standing.ABSENT and (stop := self._duplicates_stop(at.db)):
                raise OperationError(stop)
            at.check()
            command = {"createIndexes": self.collection, "indexes": [self.spec()], "commitQuorum": self.commit_quorum}
            catalogue.carry_out(at.db, command, self._subject())
        return catalogue.none_counted()

    def reverse(self, at: Bench) -> Counts:
        """Drop it unless it was there before."""
        existed = catalogue.fact(at.found, "existed", self._subject())
        standing, text = self.standing(at.db)
        if not existed and standing is Standing.CONFLICT and self._named(at.db):
            raise OperationError(f"{text} It is not the index this operation built; drop it by hand if it should go.")
        if not existed and standing in (Standing.THERE, Standing.BUILDING):
            at.check()
            catalogue.carry_out(at.db, {"dropIndexes": self.collection, "index": self.index_name}, self._subject())
        return catalogue.none_counted()

    def is_done(self, db: Database[Document]) -> bool | None:
        """It is there with this definition, and built."""
        return self.standing(db)[0] is Standing.THERE

    def is_undone(self, db: Database[Document]) -> bool | None:
        """There is none of this name; when there is, it may have been there before."""
        return None if self._named(db) else True

    def preview(self, db: Database[Document]) -> Preview:
        """Say how much has to be read, for how long, and what stands in the way."""
        standing, text = self.standing(db)
        if standing is Standing.NO_COLLECTION:
            return Preview(notes=(f"{self.collection} does not exist yet; an earlier operation has to create it.",))
        if standing is Standing.CONFLICT:
            return Preview(risk="high", stop=text)
        if standing is Standing.THERE:
            return Preview(notes=(f"{self._subject()} is already there.",))
        held = catalogue.storage(db, self.collection)
        notes = [
            f"The build reads {held['count']:,} documents ({held['size']:,} bytes); reads and writes go on meanwhile."
        ]
        if standing is Standing.BUILDING:
            notes.append(f"{self._subject()} is being built already; that build is joined.")
        if self.ttl_seconds is not None:
            notes.append(
                f"Documents older than {self.ttl_seconds:,} s are removed as soon as it is built, and no snapshot is taken."
            )
        stop = self._duplicates_stop(db)
        seconds = held["count"] / BUILT_PER_SECOND
        risk = "high" if stop or self.ttl_seconds is not None else "medium" if seconds > 60 else "low"  # noqa: PLR2004
        return Preview(
            scanned=held["count"], seconds=seconds, scan=held["count"] > 0, risk=risk, notes=tuple(notes), stop=stop
        )

    def lint(self) -> Iterable[Fault]:
        """Check what the server would refuse, and what it would take but no one would want."""
        yield from catalogue.name_faults(self.collection)
        yield from (Fault("MO205", text) for text in self._key_faults())
        yield from (Fault("MO207", text) for text in self._impossible())
        if self.unique and self.sparse and len(self.keys) > 1:
            yield Fault(
                "MO202", f"{self.index_name} is unique, sparse and compound: missing fields count as null; use partial"
            )
        if self.ttl_seconds is not None and (len(self.keys) != 1 or self.keys[0][0] == "_id"):
            yield Fault("MO204", f"{self.index_name}: a TTL index has exactly one key, which is not _id")
        if self._is_text() and self.default_language is None:
            yield Fault("MO206", f"{self.index_name}: name default_language (english is assumed; 'none' stems nothing)")

    def _key_faults(self) -> Iterator[str]:
        if not self.keys:
            yield "the index has no keys"
        for field, way in self.keys:
            if isinstance(way, bool) or way not in (1, -1, *KINDS):
                yield f"{field}: direction {way!r} is none of 1, -1, {', '.join(sorted(KINDS))}"
        if len({field for field, _ in self.keys}) != len(self.keys):
            yield f"{self.index_name} names a field twice"

    def _impossible(self) -> Iterator[str]:
        wildcard = any(field.endswith("$**") for field, _ in self.keys)
        if self.sparse and self.partial is not None:
            yield f"{self.index_name}: sparse and partial exclude each other"
        if self.unique and (wildcard or any(way in ("text", "hashed") for _, way in self.keys)):
            yield f"{self.index_name}: this kind of index cannot be unique"
        if not self._is_text() and (self.weights or self.default_language or self.language_override):
            yield f"{self.index_name}: weights and languages belong to text indexes"
        if self.wildcard_projection and not wildcard:
            yield f"{self.index_name}: wildcard_projection belongs to the key $**"
        if self.ttl_seconds is not None and not 0 <= self.ttl_seconds <= LONGEST_TTL:
            yield f"{self.index_name}: ttl_seconds must be between 0 and {LONGEST_TTL:,}"

    def standing(self, db: Database[Document]) -> tuple[Standing, str]:
        """Compare the wanted index with the catalogue; the text says what is in the way."""
        listed = catalogue.collection(db, self.collection)
        if listed is None:
            return Standing.NO_COLLECTION, f"{self.collection} does not exist. Create it first (CreateCollection)."
        wanted = self._form(db, listed)
        for index in catalogue.indexes(db, self.collection):
            form = catalogue.index_form(index.spec)
            if index.name == self.index_name:
                found = list(catalogue.differences(wanted, form))
                if found:
                    return (
                        Standing.CONFLICT,
                        f"{self._subject()} exists with another definition: {catalogue.told(found)}.",
                    )
                return (Standing.BUILDING if index.building else Standing.THERE), ""
            if all(catalogue.same(wanted.get(part), form.get(part)) for part in IDENTITY):
                return Standing.CONFLICT, f"{self.collection} has this index already, under the name {index.name}."
        return Standing.ABSENT, ""

    def _form(self, db: Database[Document], listed: catalogue.Listed) -> Document:
        spec = self.spec()
        if "collation" in spec:
            spec["collation"] = catalogue.full_collation(db, spec["collation"])
        else:
            spec["collation"] = listed.options.get("collation")  # inherited
        return catalogue.index_form(spec)

    def _named(self, db: Database[Document]) -> bool:
        return any(index.name == self.index_name for index in catalogue.indexes(db, self.collection))

    def _is_text(self) -> bool:
        return any(way == "text" for _, way in self.keys)

    def _subject(self) -> str:
        return f"The index {self.index_name} of {self.collection}"

    def _duplicates_stop(self, db: Database[Document]) -> str | None:
        """Return why a unique index cannot be built, or None."""
        count = self.duplicates(db)
        if not count:
            return None
        more = " or more" if count > DUPLICATES_SHOWN else ""
        return (
            f"{self._subject()} cannot be unique: {min(count, DUPLICATES_SHOWN):,}{more} keys occur in more than one document. "
            "Make them distinct first; find them by grouping on the index's keys."
        )

    def duplicates(self, db: Database[Document]) -> int:
        """Count keys that occur in several documents, at most ``DUPLICATES_SHOWN`` + 1 of them.

        0 when the index is not unique, and for kinds and positional paths whose keys only the server can make.
        """
        parts = {part for field, _ in self.keys for part in field.split(".")}
        if not self.unique or any(way in KINDS for _, way in self.keys) or any(p.isdigit() or "$" in p for p in parts):
            return 0
        options: dict[str, Any] = {"collation": dict(self.collation)} if self.collation else {}
        pipeline = duplicates_pipeline([field for field, _ in self.keys], self.partial, sparse=self.sparse)
        rows = db[self.collection].aggregate(pipeline, allowDiskUse=True, **options)
        return next((int(row["keys"]) for row in rows), 0)


def duplicates_pipeline(fields: Sequence[str], partial: Mapping[str, Any] | None, *, sparse: bool) -> list[Document]:
    """Return the aggregation that counts keys held by several documents, the way the server makes keys of documents.

    Arrays give one key per element, on every level of a path; an empty array gives a key of its own, apart from null; a
    missing field gives null; a key repeated within one document is no duplicate. Compared as the collation says. Where
    string ids differ only in what the collation ignores, a duplicate can be missed; the build then has the last word.
    """
    empty = {field: f"ops_empty_{place}" for place, field in enumerate(fields)}
    stages: list[Document] = [{"$match": dict(partial)}] if partial else []
    prefixes = {".".join(field.split(".")[: depth + 1]) for field in fields for depth in range(field.count(".") + 1)}
    for path in sorted(prefixes, key=lambda path: path.count(".")):
        if path in empty:
            stages.append({"$set": {empty[path]: {"$eq": [f"${path}", []]}}})
        stages.append({"$unwind": {"path": f"${path}", "preserveNullAndEmptyArrays": True}})
    if sparse:
        stages.append(
            {
                "$match": {
                    "$or": [part for field in fields for part in ({field: {"$exists": True}}, {empty[field]: True})]
                }
            }
        )
    key = {f"k{place}": [{"$ifNull": [f"${field}", None]}, f"${empty[field]}"] for place, field in enumerate(fields)}
    stages.append({"$group": {"_id": key, "first": {"$min": "$_id"}, "last": {"$max": "$_id"}}})
    return [
        *stages,
        {"$match": {"$expr": {"$ne": ["$first", "$last"]}}},
        {"$limit": DUPLICATES_SHOWN + 1},
        {"$count": "keys"},
    ]
