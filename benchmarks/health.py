"""What a health check costs: 1,000 collections with five indexes each, and a writer beside it. ``python -m benchmarks.health``."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymongo import IndexModel

from benchmarks.measure import Goal, Notebook, rounds
from benchmarks.server import Server, serve
from mongo_ops.health.run import chosen
from mongo_ops.health.session import Session, record
from mongo_ops.health.sight import HealthGuard, Outside
from mongo_ops.health.thresholds import load_thresholds
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.settings import Environment

COLLECTIONS, DOCUMENTS = 1_000, 20
ROUNDS, SECONDS = 7, 6.0
DATABASE = "bench_health"


def fill(server: Server) -> None:
    """Make the collections."""
    db = server.database(DATABASE)
    for number in range(COLLECTIONS):
        collection = db[f"c{number:04}"]
        collection.create_indexes([IndexModel([(name, 1)]) for name in "abcd"])  # of an empty collection: no build
        collection.insert_many([{"a": one, "b": one, "c": one, "d": one} for one in range(DOCUMENTS)])


@contextmanager
def session(server: Server) -> Iterator[tuple[Session, Target]]:
    """Yield a session that reads, and a target that writes."""
    environment = Environment("development", "bench", database=DATABASE)
    spec, guard = ConnectionSpec("bench", server.uri, "here", DATABASE), HealthGuard()
    with connect(spec, environment, listeners=(guard,)) as reading, connect(spec, environment) as writing:
        yield Session(reading, spec, guard, load_thresholds(), Outside()), writing


def writes(server: Server, beside: Callable[[], object]) -> list[float]:
    """Write for ``SECONDS`` while ``beside`` runs again and again in a thread; return the milliseconds of each write."""
    over, took = threading.Event(), []

    def work() -> None:
        while not over.is_set():
            beside()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    collection = server.database("bench_writer").numbers
    end = time.monotonic() + SECONDS
    while (began := time.monotonic()) < end:
        collection.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
        took.append((time.monotonic() - began) * 1000)
        time.sleep(0.002)
    over.set()
    thread.join()
    return took


def measure(server: Server, book: Notebook) -> None:
    """Run the rounds: the writer alone, and beside a health check."""
    with session(server) as (looking, target):

        def check() -> None:
            before, began = looking.guard.commands, time.monotonic()
            run = record(target, looking.run(f"bench {began}", chosen()), looking.thresholds)
            book.write("check", "seconds", time.monotonic() - began)
            book.write("check", "commands", looking.guard.commands - before)
            book.write("check", "unknown", sum(1 for one in run.results if one.error))

        contenders = {"alone": lambda: time.sleep(0.05), "beside": check}
        for _, counts, name in rounds(list(contenders), ROUNDS):
            took = writes(server, contenders[name])
            if counts:
                book.write(name, "p99 ms", statistics.quantiles(took, n=100)[-1])
                book.write(name, "longest ms", max(took))


def main() -> None:
    """Measure and print."""
    book = Notebook()
    with serve() as server:
        fill(server)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        measure(server, book)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for name, quantity in (("check", "seconds"), ("check", "commands"), ("check", "unknown"),
                           ("alone", "p99 ms"), ("beside", "p99 ms"), ("alone", "longest ms"), ("beside", "longest ms")):  # fmt: skip
        print(f"{name:7} {quantity:11} {book.series(name, quantity).show('{:.2f}')}")
    print(f"memory grown by {grown:.0f} MB")
    goal = Goal(f"a run over {COLLECTIONS:,} collections", 10, "under", "s", book.series("check", "seconds"))
    print(*goal.row(), sep=" | ")


if __name__ == "__main__":
    main()
