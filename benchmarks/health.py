"""What a health check costs: 1,000 collections with five indexes each, and a writer beside it. ``python -m benchmarks.health``.

The writer and the checks are processes of their own. The checks run one after the other for a whole round, with the lowest priority, since
they come from another machine in earnest. A third contender only computes and asks the server nothing: what the cores alone do to the writer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import Any

from pymongo import IndexModel, MongoClient

from benchmarks.measure import Goal, Notebook, Series, ratio, rounds
from benchmarks.server import Server, serve
from mongo_ops.health.run import chosen
from mongo_ops.health.session import Session, record
from mongo_ops.health.sight import HealthGuard
from mongo_ops.health.thresholds import load_thresholds
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.orchestration.health_facts import outside
from mongo_ops.settings import Environment

FEW, COLLECTIONS, DOCUMENTS = 100, 1_000, 20
DATABASE = "bench_health"
LOWEST = 19
PAUSE = 0.002
PER_COLLECTION = ("listIndexes", "collStats", "indexStats", "count", "validator")
"""What reading collection by collection would send for each."""


def fill(server: Server, first: int, last: int) -> None:
    """Make the collections from ``first`` to ``last``."""
    db = server.database(DATABASE)
    for number in range(first, last):
        collection = db[f"c{number:04}"]
        collection.create_indexes([IndexModel([(name, 1)]) for name in "abcd"])  # of an empty collection: no build
        collection.insert_many([{"a": one, "b": one, "c": one, "d": one} for one in range(DOCUMENTS)])


@contextmanager
def session(uri: str) -> Iterator[tuple[Session, Target]]:
    """Yield a session that reads, and a target that writes."""
    environment = Environment("development", "bench", database=DATABASE)
    spec, guard = ConnectionSpec("bench", uri, "here", DATABASE), HealthGuard()
    with connect(spec, environment, listeners=(guard,)) as reading, connect(spec, environment) as writing:
        yield Session(reading, spec, guard, load_thresholds(), outside(reading)), writing


def check_on(uri: str, ends: Connection) -> None:
    """Carry runs out until told to stop; send {seconds, commands, unknown, megabytes} of each."""
    os.nice(LOWEST)
    with session(uri) as (looking, target):
        while not ends.poll():
            began, before = time.monotonic(), looking.guard.commands
            run = record(target, looking.run(f"bench {os.getpid()} {began}", chosen()), looking.thresholds)
            ends.send({
                "seconds": time.monotonic() - began, "commands": looking.guard.commands - before,
                "unknown": sum(1 for one in run.results if one.error),
                "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            })  # fmt: skip
    ends.send(None)


def compute(uri: str, ends: Connection) -> None:
    """Compute until told to stop, and ask the server nothing."""
    del uri
    os.nice(LOWEST)
    while not ends.poll():
        sum(range(100_000))
    ends.send(None)


@contextmanager
def beside(work: Callable[[str, Connection], None], uri: str) -> Iterator[list[dict[str, Any]]]:
    """Have ``work`` done in a process of its own meanwhile; yield a list that holds its notes in the end."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(uri, theirs))
    process.start()
    notes: list[dict[str, Any]] = []
    if work is check_on:
        notes.append(ours.recv())  # it has begun in earnest: connected, code loaded
    try:
        yield notes
    finally:
        ours.send("enough")
        while note := ours.recv():
            notes.append(note)
        process.join()


def write_on(uri: str, seconds: float, ends: Connection) -> None:
    """Write one document after the other; send the milliseconds of each."""
    took: list[float] = []
    with MongoClient[dict[str, Any]](uri) as client:
        collection = client["bench_writer"]["numbers"]
        collection.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            collection.update_one({"_id": 1}, {"$inc": {"n": 1}})
            took.append((time.monotonic() - began) * 1000)
            time.sleep(PAUSE)
    ends.send(took)


def writes(uri: str, seconds: float) -> Sequence[float]:
    """Return how long the writes of a process of its own took, in milliseconds."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=write_on, args=(uri, seconds, theirs))
    process.start()
    took: Sequence[float] = ours.recv()
    process.join()
    return took


def measure(server: Server, book: Notebook, count: int, seconds: float) -> None:
    """Run the rounds: the writer alone, beside health checks, and beside a process that only computes."""
    uri = server.uri_of(DATABASE)
    ways = {"alone": None, "beside": check_on, "computing": compute}
    for number, counts, name in rounds(list(ways), count):
        work = ways[name]
        server.settle()
        with beside(work, uri) if work else nullcontext([]) as notes:
            took = writes(uri, seconds)
        if not counts:
            continue
        for note in notes:
            for quantity, value in note.items():
                book.write("check", quantity, value)
        for share, label in ((50, "p50"), (95, "p95"), (99, "p99")):
            book.write(name, label, statistics.quantiles(took, n=100)[share - 1])
        book.write(name, "longest", max(took))
        book.write(name, "writes", len(took))
        print(
            f"round {number} {name}: p99 {book.notes[name, 'p99'][-1]:.1f} ms, longest {max(took):.1f} ms",
            file=sys.stderr,
        )


def commands_of_a_run(server: Server) -> int:
    """Return how many commands one run sends."""
    with session(server.uri_of(DATABASE)) as (looking, target):
        record(target, looking.run("first", chosen()), looking.thresholds)
        before = looking.guard.commands
        looking.run("counted", chosen())
        return looking.guard.commands - before


def goals(book: Notebook) -> Iterator[Goal]:
    """Yield what was promised."""
    yield Goal(f"a run over {COLLECTIONS:,} collections", 10, "under", "s", book.series("check", "seconds"))
    few, many = (book.series("commands", f"{number}").values[0] for number in (FEW, COLLECTIONS))
    slope = (many - few) / (COLLECTIONS - FEW) * 100
    yield Goal("commands for 100 more collections", 60, "at most", "", Series((slope,)))
    longer = ratio(book.series("beside", "p99"), book.series("alone", "p99"))
    yield Goal("p99 of a writer beside a check, over alone", 1.1, "at most", "", longer)
    stalls = zip(book.series("beside", "longest").values, book.series("alone", "longest").values, strict=True)
    yield Goal(
        "longest stall beside a check, more than alone", 25, "at most", "ms", Series(tuple(a - b for a, b in stalls))
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.health", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds that count (default 7)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of each turn (default 10)")
    arguments, book = parser.parse_args(), Notebook()
    with serve() as server:
        for first, last in ((0, FEW), (FEW, COLLECTIONS)):
            fill(server, first, last)
            book.write("commands", f"{last}", commands_of_a_run(server))
        measure(server, book, arguments.rounds, arguments.seconds)
    for (name, quantity), values in sorted(book.notes.items()):
        print(f"{name:10} {quantity:10} {Series(tuple(values)).show('{:.1f}')}")
    print(
        f"collection by collection: {len(PER_COLLECTION) * COLLECTIONS:,} commands ({', '.join(PER_COLLECTION)} of each)"
    )
    control = ratio(book.series("computing", "p99"), book.series("alone", "p99"))
    print(f"for comparison, no goal: p99 beside a process that only computes, over alone: {control.show('{:.2f}')}")
    for goal in goals(book):
        print(*goal.row(), sep=" | ")


if __name__ == "__main__":
    main()
