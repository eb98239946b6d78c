"""Export and import of a large collection: mongo-ops, MongoDB's own tools where they are installed, and the limit.

Every turn is a process of its own that tells its seconds and its peak memory (``python -m benchmarks.transfer '{"way": ...}'``); after
each it is counted whether all documents are there.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bson import Decimal128, Int64
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from benchmarks.measure import Goal, Notebook, Series, ratio, rounds
from benchmarks.server import Server
from benchmarks.table import Table
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder
from mongo_ops.storage.load import RAW
from mongo_ops.transfer import engine, raw, reading

DATABASE, COLLECTION, COPY = "transfer", "docs", "copy"
TOOLS = ("mongodump", "mongoexport", "mongorestore", "mongoimport")
PROCESSES = 2
WORDS = [
    "lorem",
    "ipsum",
    "dolor",
    "sit",
    "amet",
    "consectetur",
    "adipiscing",
    "elit",
    "sed",
    "do",
    "eiusmod",
    "tempor",
    "incididunt",
    "ut",
    "labore",
    "et",
]
EXPORT_LIMIT, IMPORT_LIMIT = "limit: raw batches thrown away", "limit: raw batches inserted, 4 connections"
RATIOS: tuple[tuple[str, str, str, float], ...] = (
    ("bson export against mongodump", "export bson", "mongodump", 1.2),
    ("bson.zst export against mongodump --gzip", "export bson.zst", "mongodump --gzip", 2.5),
    ("relaxed jsonl export, two processes, against mongoexport", "export jsonl, 2 processes", "mongoexport", 2.4),
    ("bson import against mongorestore -j4", "import bson.zst, 4 lanes", "mongorestore -j4", 1.3),
    ("bson import against the server's own rate", "import bson.zst, 4 lanes", IMPORT_LIMIT, 0.8),
    ("jsonl import against mongoimport -j4", "import jsonl, 2 processes x 2 lanes", "mongoimport -j4", 2.5),
)
PARQUET_RATE, MEMORY = 90_000, 300
Document = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to move the documents. ``words`` go to the worker, or are the command of a tool; ``into`` is what it fills."""

    name: str
    words: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    into: str | None = None


def ways(server: Server, folder: Path) -> tuple[list[Way], list[str]]:
    """Return what can be measured here, and a sentence for each tool that is missing."""
    exports = {"bson": 1, "bson.zst": 1, "bson.gz": 1, "jsonl": PROCESSES, "jsonl.zst": PROCESSES, "parquet": PROCESSES}
    found = [Way(EXPORT_LIMIT, {"way": "throw"}), Way("as MongoToS3Operator does", {"way": "operator"})]
    for form, count in exports.items():
        told = f", {count} processes" if count > 1 else ""
        found.append(Way(f"export {form}{told}", {"way": "export", "format": form, "processes": count}))
    found += [
        Way(IMPORT_LIMIT, {"way": "insert"}, into=COPY),
        Way("import bson.zst, 4 lanes", {"way": "import", "format": "bson.zst", "processes": 1, "lanes": 4}, into=COPY),
        Way(
            "import jsonl, 2 processes x 2 lanes",
            {"way": "import", "format": "jsonl", "processes": PROCESSES, "lanes": 2},
            into=COPY,
        ),
    ]
    uri, dump = server.uri_of(DATABASE), folder / "dump"
    from_one, to_copy = ("--uri", uri, "-c", COLLECTION), ("--uri", uri)
    file = str(dump / DATABASE / f"{COLLECTION}.bson")
    lines = str(folder / "tool.json")
    commands = {
        "mongodump": ("mongodump", *from_one, "-o", str(dump)),
        "mongodump --gzip": ("mongodump", *from_one, "--gzip", "-o", str(folder / "gz")),
        "mongoexport": ("mongoexport", *from_one, "-o", lines),
        "mongorestore -j4": (
            "mongorestore",
            *to_copy,
            "-d",
            DATABASE,
            "-c",
            COPY,
            "--numInsertionWorkersPerCollection=4",
            file,
        ),
        "mongoimport -j4": ("mongoimport", *to_copy, "-d", DATABASE, "-c", COPY, "--numInsertionWorkers=4", lines),
    }
    missing = [f"{tool}: not on the PATH (MongoDB Database Tools)" for tool in TOOLS if shutil.which(tool) is None]
    for name, command in commands.items():
        if shutil.which(command[0]):
            into = COPY if command[0] in ("mongorestore", "mongoimport") else None
            found.append(Way(name, command=command, into=into))
    return found, missing


