"""The one embedded mongod that all contenders of a run share, and what it says about the commands they sent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from mongo_ops.embedded import ReplicaSet

Document = dict[str, Any]
GREETINGS = frozenset(
    {
        "hello",
        "isMaster",
        "ismaster",
        "ping",
        "buildInfo",
        "serverStatus",
        "endSessions",
        "fsync",
        "dropDatabase",
        "connectionStatus",
    }
)
"""Handshakes, the drivers' monitoring, and what the benchmark itself sends."""

OPTIONS = ("--setParameter", "disableLogicalSessionCacheRefresh=true")  # its own traffic would be counted
CACHE = "cache_size=1G"  # the embedded default, 0.25 GB, would measure eviction


@dataclass(frozen=True)
class Server:
    """The running server."""

    uri: str
    port: int
    client: MongoClient[Document]

    def database(self, name: str) -> Database[Document]:
        """Return a database."""
        return self.client[name]

    def uri_of(self, database: str) -> str:
        """Return a connection string that names the database."""
        return f"mongodb://127.0.0.1:{self.port}/{database}?replicaSet=rs0"

    def commands(self) -> dict[str, int]:
        """Return how many commands of each name the server has received from clients, greetings left out."""
        seen: Mapping[str, Any] = self.client.admin.command("serverStatus")["metrics"]["commands"]
        totals = {
            name: int(entry["total"]) for name, entry in seen.items() if isinstance(entry, Mapping) and "total" in entry
        }
        return {name: total for name, total in totals.items() if name not in GREETINGS}

    def settle(self) -> None:
        """Write a checkpoint now, so that nobody pays for what the one before left behind."""
        self.client.admin.command("fsync")


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what was added, by name, the most frequent first."""
    added = {name: total - before.get(name, 0) for name, total in after.items()}
    return {name: count for name, count in sorted(added.items(), key=lambda item: -item[1]) if count}


@contextmanager
def serve() -> Iterator[Server]:
    """Yield a server that is gone afterwards, with its data."""
    client: MongoClient[Document]
    with (
        tempfile.TemporaryDirectory(prefix="mongo-ops-bench-") as folder,
        ReplicaSet(Path(folder), options=OPTIONS).running() as replica_set,
        MongoClient(replica_set.uri) as client,
    ):
        client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=CACHE)
        yield Server(replica_set.uri, replica_set.nodes[0].port, client)
