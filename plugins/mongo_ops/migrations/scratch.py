"""A scratch database beside the real one: made, filled with a sample, and dropped again whatever happens.

Its client refuses every write outside of it on the wire, so that no operation, not even a raw command, reaches the real database.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.monitoring import CommandListener

from mongo_ops.errors import PlanError
from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.picture import AUDIT_LOG
from mongo_ops.mongo.connection import connect
from mongo_ops.mongo.guard import READS, WriteRefusedError
from mongo_ops.mongo.lease import LEASES, Holder, acquire

if TYPE_CHECKING:
    from bson.codec_options import CodecOptions
    from pymongo import MongoClient
    from pymongo.collection import Collection
    from pymongo.database import Database
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from mongo_ops.mongo.connection import ConnectionSpec, Target
    from mongo_ops.mongo.documents import Document
    from mongo_ops.settings import Environment

RESOURCE = "rehearsal"
LONGEST_NAME = 63
CHUNK, CHUNK_BYTES = 200, 8_000_000
LEFT_BEHIND_SECONDS = 600
DUPLICATE_KEY = 11000
TRANSACTION_ENDS = frozenset({"commitTransaction", "abortTransaction"})
log = logging.getLogger(__name__)


class ScratchRefusedError(PlanError):
    """The user may not make a scratch database."""


class ScratchGuard(CommandListener):
    """Refuses every write outside of the databases whose name begins with ``prefix``, before it is sent."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def started(self, event: CommandStartedEvent) -> None:
        """Raise instead of letting a foreign write leave the process."""
        command: Mapping[str, Any] = event.command
        name = event.command_name
        inside = event.database_name.startswith(self.prefix)
        if name == "renameCollection":
            inside = all(str(command.get(end, "")).startswith(self.prefix) for end in ("renameCollection", "to"))
        elif name in READS | TRANSACTION_ENDS:
            inside = inside or not any(stage in ("$out", "$merge") for stage in _stages(command))
        if not inside or not all(database.startswith(self.prefix) for database in _named_databases(command)):
            raise WriteRefusedError(name, f"another database ({event.database_name})")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to refuse any more."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to refuse any more."""


def _stages(command: Mapping[str, Any]) -> Iterator[str]:
    for stage in command.get("pipeline", ()):
        yield from stage if isinstance(stage, Mapping) else ()


def _named_databases(command: Mapping[str, Any]) -> Iterator[str]:
    """Yield the databases that ``$out``, ``$merge`` or a map-reduce name themselves."""
    targets = [stage.get("$out") for stage in command.get("pipeline", ()) if isinstance(stage, Mapping)]
    merges = [
        stage["$merge"] for stage in command.get("pipeline", ()) if isinstance(stage, Mapping) and "$merge" in stage
    ]
    targets += [merge.get("into") for merge in merges if isinstance(merge, Mapping)]
    for target in [*targets, command.get("out")]:
        if isinstance(target, Mapping) and isinstance(target.get("db"), str):
            yield target["db"]


@contextmanager
def opened(spec: ConnectionSpec, environment: Environment, database: str) -> Iterator[tuple[Target, Target]]:
    """Yield (scratch, trial): two databases of the same deployment that are dropped in the end, also after SIGTERM.

    Raises:
        ScratchRefusedError: the user may not make them.
    """
    name = f"{_stem(database)}{secrets.token_hex(4)}"
    there = dataclasses.replace(environment, database=name, budget=None)
    with connect(spec, there, listeners=(ScratchGuard(_stem(database)),)) as scratch:
        trial = dataclasses.replace(scratch, database=f"{name}_trial")
        with _stopping():
            try:
                with _taken(scratch, spec):
                    yield scratch, trial
            finally:
                for target in (trial, scratch):
                    scratch.client.drop_database(target.database)


def _stem(database: str) -> str:
    return f"{database[: LONGEST_NAME - 25]}_rehearsal_"