def measure(server: Server, documents: int, count: int, tell: Callable[[str], None]) -> tuple[Notebook, list[str]]:
    """Load the collection, export it once in every format that is imported, then give every way its turns."""
    tell(f"loading {documents:,} documents ...")
    load(server, documents)
    book = Notebook()
    with tempfile.TemporaryDirectory(prefix="mongo-ops-transfer-") as name:
        folder = Path(name)
        for form in ("bson.zst", "jsonl"):
            _work(
                server,
                {
                    "way": "export",
                    "format": form,
                    "processes": 1,
                    "place": str(folder / f"in-{form}"),
                    "parts": PROCESSES,
                },
            )
        found, missing = ways(server, folder)
        for number, counts, way in rounds(found, count, warm_up=0):
            seconds, memory = _turn(server, way, folder, documents)
            tell(f"round {number}: {documents / seconds:,.0f}/s  {memory:,.0f} MB  {way.name}")
            if counts:
                book.write(way.name, "rate", documents / seconds)
                book.write(way.name, "memory", memory)
    return book, missing


def load(server: Server, documents: int) -> None:
    """Fill the collection with documents of about 600 bytes of many types."""
    dice, collection = random.Random(1), server.database(DATABASE)[COLLECTION]
    for start in range(0, documents, 5_000):
        collection.insert_many([document(dice, start + i) for i in range(min(5_000, documents - start))], ordered=False)


def document(dice: random.Random, number: int) -> Document:
    """Return one document."""
    text, moment = dice.choices(WORDS, k=24), datetime(2020, 1, 1, tzinfo=UTC)
    return {
        "name": " ".join(text[:3]), "email": f"user{number}@example.test", "age": dice.randrange(90), "plays": Int64(dice.randrange(2**40)),
        "score": dice.random() * 100, "active": dice.random() < 0.5, "created_at": moment + timedelta(seconds=dice.randrange(10**8)),  # noqa: PLR2004
        "updated_at": moment, "address": {"street": text[4], "city": text[5], "zip": str(dice.randrange(99_999))}, "tags": text[6:10],
        "loc": {"type": "Point", "coordinates": [dice.random(), dice.random()]}, "nothing": None, "price": Decimal128("9.99"),
        "blob": dice.randbytes(32), "bio": " ".join(text),
    }  # fmt: skip


def goals(book: Notebook | None) -> list[Goal]:
    """Return what was promised. A tool that is not installed leaves its goal unmeasured."""

    def against(one: str, other: str) -> Series | None:
        if book is None or not book.has(one, "rate") or not book.has(other, "rate"):
            return None
        return ratio(book.series(one, "rate"), book.series(other, "rate"))

    promised = [
        Goal(what, bound, "at least", "times its rate", against(one, other)) for what, one, other, bound in RATIOS
    ]
    parquet, ours = f"export parquet, {PROCESSES} processes", [name for _, name, _, _ in RATIOS]
    rate = book.series(parquet, "rate") if book else None
    peaks = [book.series(name, "memory") for name in dict.fromkeys((*ours, parquet))] if book else []
    peak = max(peaks, key=lambda series: series.median) if peaks else None
    promised.append(Goal("parquet export with two cores", PARQUET_RATE, "at least", "documents/s", rate))
    promised.append(Goal("peak memory of a process, the largest", MEMORY, "under", "MB", peak))
    return promised


def table(book: Notebook, documents: int) -> Table:
    """Return the rates."""
    rows = []
    for name in dict.fromkeys(contender for contender, _ in book.notes):
        rate = book.series(name, "rate")
        thousands = Series(tuple(value / 1000 for value in rate.values)).show("{:.1f}")
        rows.append([name, thousands, f"{book.series(name, 'memory').median:.0f}"])
    heading = ["way", "1,000 documents/s: median (min - max)", "peak MB of a process"]
    return Table(f"Transfer of {documents:,} documents", heading, rows)


def _turn(server: Server, way: Way, folder: Path, documents: int) -> tuple[float, float]:
    """Return seconds and peak memory of one turn, after counting what it moved."""
    db = server.database(DATABASE)
    db[COPY].drop()
    server.settle()
    out = folder / "out"
    if way.command:
        began = time.perf_counter()
        subprocess.run(["/usr/bin/env", *way.command], check=True, capture_output=True)
        seconds, memory = time.perf_counter() - began, 0.0
    else:
        place = folder / f"in-{way.words['format']}" if way.words["way"] == "import" else out
        told = _work(server, {**way.words, "place": str(place)})
        seconds, memory = told["seconds"], told["memory"]
        if told["documents"] != documents:
            raise RuntimeError(f"{way.name}: {told['documents']:,} of {documents:,} documents.")
    if way.into and (there := db[way.into].count_documents({})) != documents:
        raise RuntimeError(f"{way.name}: {there:,} of {documents:,} documents arrived.")
    shutil.rmtree(out, ignore_errors=True)
    return seconds, memory


def _work(server: Server, words: Document) -> Document:
    command = [sys.executable, "-m", "benchmarks.transfer", json.dumps({"uri": server.uri, **words})]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    told: Document = json.loads(done.stdout.splitlines()[-1])
    return told


