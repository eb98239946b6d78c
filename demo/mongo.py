"""The embedded MongoDB of a stack: one node, its data kept, its port changeable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pymongo.errors import OperationFailure

from mongo_ops.embedded import Mongod, ReplicaSet

NOT_YET_INITIALIZED = 94


def start_replica_set(folder: Path, port: int, *, detached: bool) -> ReplicaSet:
    """Start the one-node replica set on this port and wait for its primary."""
    if (folder / "node0").exists():
        _move_to(folder, port)
    started = ReplicaSet(folder, ports=(port,), detached=detached).start()
    (folder / "port").write_text(str(port))
    return started


def _move_to(folder: Path, port: int) -> None:
    """Rewrite the kept set's only member to this port, as a member knows itself by its address."""
    node = Mongod(folder / "node0", port)
    marker = folder / "port"
    if marker.exists() and marker.read_text() == str(port):
        return
    node.start()
    try:
        with node.direct_client() as client, _not_yet_initiated():
            config = client.admin.command("replSetGetConfig")["config"]
            config["members"][0]["host"] = node.address
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)
    finally:
        node.stop()


@contextlib.contextmanager
def _not_yet_initiated() -> Iterator[None]:
    """Pass over a folder whose first start was cut short before it became a replica set."""
    try:
        yield
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
