"""A real S3-compatible object store for tests: OpenStack Swift in a process of its own, installed once into a cache folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import s3fs

VERSION = "2.38.3"
PORTS = 4
WRITER, READER = ("tests:writer", "writersecret"), ("tests:reader", "readersecret")
SERVER = Path(__file__).with_name("swift_server.py")


@dataclass
class ObjectStore:
    """The store's process. Its data survive ``kill`` and ``start``."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def endpoint(self) -> str:
        """The S3 API's address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(environment() / "bin" / "python"), str(SERVER), str(self.folder), str(self.port)]
        log = (self.folder / "log").open("a", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"Swift did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def connection(self, user: tuple[str, str] = WRITER) -> str:
        """Return the value of an ``AIRFLOW_CONN_*`` variable."""
        extra = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return json.dumps({"conn_type": "aws", "login": user[0], "password": user[1], "extra": extra})

    def client(self, user: tuple[str, str] = WRITER) -> s3fs.S3FileSystem:
        """Return a driver of its own, without a memory of listings."""
        place = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return s3fs.S3FileSystem(
            key=user[0], secret=user[1], client_kwargs=place, use_listings_cache=False, skip_instance_cache=True
        )


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """Yield a started store; it is killed at the end."""
    store = ObjectStore(folder, free_ports())
    store.start()
    try:
        yield store
    finally:
        store.kill()


def environment() -> Path:
    """Return the folder of Swift's own virtual environment; make it when it is not there. Several processes may ask at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mongo-ops"
    place = cache / f"swift-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "swift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
            python = str(place / "bin" / "python")
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, f"swift=={VERSION}"], check=True)
            (place / "complete").touch()
    return place


def free_ports() -> int:
    """Return the first of four neighbouring free ports."""
    while True:
        sockets = [socket.socket() for _ in range(PORTS)]
        try:
            sockets[0].bind(("127.0.0.1", 0))
            first: int = sockets[0].getsockname()[1]
            for number, one in enumerate(sockets[1:], 1):
                one.bind(("127.0.0.1", first + number))
        except (OSError, OverflowError):
            continue
        else:
            return first
        finally:
            for one in sockets:
                one.close()