# The worker -----------------------------------------------------------------------------------------------------------


def work(words: Document) -> Document:
    """Do what the words say; return documents, seconds and the peak memory (MB) of the largest process."""
    environment = Environment("development", "c", database=DATABASE)
    with connect(ConnectionSpec("c", words["uri"], "bench", DATABASE), environment) as target:
        began = time.perf_counter()
        doings: dict[str, Callable[[Target, Document], Callable[[], int]]]
        doings = {"throw": _throw, "operator": _operator, "insert": _insert, "export": _export, "import": _import}
        prove = doings[words["way"]](target, words)
        seconds = time.perf_counter() - began
        count = prove()  # not timed: the other tools read nothing back either
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"documents": count, "seconds": seconds, "memory": max(_peak(), children)}


def _peak() -> float:
    """Return this process's peak in MB. Not ``ru_maxrss``, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _streams(target: Target) -> Any:
    find = {"find": COLLECTION, "filter": {}, "hint": {"$natural": 1}, "readConcern": {"level": "majority"}}
    return reading.Ahead(reading.streams(target.db, find, 600))


def _throw(target: Target, _: Document) -> Callable[[], int]:
    with _streams(target) as batches:
        for _batch in batches:
            pass
    return target.db[COLLECTION].estimated_document_count


def _insert(target: Target, _: Document) -> Callable[[], int]:
    def put(batch: bytes) -> int:
        documents = [RawBSONDocument(one, RAW) for one in raw.split(batch)]
        return int(target.db.command({"insert": COPY, "ordered": False, "documents": documents})["n"])

    with _streams(target) as batches, ThreadPoolExecutor(4) as pool:
        count = sum(pool.map(put, batches))
    return lambda: count


def _operator(target: Target, words: Document) -> Callable[[], int]:
    """What Airflow's MongoToS3Operator does: all documents in a list, one text of all of them."""
    rows = list(MongoClient(words["uri"])[DATABASE][COLLECTION].find())
    text = "\n".join(json.dumps(row, default=str) for row in rows)
    Path(words["place"]).mkdir(parents=True, exist_ok=True)
    (Path(words["place"]) / "all").write_text(text, encoding="utf-8")
    return target.db[COLLECTION].estimated_document_count


def _export(target: Target, words: Document) -> Callable[[], int]:
    folder = open_folder(Path(words["place"]).as_uri())
    parts = words.get("parts") or words["processes"]
    request = engine.ExportRequest(collections=(COLLECTION,), format=words["format"], partitions=parts)
    plan = engine.plan_export(target, folder, request)
    engine.begin_export(target, folder, plan, "bench")
    _each(words, "export", plan.as_value(), len(plan.parts))
    found = engine.finish_export(target, folder, plan, run_id="bench")
    return lambda: found.total.count


def _import(target: Target, words: Document) -> Callable[[], int]:
    folder = open_folder(Path(words["place"]).as_uri())
    request = engine.ImportRequest(collections={COLLECTION: COPY}, lanes=words["lanes"])
    plan = engine.plan_import(target, folder, request)
    run_id = f"bench-{os.getpid()}"
    _each({**words, "run_id": run_id}, "import", plan.as_value(), len(plan.parts))
    return lambda: engine.finish_import(target, plan, folder / "rejects", run_id=run_id).tally.inserted


def _each(words: Document, way: str, plan: Document, count: int) -> None:
    """Carry out all parts, in as many processes as asked for."""
    numbers = list(range(count))
    if words["processes"] == 1:
        parts(words, way, plan, numbers)
        return
    told = [
        {**words, "way": "parts", "of": way, "plan": plan, "numbers": numbers[i :: words["processes"]]}
        for i in range(words["processes"])
    ]
    running = [subprocess.Popen([sys.executable, "-m", "benchmarks.transfer", json.dumps(one)]) for one in told]
    if any(process.wait() for process in running):
        raise RuntimeError(f"{way}: a process failed.")


def parts(words: Document, way: str, plan: Document, numbers: Sequence[int]) -> None:
    """Carry out some parts of a plan."""
    folder = open_folder(Path(words["place"]).as_uri())
    with connect(
        ConnectionSpec("c", words["uri"], "bench", DATABASE), Environment("development", "c", database=DATABASE)
    ) as target:
        for number in numbers:
            if way == "export":
                engine.export_part(target, folder, engine.ExportPlan.of(plan), number, run_id="bench")
            else:
                engine.import_part(target, folder, engine.ImportPlan.of(plan), number, run_id=words["run_id"])


def main() -> int:
    """Run as a worker."""
    words = json.loads(sys.argv[1])
    if words["way"] == "parts":
        parts(words, words["of"], words["plan"], words["numbers"])
    else:
        print(json.dumps(work(words)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
