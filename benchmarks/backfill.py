"""One update of every document of a large collection: exactly once with mongo-ops, and by other ways.

Everybody increments the same field of the same documents, one after the other; after each it is counted whether every document was
incremented once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bson
from bson import ObjectId
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from benchmarks import programs
from benchmarks.engine import Engine
from benchmarks.measure import Goal, Notebook, Series, ratio, rounds
from benchmarks.peers import Worker
from benchmarks.server import Server, difference
from benchmarks.table import Table

DATABASE, COLLECTION = "backfill", "plays"
BARE, OURS = "bare update_many (not resumable)", "mongo-ops Backfill, exactly once"
RATIO = 0.6
HAND_BATCH = 10_000
WARM_UP = 20_000
INCREMENT = '{"$inc": {"n": 1}}'
Document = dict[str, Any]


class Filler(ABC):
    """A way to increment ``n`` in every document."""

    name: str

    @abstractmethod
    def run(self) -> float:
        """Do it and return the seconds."""

    def clean(self) -> None:  # noqa: B027 - most have nothing to remove
        """Remove what only this way leaves behind; not timed."""


class Bare(Filler):
    """One command: the limit. Killed half-way, nobody knows how far it came."""

    name = BARE

    def __init__(self, db: Database[Document]) -> None:
        self._db = db

    def run(self) -> float:
        """Send it."""
        began = time.perf_counter()
        self._db[COLLECTION].update_many({}, {"$inc": {"n": 1}})
        return time.perf_counter() - began


class ByHand(Filler):
    """What a careful person writes: find a batch's end, update the range and keep a checkpoint in one transaction."""

    name = f"by hand: one transaction per {HAND_BATCH:,}, with checkpoint"

    def __init__(self, db: Database[Document]) -> None:
        self._db = db

    def run(self) -> float:
        """Walk."""
        began = time.perf_counter()
        plays, last = self._db[COLLECTION], None
        with self._db.client.start_session() as session:
            while True:
                after: Document = {} if last is None else {"_id": {"$gt": last}}
                end = next(iter(plays.find(after, {"_id": 1}).sort("_id", 1).skip(HAND_BATCH - 1).limit(1)), None)
                batch = {"_id": {**after.get("_id", {}), **({"$lte": end["_id"]} if end else {})}}

                def body(inner: Any, batch: Document = batch, end: Document | None = end) -> None:
                    plays.update_many(batch if batch["_id"] else {}, {"$inc": {"n": 1}}, session=inner)
                    point = {"$set": {"last": end["_id"] if end else None}}
                    self._db.hand_checkpoints.update_one({"_id": "fill"}, point, upsert=True, session=inner)

                session.with_transaction(body, ReadConcern("snapshot"), WriteConcern("majority"))
                if end is None:
                    return time.perf_counter() - began
                last = end["_id"]


class Ours(Filler):
    """A Backfill in a migration file, by the engine: plan, lease, batches, records, audit. A new file each time."""

    def __init__(self, name: str, operation: str, server: Server, project: Path) -> None:
        self.name, self._operation, self._server, self._project = name, operation, server, project

    def run(self) -> float:
        """Write the file, connect, and migrate."""
        folder = self._project / "migrations"
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.py"))) + 1
        (folder / f"{number:03d}_fill.py").write_text(programs.mongo_ops_file(self._operation), encoding="utf-8")
        engine = Engine(self._project, self._project / "storage")
        with engine.connected(self._server, DATABASE) as target:
            return engine.migrate(target).total

    def clean(self) -> None:
        """Drop the before-images."""
        db = self._server.database(DATABASE)
        for name in db.list_collection_names(filter={"name": {"$regex": "^ops_before_"}}):
            db.drop_collection(name)


class Mongomig(Filler):
    """A revision of mongomig's, inside its warm process; one more revision each time."""

    def __init__(self, name: str, statement: str, worker: Worker) -> None:
        self.name, self._statement, self._worker = name, statement, worker

    def run(self) -> float:
        """Write the revision and upgrade."""
        project = self._worker.project
        number = len(list((project / "migrations" / "versions").glob("*.py"))) + 1
        programs.mongomig_file(project, number, "fill", self._statement)
        return self._worker.ask("up", DATABASE)


