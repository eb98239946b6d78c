"""Zero-downtime migrations: how fast they fill, what a collection's traffic feels of them, and for how long a cut-over refuses writes.

The rate is that of one bare ``update_many`` of the same fields on the same documents. The traffic (benchmarks/workers/foreground.py) runs
in a process of its own; its latencies are taken in short windows, with and without the migration in turn, so that both see the same machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pymongo.database import Database

from benchmarks.engine import Engine as Connected
from benchmarks.measure import Goal, Notebook, Series, ratio, rounds, turn
from benchmarks.server import Server
from benchmarks.table import Table
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.mongo.connection import Target
from mongo_ops.mongo.lease import Holder
from mongo_ops.online import discover
from mongo_ops.online.engine import Engine
from mongo_ops.online.model import Phase

BASE, COLLECTION, NAME = "online_base", "plays", "001_seconds"
BARE, IN_PLACE, GHOST = "bare update_many (no stream, not resumable)", "in place", "ghost"
QUIET = "no migration"
SECONDS = '[{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}]'
MODES = {IN_PLACE: 'fields=("seconds",)', GHOST: 'mode="ghost", inverse=[{"$unset": "seconds"}]'}
RATE, LATENCY, REFUSED = 0.5, 1.3, 100.0
WINDOW = 8.0
SLICE, FILLING = 1.0, 10.0
CUT_OVERS = 9
SMALL = 20_000
THREADS, PAUSE = 4, 0.005
Document = dict[str, Any]


@dataclass
class Bench:
    """One server and a folder for the spec."""

    server: Server
    folder: Path
    documents: int
    tell: Callable[[str], None]
    number: int = 0

    @property
    def database(self) -> str:
        """The name of the database that is migrated now."""
        return f"online_{self.number}"

    @property
    def db(self) -> Database[Document]:
        """That database."""
        return self.server.database(self.database)

    def load(self, documents: int) -> None:
        """Fill another database from a copy, which is made first where there is none; drop the one before."""
        base = self.server.database(BASE)
        if base[COLLECTION].estimated_document_count() != documents:
            shape = {
                "_id": "$i", "user": "$i", "track": {"$concat": ["track ", {"$toString": {"$mod": ["$i", 3503]}}]},
                "ms": {"$add": [30_000, {"$mod": ["$i", 270_000]}]}, "skipped": {"$eq": [{"$mod": ["$i", 7]}, 0]}, "note": "x" * 120,
            }  # fmt: skip
            spread = [{"$project": {"i": {"$range": [0, documents]}}}, {"$unwind": "$i"}, {"$project": shape}]
            base.aggregate([{"$documents": [{}]}, *spread, {"$out": COLLECTION}])
        self.server.client.drop_database(self.database)
        self.number += 1
        base[COLLECTION].aggregate([{"$out": {"db": self.database, "coll": COLLECTION}}])
        self.server.settle()

    @contextmanager
    def engine(self, mode: str, limits: str = "") -> Iterator[Engine]:
        """Yield an engine for a migration of that mode."""
        (self.folder / "online").mkdir(parents=True, exist_ok=True)
        text = f'"""Play times in seconds."""\nfrom mongo_ops.online import *\n\nmigration = OnlineMigration(collection="{COLLECTION}", transform={SECONDS}, {MODES[mode]}, limits=Limits({limits}))\n'
        (self.folder / "online" / f"{NAME}.py").write_text(text, encoding="utf-8")
        connected = Connected(self.folder, self.folder / "storage")
        with connected.connected(self.server, self.database) as target:
            yield _engine(target, self.folder)

    def rate(self, mode: str) -> tuple[float, float]:
        """Return documents a second: of the backfill, and of everything until a person may approve."""
        self.load(self.documents)
        began = time.perf_counter()
        if mode == BARE:
            self.db[COLLECTION].update_many({}, [{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}])
            took = time.perf_counter() - began
            return self.documents / took, self.documents / took
        with self.engine(mode, "nice=0.0") as engine:
            engine.start()
            while not engine.advance(Phase.BACKFILL, budget=FILLING).done:
                pass
            filled = time.perf_counter() - began
            while engine.advance(budget=60.0).next is not Phase.READY:
                pass
            whole = time.perf_counter() - began
        return self.documents / filled, self.documents / whole


def _engine(target: Target, folder: Path) -> Engine:
    occasion = Occasion(Actor("benchmark", "os"), "benchmark")
    return Engine(target, discover.find(folder, NAME), occasion, Holder("benchmark"))


class Traffic:
    """The foreground process."""

    def __init__(self, bench: Bench, keys: int) -> None:
        program = Path(__file__).parent / "workers" / "foreground.py"
        words = [bench.server.uri, bench.database, COLLECTION, str(keys), str(THREADS), str(PAUSE)]
        self._process = subprocess.Popen(
            [sys.executable, str(program), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self) -> None:
        """Forget what was timed."""
        self._say("begin")

    def end(self) -> dict[str, float]:
        """Return what was timed since, in milliseconds."""
        self._say("end")
        found: dict[str, float] = json.loads(self._answer())
        return found

    def _say(self, word: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("The traffic has no input.")
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"The traffic ended with code {self._process.wait()}.")
        return line


def measure(server: Server, folder: Path, documents: int, count: int, tell: Callable[[str], None]) -> Notebook:
    """Measure rates, latencies and refusals."""
    bench, book = Bench(server, folder, documents, tell), Notebook()
    for number, _, mode in rounds([BARE, IN_PLACE, GHOST], count, warm_up=0):
        filled, whole = bench.rate(mode)
        tell(f"{documents:,} documents, round {number}: {filled:,.0f}/s ({whole:,.0f}/s until ready)  {mode}")
        book.write(mode, "rate", filled)
        book.write(mode, "whole", whole)
    for mode in (IN_PLACE, GHOST):
        _latencies(bench, book, mode, count)
    for _ in range(CUT_OVERS):
        _refusal(bench, book)
    return book


def _latencies(bench: Bench, book: Notebook, mode: str, count: int) -> None:
    bench.load(bench.documents)
    with bench.engine(mode) as engine, Traffic(bench, bench.documents) as traffic:
        engine.start()
        for number in range(count):
            for migrating in turn([False, True], number):
                bench.server.settle()
                seen = _window(engine, traffic, migrating=migrating)
                name = mode if migrating else f"{QUIET}, beside {mode}"
                for quantity in ("p50", "p99", "worst"):
                    book.write(name, quantity, seen[quantity])
                bench.tell(f"round {number}: p99 {seen['p99']:.1f} ms of {seen['operations']:,} operations  {name}")
        left = engine.status()["phase"]
    if left != Phase.BACKFILL:
        bench.tell(f"{mode}: the backfill was over before the last window; take more documents")


def _window(engine: Engine, traffic: Traffic, *, migrating: bool) -> dict[str, float]:
    ends = time.monotonic() + WINDOW
    traffic.begin()
    while (left := ends - time.monotonic()) > 0:
        if migrating:
            engine.advance(budget=min(SLICE, left))
        else:
            time.sleep(left)
    return traffic.end()


def _refusal(bench: Bench, book: Notebook) -> None:
    keys = min(SMALL, bench.documents)
    bench.load(keys)
    with bench.engine(GHOST, "nice=0.0") as engine, Traffic(bench, keys) as traffic:
        engine.start()
        while engine.advance(budget=10.0).next is not Phase.READY:
            pass
        found = engine.verification()
        if found is None:
            raise RuntimeError("There is no verification.")
        traffic.begin()
        done = engine.cut_over(found.digest)
        seen = traffic.end()
    bench.tell(f"cut-over: writes refused for {done.refused_ms:.0f} ms, as a writer saw it {seen['refused']:.0f} ms")
    book.write("cut-over", "refused", done.refused_ms)
    book.write("cut-over", "seen", seen["refused"])


def goals(book: Notebook | None) -> list[Goal]:
    """Return the promises about rate, latency and refusal."""
    parts = []
    for mode in (IN_PLACE, GHOST):
        rate = ratio(book.series(mode, "rate"), book.series(BARE, "rate")) if book else None
        parts.append(
            Goal(
                f"online backfill {mode}, nice off, against one bare update_many", RATE, "at least", "of its rate", rate
            )
        )
    for mode in (IN_PLACE, GHOST):
        p99 = ratio(book.series(mode, "p99"), book.series(f"{QUIET}, beside {mode}", "p99")) if book else None
        parts.append(
            Goal(
                f"foreground p99 during a backfill {mode}, default nice, against none", LATENCY, "at most", "times", p99
            )
        )
    refused = book.series("cut-over", "refused") if book else None
    return [*parts, Goal("writes refused at a cut-over", REFUSED, "under", "ms", refused)]


def tables(book: Notebook, documents: int) -> list[Table]:
    """Return rates, latencies and refusals."""
    rows = []
    for mode in (BARE, IN_PLACE, GHOST):
        rate = book.series(mode, "rate")
        shown = [_thousands(rate), _thousands(book.series(mode, "whole"))]
        rows.append([mode, *shown, ratio(rate, book.series(BARE, "rate")).show("{:.2f}")])
    heading = ["way", "1,000 documents/s: median (min - max)", "until ready", "of bare"]
    rates = Table(f"Online backfill of {documents:,} documents, nice off", heading, rows)
    felt = [
        [name, *(book.series(name, quantity).show("{:.1f}") for quantity in ("p50", "p99", "worst"))]
        for mode in (IN_PLACE, GHOST)
        for name in (f"{QUIET}, beside {mode}", mode)
    ]
    latencies = Table(
        f"Traffic during a backfill of {documents:,} documents, default nice: milliseconds, median (min - max) of windows",
        ["migration", "p50", "p99", "worst"],
        felt,
        (
            f"{THREADS} connections in a process of its own, half reads, half majority writes, {WINDOW:.0f} s windows in turn.",
        ),
    )
    refused = [["the engine", book.series("cut-over", "refused").show("{:.0f}")]]
    refused.append(["a writer, from its first refusal", book.series("cut-over", "seen").show("{:.0f}")])
    heading = ["as seen by", "milliseconds: median (min - max)"]
    return [rates, latencies, Table(f"Writes refused at a cut-over, {CUT_OVERS} times", heading, refused)]


def _thousands(rate: Series) -> str:
    return Series(tuple(value / 1000 for value in rate.values)).show("{:.1f}")
