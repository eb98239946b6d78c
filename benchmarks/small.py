"""Six small migrations: up, nothing to do, down. Warm processes among themselves, whole processes among themselves."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from pymongo.database import Database

from benchmarks import programs
from benchmarks.engine import Engine
from benchmarks.measure import Goal, Notebook, Series, plus, ratio, rounds
from benchmarks.peers import Peer, Worker, clean_environment
from benchmarks.server import Server, difference
from benchmarks.table import Table
from mongo_ops.mongo.connection import Target

ACTIONS = ("up", "noop", "down")
BARE, OURS = "bare commands", "mongo-ops"
ENGINE_SECONDS, ENGINE_RATIO = 0.25, 2.0
Document = dict[str, Any]


class Contender(ABC):
    """Somebody who can bring a database up, find nothing to do, and take it down."""

    name: str

    def meet(self, database: str) -> None:  # noqa: B027 - most need not
        """Get ready for a database; not timed."""

    @abstractmethod
    def do(self, action: str, database: str) -> Mapping[str, float]:
        """Act and return what it took: ``seconds`` and parts of it."""

    def leave(self, database: str) -> None:  # noqa: B027 - most need not
        """Let go of a database; not timed."""


class Bare(Contender):
    """The same commands without any tool: the limit. Majority writes, like everybody here."""

    name = BARE

    def __init__(self, server: Server) -> None:
        self._server = server

    def do(self, action: str, database: str) -> Mapping[str, float]:
        """Send the commands; nothing to do is one ``find``."""
        db = self._server.database(database)
        steps = (
            [step.up for step in programs.STEPS] if action == "up" else [step.down for step in reversed(programs.STEPS)]
        )
        work = [compile(text, "step", "eval") for text in steps] if action != "noop" else []
        began = time.perf_counter()
        for code in work:
            eval(code, {"db": db})  # noqa: S307 - our own six statements
        if action == "noop":
            db.history.find_one({})
        return {"seconds": time.perf_counter() - began}


class WarmEngine(Contender):
    """The engine inside this process, connected."""

    name = OURS

    def __init__(self, server: Server, engine: Engine) -> None:
        self._server, self._engine = server, engine
        self._stack = ExitStack()
        self._target: Target | None = None

    def meet(self, database: str) -> None:
        """Connect."""
        self._target = self._stack.enter_context(self._engine.connected(self._server, database))

    def do(self, action: str, database: str) -> Mapping[str, float]:
        """Migrate or roll back."""
        del database
        target = cast("Target", self._target)
        times = (self._engine.roll_back if action == "down" else self._engine.migrate)(target)
        return {
            "seconds": times.total,
            "plan": times.plan,
            "open": times.open,
            "work": times.work,
            "close": times.close,
        }

    def leave(self, database: str) -> None:
        """Disconnect."""
        del database
        self._stack.close()


class WarmPeer(Contender):
    """A peer's API inside a warm process of its own."""

    def __init__(self, worker: Worker) -> None:
        self.name, self._worker = worker.peer.name, worker

    def do(self, action: str, database: str) -> Mapping[str, float]:
        """Ask the worker."""
        return {"seconds": self._worker.ask(action, database)}


