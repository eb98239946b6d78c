"""The other tools: how each is installed, kept apart from this project, and run. What is not there is named, never guessed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pymongo

from benchmarks import programs
from benchmarks.server import Server

WORKERS = Path(__file__).parent / "workers"
Write = Callable[[Path], None]


def default_folder() -> Path:
    """Return where peers are kept: a cache, safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mongo-ops-bench"


@dataclass(frozen=True)
class Peer:
    """A tool in a folder of its own. ``up`` and ``down`` are the words of its command line."""

    name: str
    version: str
    write: Write
    up: Sequence[str]
    down: Sequence[str]
    program: str
    node: bool = False

    def home(self, folder: Path) -> Path:
        """Return where it is installed."""
        return folder / f"{self.name}-{self.version}"

    def executable(self, folder: Path) -> Path:
        """Return its program."""
        return self.home(folder) / ("node_modules/.bin" if self.node else "bin") / self.program

    def interpreter(self, folder: Path) -> str:
        """Return what runs its code."""
        return shutil.which("node") or "node" if self.node else str(self.home(folder) / "bin" / "python")

    def is_installed(self, folder: Path) -> bool:
        """Tell whether it can be run."""
        return self.executable(folder).exists()

    def install(self, folder: Path) -> str | None:
        """Install it and return None, or why that did not work. Python ones get this project's PyMongo: like with like."""
        home = self.home(folder)
        home.mkdir(parents=True, exist_ok=True)
        if self.node:
            steps = [
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), f"{self.name}@{self.version}"]
            ]
        else:
            packages = [f"{self.name}=={self.version}", f"pymongo=={pymongo.version}"]
            steps = [
                [sys.executable, "-m", "venv", str(home)],
                [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages],
            ]
        for words in steps:
            try:
                done = subprocess.run(words, capture_output=True, text=True, check=False, env=clean_environment())
            except FileNotFoundError:
                return f"{words[0]} is not installed"
            if done.returncode != 0:
                last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
                shutil.rmtree(home, ignore_errors=True)
                return f"`{Path(words[0]).name}` failed: {last[0] if last else done.returncode}"
        return None

    def environment(self, server: Server, database: str, folder: Path) -> dict[str, str]:
        """Return the environment of its processes."""
        ours = {
            "MONGODB_URI": server.uri, "MONGODB_DATABASE": database, "PEER_ROOT": str(self.home(folder)),
            "PYMONGO_MIGRATE_URI": server.uri, "PYMONGO_MIGRATE_DATABASE": database, "PYMONGO_MIGRATE_MIGRATIONS": "migrations",
        }  # fmt: skip
        return clean_environment() | ours

    def words(self, do: str, server: Server, database: str, folder: Path) -> list[str]:
        """Return the command line."""
        chosen = self.down if do == "down" else self.up
        return [str(self.executable(folder)), *(word.format(url=server.uri_of(database)) for word in chosen)]


PEERS = (
    Peer("migrate-mongo", "14", programs.migrate_mongo, ("up",), ("down", "-b"), "migrate-mongo", node=True),
    Peer("pymongo-migrate", "1.0.0", programs.pymongo_migrate, ("upgrade",), ("downgrade",), "pymongo-migrate"),
    Peer(
        "mongodb-migrations", "1.3.1", programs.mongodb_migrations,
        ("--url", "{url}", "--migrations", "migrations"), ("--url", "{url}", "--migrations", "migrations", "--downgrade"), "mongodb-migrate",
    ),
    Peer("mongomig", "0.4.2", programs.mongomig, ("upgrade", "--yes"), ("downgrade", "base", "--yes"), "mongomig"),
)  # fmt: skip


def clean_environment() -> dict[str, str]:
    """Return this environment without what slows Python down or changes what it imports."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV")
    }


@dataclass
class Worker:
    """A warm process of a peer, asked line by line."""

    peer: Peer
    process: subprocess.Popen[str]
    project: Path

    @classmethod
    def start(cls, peer: Peer, folder: Path, server: Server, project: Path) -> Worker:
        """Start it in the peer's project."""
        script = WORKERS / ("peer.mjs" if peer.node else "peer.py")
        words = [peer.interpreter(folder), str(script)] + ([] if peer.node else [peer.name, str(project)])
        with (project / "worker.log").open("w") as log:
            process = subprocess.Popen(
                words, cwd=project, env=peer.environment(server, "unset", folder), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        return cls(peer, process, project)

    def ask(self, do: str, database: str) -> float:
        """Let it work and return the seconds.

        Raises:
            RuntimeError: it ended.
        """
        asked, answered = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)
        print(json.dumps({"do": do, "database": database}), file=asked, flush=True)
        line = answered.readline()
        if not line:
            end = (self.project / "worker.log").read_text(encoding="utf-8")[-600:]
            raise RuntimeError(
                f"{self.peer.name} ended with code {self.process.wait()} while it should do `{do}`:\n{end}"
            )
        return float(json.loads(line)["seconds"])

    def stop(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