@contextmanager
def _taken(scratch: Target, spec: ConnectionSpec) -> Iterator[None]:
    """Mark the scratch database as in use; the mark lapses when this process is killed."""
    try:
        scratch.db.create_collection(LEASES)
    except OperationFailure as error:
        raise ScratchRefusedError(
            f"The user of connection {spec.conn_id} may not make the scratch database {scratch.database} (code {error.code}). "
            "Grant it readWriteAnyDatabase and dbAdminAnyDatabase, or rehearse on another deployment."
        ) from None
    with acquire(scratch.db, RESOURCE, Holder(scratch.database)):
        yield


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn SIGTERM into an exit that unwinds, where it would end the process at once."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def sweep(client: MongoClient[Document], database: str) -> tuple[str, ...]:
    """Drop scratch databases of ``database`` that a killed process left behind more than ten minutes ago; return their names."""
    pattern = re.compile(rf"{re.escape(_stem(database))}[0-9a-f]{{8}}\Z")
    lapsed = {"$lt": ["$renewed_at", {"$subtract": ["$$NOW", LEFT_BEHIND_SECONDS * 1000]}]}
    try:
        names = [name for name in client.list_database_names() if pattern.match(name)]
        left = [n for n in names if client[n][LEASES].find_one({"_id": RESOURCE, "$expr": lapsed}) is not None]
    except OperationFailure:  # may not list databases: then it made none under other names either
        return ()
    for name in left:
        client.drop_database(f"{name}_trial")
        client.drop_database(name)
        log.info("Dropped %s, which a rehearsal that was killed had left behind.", name)
    return tuple(left)


@dataclass(frozen=True)
class Copied:
    """How much of a collection was copied; ``total`` is the server's estimate."""

    documents: int
    total: int


def copy(source: Database[Document], scratch: Database[Document], name: str, sample: int | None) -> Copied | None:
    """Copy a collection's definition and a sample of its documents; None when it is not there.

    The sample is random, and the smallest and the largest ``_id`` are always in it. Validators are bypassed: old documents may
    not conform. Memory holds the sample's keys and one chunk of documents.
    """
    if not define(source, scratch, name):
        return None
    if catalogue.collection(source, name).type == "view":  # type: ignore[union-attr]  # define has found it
        return Copied(0, 0)
    rows = raw(source, name)
    ours: Document = {"chain": {"$exists": False}} if name == AUDIT_LOG else {}  # the chain cannot be sampled
    total = source[name].estimated_document_count()
    if sample is None or total <= sample:
        return Copied(insert(raw(scratch, name), rows.find(ours)), total)
    done = sum(
        insert(raw(scratch, name), rows.find({"_id": {"$in": keys}, **ours})) for keys in _sampled(source[name], sample)
    )
    return Copied(done, total)


def define(source: Database[Document], scratch: Database[Document], name: str) -> bool:
    """Make a collection as it is defined in ``source``: options, validator, indexes. Say whether there is one."""
    listed = catalogue.collection(source, name)
    if listed is None:
        return False
    if catalogue.collection(scratch, name) is None:
        scratch.command({"create": name, **catalogue.recreate_options(listed.options)})
    collated = "collation" in listed.options
    specs = [
        catalogue.rebuild_spec(index.spec, collated=collated)
        for index in catalogue.indexes(source, name)
        if not index.building
    ]
    specs = [spec for spec in specs if dict(spec["key"]) != {"_id": 1} and not spec.get("clustered")]
    if specs:
        scratch.command({"createIndexes": name, "indexes": specs})
    return True


def raw(db: Database[Document], name: str) -> Collection[RawBSONDocument]:
    """Return the collection as bytes, so that a copy is exact whatever values it holds."""
    options: CodecOptions[RawBSONDocument] = db.codec_options.with_options(document_class=RawBSONDocument)
    return cast("Collection[RawBSONDocument]", db.get_collection(name, codec_options=options))


def insert(into: Collection[RawBSONDocument], documents: Iterable[RawBSONDocument]) -> int:
    """Insert in bounded chunks, validators bypassed; documents that moved while being copied may be there already."""
    done = 0
    for some in chunks(documents):
        try:
            into.insert_many(some, ordered=False, bypass_document_validation=True)
            done += len(some)
        except BulkWriteError as error:
            errors = error.details["writeErrors"]
            if any(one["code"] != DUPLICATE_KEY for one in errors):
                raise
            done += len(some) - len(errors)
    return done


def chunks(documents: Iterable[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    """Yield the documents in lists of at most 200, and about 8 MB."""
    some: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        some.append(document)
        size += len(document.raw)
        if len(some) >= CHUNK or size >= CHUNK_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _sampled(collection: Collection[Document], sample: int) -> Iterator[Sequence[Any]]:
    """Yield the keys of a random sample, and of both ends, in lists."""
    ends = [row["_id"] for way in (1, -1) for row in collection.find({}, {"_id": 1}).sort("_id", way).limit(1)]
    keys = [row["_id"] for row in collection.aggregate([{"$sample": {"size": sample}}, {"$project": {"_id": 1}}])]
    every = [*ends, *keys[: max(0, sample - len(ends))]]
    yield from (every[at : at + CHUNK] for at in range(0, len(every), CHUNK))