class Process(Contender):
    """A command line, from its start to its end. CPU seconds too: they are steadier on a busy machine."""

    def __init__(self, name: str, words: Any, environment: Any, folder: Path) -> None:
        self.name, self._words, self._environment, self._folder = name, words, environment, folder

    def do(self, action: str, database: str) -> Mapping[str, float]:
        """Run it.

        Raises:
            RuntimeError: it failed.
        """
        words, environment = self._words(action, database), self._environment(database)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(words, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise RuntimeError(
                f"{self.name} {action} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-800:]}"
            )
        return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measure(contenders: Sequence[Contender], server: Server, count: int, tell: Any) -> Notebook:
    """Let each one up, find nothing to do and down, on a new database each time; prove that it did."""
    book = Notebook()
    for number, counts, contender in rounds(contenders, count):
        database = f"small_{number}"
        server.client.drop_database(database)
        contender.meet(database)
        for action in ACTIONS:
            server.settle()
            before = server.commands()
            taken = contender.do(action, database)
            commands = sum(difference(before, server.commands()).values())
            _prove(contender, action, server.database(database))
            if counts:
                for part, seconds in {**taken, "commands": commands}.items():
                    book.write(contender.name, f"{action} {part}", seconds)
        contender.leave(database)
        server.client.drop_database(database)
        tell(f"round {number}{'' if counts else ' (warm-up)'}: {contender.name}")
    return book


def _prove(contender: Contender, action: str, db: Database[Document]) -> None:
    if isinstance(contender, Floor):
        return
    users = db.users.count_documents({"status": "active", "n": 1} if action != "down" else {})
    orders = db.purchases.count_documents({}) if action != "down" else db.orders.count_documents({})
    indexes = "email_1" in db.users.index_information()
    expected = (0, 0, False) if action == "down" else (programs.USERS, programs.ORDERS, True)
    if (users, orders, indexes) != expected:
        raise RuntimeError(f"{contender.name} {action} left {(users, orders, indexes)}, expected {expected}.")


class Floor(Process):
    """An interpreter that imports the driver and pings: what no command line of that language can beat."""


def warm_contenders(server: Server, workers: Sequence[Worker], folder: Path) -> list[Contender]:
    """Return who is compared inside warm processes."""
    programs.mongo_ops(folder / "warm")
    ours = WarmEngine(server, Engine(folder / "warm", folder / "warm-storage"))
    return [Bare(server), ours, *(WarmPeer(worker) for worker in workers)]


def process_contenders(server: Server, peers: Sequence[Peer], peer_folder: Path, folder: Path) -> list[Contender]:
    """Return who is compared as whole processes."""
    programs.mongo_ops(folder / "process")
    ours = Process(
        OURS, lambda action, _: _our_words(action), lambda database: _our_environment(server, database, folder), folder
    )
    ping = f"import pymongo; pymongo.MongoClient({server.uri!r}).admin.command('ping')"
    found: list[Contender] = [
        Floor(
            "(python: import pymongo, ping)",
            lambda *_: [sys.executable, "-c", ping],
            lambda _: clean_environment(),
            folder,
        ),
        ours,
    ]
    for peer in peers:
        project = folder / f"process-{peer.name}"
        peer.write(project)
        found.append(_peer_process(peer, server, peer_folder, project))
        if peer.node:
            found.append(_node_floor(peer, server, peer_folder, folder))
    return found


def _peer_process(peer: Peer, server: Server, peer_folder: Path, project: Path) -> Process:
    return Process(
        peer.name,
        lambda action, database: peer.words(action, server, database, peer_folder),
        lambda database: peer.environment(server, database, peer_folder),
        project,
    )


def _node_floor(peer: Peer, server: Server, peer_folder: Path, folder: Path) -> Floor:
    script = (
        f"const {{MongoClient}} = require({str(peer.home(peer_folder) / 'node_modules/mongodb')!r});"
        f"MongoClient.connect({server.uri!r}).then(c => c.db('admin').command({{ping: 1}}).then(() => c.close()))"
    )
    return Floor(
        "(node: require mongodb, ping)",
        lambda *_: [peer.interpreter(peer_folder), "-e", script],
        lambda _: clean_environment(),
        folder,
    )


def _our_words(action: str) -> list[str]:
    words = [str(Path(sys.executable).parent / "mongo-ops")]
    return [*words, *(["rollback", "--to", "0"] if action == "down" else ["migrate"]), "--env", "development"]


def _our_environment(server: Server, database: str, folder: Path) -> dict[str, str]:
    connection = {
        "conn_type": "mongo",
        "host": "127.0.0.1",
        "port": server.port,
        "schema": database,
        "extra": {"replicaSet": "rs0"},
    }
    return clean_environment() | {
        "MONGO_OPS_INCLUDE": str(folder / "process"), "MONGO_OPS_STORAGE": (folder / "process-storage").as_uri(),
        "AIRFLOW_CONN_MONGO_DEVELOPMENT": json.dumps(connection),
    }  # fmt: skip


def goals(warm: Notebook | None) -> list[Goal]:
    """Return the promises about the engine's time."""
    up = warm.series(OURS, "up seconds") if warm else None
    against = ratio(up, warm.series(BARE, "up seconds")) if warm and up else None
    return [
        Goal("engine time, six small migrations up", ENGINE_SECONDS, "under", "s", up),
        Goal("the same against the bare commands", ENGINE_RATIO, "at most", "times", against),
    ]


def tables(warm: Notebook, processes: Notebook, contenders: tuple[Sequence[str], Sequence[str]]) -> list[Table]:
    """Return what was measured."""
    return [
        _warm_table(warm, contenders[0]),
        _parts_table(warm),
        _process_table(processes, contenders[1]),
        _commands_table(warm, contenders[0]),
    ]


def _warm_table(book: Notebook, names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        cells = [_milliseconds(book.series(name, f"{action} seconds")) for action in ACTIONS]
        against = [
            ratio(book.series(name, f"{action} seconds"), book.series(BARE, f"{action} seconds")).show("{:.1f}")
            for action in ("up", "down")
        ]
        rows.append([name, *cells, *against])
    heading = ["warm process, ms: median (min - max)", "up", "nothing to do", "down", "up / bare", "down / bare"]
    return Table("Six small migrations inside a warm process", heading, rows)


def _parts_table(book: Notebook) -> Table:
    rows = []
    for part, what in {
        "plan": "read files and database, plan",
        "open": "prepare collections, take the lease",
        "work": "the six migrations",
        "close": "release the lease",
    }.items():
        rows.append([what, *(_milliseconds(book.series(OURS, f"{action} {part}")) for action in ("up", "down"))])
    total = [
        plus(*(book.series(OURS, f"{action} {part}") for part in ("plan", "open", "work", "close")))
        for action in ("up", "down")
    ]
    rows.append(["together", *map(_milliseconds, total)])
    return Table("Where mongo-ops' time goes", ["ms: median (min - max)", "up", "down"], rows)


def _process_table(book: Notebook, names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        cells = [_milliseconds(book.series(name, f"{action} seconds")) for action in ACTIONS]
        rows.append([name, *cells, f"{1000 * book.series(name, 'up cpu').median:.0f}"])
    heading = ["whole process, ms: median (min - max)", "up", "nothing to do", "down", "CPU, up"]
    return Table(
        "Six small migrations as a whole process",
        heading,
        rows,
        ("In brackets: what the language and driver alone take to start.",),
    )


def _commands_table(book: Notebook, names: Sequence[str]) -> Table:
    rows = [[name, *(f"{book.series(name, f'{action} commands').median:.0f}" for action in ACTIONS)] for name in names]
    return Table(
        "Commands sent to the server (round trips), warm process", ["tool", "up", "nothing to do", "down"], rows
    )


def _milliseconds(series: Series) -> str:
    return Series(tuple(1000 * value for value in series.values)).show("{:.0f}")
