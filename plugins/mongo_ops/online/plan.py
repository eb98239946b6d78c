"""What an online migration would do, what speaks against it, and the digest that an approval binds to. Reads only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson

from mongo_ops.migrations.operations import catalogue
from mongo_ops.mongo.documents import CODEC, digest
from mongo_ops.online import fence, names, rights
from mongo_ops.online.model import ENDED, Phase
from mongo_ops.online.shape import Shape, as_inserted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database

    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.model import OnlineMigration, SpecFile

SAMPLES = 100
ROUGH_RATE = 5000.0


@dataclass(frozen=True)
class OnlinePlan:
    """What would be done. ``digest`` binds name, program, environment, database and fence, not what was counted.

    ``stops`` are reasons why it cannot begin; ``warnings`` what a person should know.
    """

    name: str
    title: str
    checksum: str
    environment: str
    database: str
    collection: str
    mode: str
    phase: str
    documents: int
    bytes: int
    seconds: float
    fence: str
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    stops: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What a person approves."""
        bound = [self.name, self.checksum, self.environment, self.database, self.mode, self.fence]
        return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def make(target: Target, file: SpecFile) -> OnlinePlan:
    """Return the plan for a spec on an environment."""
    db, spec = target.db, file.migration
    state = db[names.STATES].find_one({"_id": file.name})
    held = fence.preflight(db, spec) if spec.ghost else None
    size = catalogue.storage(db, spec.collection)
    kind = (held.kind or "none") if held else "not needed"
    warnings = list(_warnings(db, spec, kind))
    return OnlinePlan(
        file.name, file.title, file.checksum, target.environment.name, target.database, spec.collection, spec.mode,
        str(state["phase"]) if state else "not started", int(size["count"]), int(size["size"]),
        round(size["count"] / ROUGH_RATE * (1 + spec.limits.nice), 1), str(kind), _steps(spec, str(kind)), tuple(warnings),
        tuple(_stops(db, file, state, held)),
    )  # fmt: skip


def definition_digest(db: Database[Document], name: str) -> str:
    """Return a digest of a collection's options and indexes, in normal form."""
    found = catalogue.collection(db, name)
    if found is None:
        return ""
    indexes = sorted((one.name, _form(catalogue.index_form(one.spec))) for one in catalogue.indexes(db, name))
    return hashlib.sha256(repr((_form(catalogue.options_form(found.options)), indexes)).encode()).hexdigest()


def _form(value: Document) -> str:
    return digest({"form": value})


def _steps(spec: OnlineMigration, kind: str) -> tuple[str, ...]:
    name = spec.collection
    if not spec.ghost:
        drop = f", then remove {', '.join(spec.contract.drop)}" if spec.contract.drop else ""
        strict = "set the strict validator" if spec.contract.validator is not None else "leave the validator"
        return (
            f"open the change stream on {name}, set the loose validator" if spec.validator else f"open the change stream on {name}",
            f"bring every document of {name} into the new form, in place and in chunks; keep right what old writers write",
            "verify byte for byte; wait for approval",
            f"contract: {strict}{drop}",
        )  # fmt: skip
    return (
        f"open the change stream, create {names.ghost(name)}",
        "copy every document in its new form, in chunks; replay what writers do",
        "verify byte for byte; wait for approval",
        f"cut over: refuse writes by {kind}, drain, verify what changed, swap the names, let writes go on",
        f"keep {names.old(name)} in step for {spec.soak_hours:g} h, so that a rollback loses nothing",
        f"contract: drop {names.old(name)}",
    )


def _stops(
    db: Database[Document], file: SpecFile, state: Document | None, held: fence.Preflight | None
) -> Iterator[str]:
    if state is not None and Phase(state["phase"]) not in ENDED:
        if state["checksum"] != file.checksum:
            yield f"{file.name} is under way with another checksum; put the file back as it was, or abort"
        return
    if state is not None and state["phase"] == Phase.DONE:
        yield f"{file.name} is done on this database"
    if held is not None and held.kind is None:
        yield held.why
    other = db[names.STATES].find_one(
        {
            "collection": file.migration.collection,
            "_id": {"$ne": file.name},
            "phase": {"$nin": [one.value for one in ENDED]},
        }
    )
    if other is not None:
        yield f"{other['_id']} is under way on {file.migration.collection}; end it first"
    yield from _collection_stops(db, file.migration)


def _collection_stops(db: Database[Document], spec: OnlineMigration) -> Iterator[str]:
    found = catalogue.collection(db, spec.collection)
    if found is None or found.type != "collection":
        yield f"{spec.collection} is {'not there' if found is None else f'a {found.type}'}; only a collection can be migrated"
        return
    if found.options.get("capped") and not spec.ghost:
        yield f"{spec.collection} is capped; only the ghost mode can change it"
    if spec.ghost and catalogue.collection(db, names.old(spec.collection)) is not None:
        yield f"{names.old(spec.collection)} is there already; look what it holds and rename or drop it"
    if spec.target.shard_key is not None and not rights.read(db).sharded:
        yield "a shard key needs a sharded cluster; this is a replica set"
    yield from _samples(db, spec)


def _warnings(db: Database[Document], spec: OnlineMigration, kind: str) -> Iterator[str]:
    if kind == "user_write_block":
        yield "during the cut-over, writes are refused in every database of the deployment"
    if kind == "gate":
        yield "the gate holds only if every writer asks it"
    if spec.ghost and not rights.read(db).anything:
        yield "readers may find no collection for some milliseconds during the swap (applyOps is not allowed)"
    if callable(spec.transform):
        yield "the transform is Python: every document passes through this process"


def _samples(db: Database[Document], spec: OnlineMigration) -> Iterator[str]:
    """Try the transform on some documents: can it be carried out, is it idempotent in place, does it keep _id?"""
    keys = [
        row["_id"] for row in db[spec.collection].aggregate([{"$sample": {"size": SAMPLES}}, {"$project": {"_id": 1}}])
    ]
    where = {"_id": {"$in": keys}}
    once = sorted(Shape(spec.transform).read(db, spec.collection, where, None))
    if not spec.ghost and not _idempotent(db, spec, where):
        yield "the transform is not idempotent: applied to its own result it changes documents again"
    before = {bson.encode({"": key}, codec_options=CODEC) for key in keys}
    after = {bson.encode({"": bson.decode(one, CODEC)["_id"]}, codec_options=CODEC) for one in once}
    if not spec.changes_id and not after <= before:
        yield "the transform changes _id; say changes_id=True (ghost mode only)"


def _idempotent(db: Database[Document], spec: OnlineMigration, where: Document) -> bool:
    """Say whether the transform changes its own results, seen at one moment: writers go on meanwhile."""
    with db.client.start_session(snapshot=True) as session:
        once = sorted(Shape(spec.transform).read(db, spec.collection, where, session))
        if callable(spec.transform):
            made = (spec.transform(bson.decode(one, CODEC)) for one in once)
            return once == sorted(as_inserted(bson.encode(one, codec_options=CODEC)) for one in made)
        stages: list[Any] = [dict(stage) for stage in spec.transform]
        return once == sorted(Shape([*stages, *stages]).read(db, spec.collection, where, session))