def mongomig_fillers(worker: Worker) -> list[Filler]:
    """Return mongomig's ways: as it comes, with larger batches, and its transactional batches."""
    for file in (worker.project / "migrations" / "versions").glob("*.py"):
        file.unlink()  # the six small ones do not belong here
    default = f'ctx.ops.backfill("{COLLECTION}", {{}}, {INCREMENT})'
    larger = f'ctx.ops.backfill("{COLLECTION}", {{}}, {INCREMENT}, batch_size={HAND_BATCH})'
    exactly = (
        f'[ctx.collection("{COLLECTION}").update_many({{"_id": {{"$in": [d["_id"] for d in b]}}}}, {INCREMENT}, session=b.session)'
        f' for b in ctx.batches("{COLLECTION}", projection={{"_id": 1}}, batch_size={HAND_BATCH}, transactional=True)]'
    )
    return [
        Mongomig("mongomig backfill, at least once, 1,000 (default)", default, worker),
        Mongomig(f"mongomig backfill, at least once, {HAND_BATCH:,}", larger, worker),
        Mongomig(f"mongomig batches, exactly once, {HAND_BATCH:,}", exactly, worker),
    ]


def fillers(server: Server, folder: Path, worker: Worker | None) -> list[Filler]:
    """Return every way to be compared."""
    db = server.database(DATABASE)
    project = folder / "fill"
    update = f'"{COLLECTION}", {INCREMENT}'
    kept: list[Filler] = [
        Bare(db),
        Ours(OURS, f"Backfill({update})", server, project),
        Ours(
            "the same, with a way back (keeps each _id)",
            f'Backfill({update}, revert={{"$inc": {{"n": -1}}}})',
            server,
            project,
        ),
        ByHand(db),
    ]
    return kept + (mongomig_fillers(worker) if worker else [])


def load(server: Server, documents: int) -> None:
    """Insert the documents."""
    db = server.database(DATABASE)
    db.drop_collection(COLLECTION)  # not the database: the tools keep their histories
    for begin in range(0, documents, 10_000):
        db[COLLECTION].insert_many([_document(i) for i in range(begin, min(documents, begin + 10_000))], ordered=False)


def document_size() -> int:
    """Return how large a document is, in bytes."""
    return len(bson.encode(_document(0)))


def _document(i: int) -> Document:
    return {
        "_id": ObjectId(), "user": i, "track": f"track {i % 3503:05d}", "artist": f"artist {i % 275:04d}", "country": "DE",
        "device": {"kind": "phone", "app": "5.2.1"}, "seconds": 30 + i % 300, "skipped": i % 7 == 0, "n": 0, "note": "x" * 70,
    }  # fmt: skip


def measure(
    ways: Sequence[Filler], server: Server, documents: int, count: int, tell: Callable[[str], None]
) -> Notebook:
    """Warm every way up on a small collection, then let each increment every document, and prove that it did so once."""
    load(server, min(WARM_UP, documents))
    _rounds(ways, server, 1, tell)
    tell(f"loading {documents:,} documents ...")
    load(server, documents)
    return _rounds(ways, server, count, tell)


def _rounds(ways: Sequence[Filler], server: Server, count: int, tell: Callable[[str], None]) -> Notebook:
    book, db = Notebook(), server.database(DATABASE)
    documents = db[COLLECTION].count_documents({})
    for expected, (number, _, way) in enumerate(rounds(ways, count, warm_up=0), 1):
        server.settle()
        before = server.commands()
        seconds = way.run()
        commands = sum(difference(before, server.commands()).values())
        _prove(way, db, expected)
        way.clean()
        tell(f"{documents:,} documents, round {number}: {documents / seconds:,.0f}/s  {way.name}")
        book.write(way.name, "rate", documents / seconds)
        book.write(way.name, "commands", commands)
    return book


def _prove(way: Filler, db: Database[Document], expected: int) -> None:
    wrong = db[COLLECTION].count_documents({"n": {"$ne": expected}})
    if wrong:
        raise RuntimeError(f"{way.name}: {wrong:,} documents were not incremented exactly once.")


def goals(book: Notebook | None) -> list[Goal]:
    """Return the promise about the rate."""
    measured = ratio(book.series(OURS, "rate"), book.series(BARE, "rate")) if book else None
    return [Goal("exactly-once backfill against one bare update_many", RATIO, "at least", "of its rate", measured)]


def table(book: Notebook, names: Sequence[str], documents: int, size: int) -> Table:
    """Return the rates."""
    rows = []
    for name in names:
        rate = book.series(name, "rate")
        thousands = Series(tuple(value / 1000 for value in rate.values)).show("{:.0f}")
        against = ratio(rate, book.series(BARE, "rate")).show("{:.2f}")
        rows.append([name, thousands, against, f"{book.series(name, 'commands').median:.0f}"])
    heading = ["way", "1,000 documents/s: median (min - max)", "of bare", "commands"]
    return Table(f"Backfill of {documents:,} documents of {size} bytes", heading, rows)
