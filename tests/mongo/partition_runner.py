"""Partitionings as the tests use them: in the test's own process, and in one of its own that kills itself at a chosen command.

A process is forked from a server that has imported everything, so that a test can afford many of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument

from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.mongo import batches
from mongo_ops.mongo.batches import Progress
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.mongo.lease import Holder
from mongo_ops.partitions import engine, files
from mongo_ops.partitions.model import PartitionPlan, PartitionRequest, Phase, Strategy
from mongo_ops.partitions.work import PARTITIONS, Work
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder
from mongo_ops.storage.load import RAW
from mongo_ops.transfer import manifest
from mongo_ops.transfer.content import Content, of_documents

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.mongo.partition_runner"])
DEADLINE = 60.0
NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)
FIRST_DAY = datetime(2026, 5, 10, tzinfo=UTC)


def silent(progress: Progress) -> None:
    del progress


def work(target: Target, folder: str, run: str = "run 1", **options: Any) -> Work:
    """What a run holds in its hands."""
    return Work(
        target=target, folder=open_folder(folder), occasion=Occasion(Actor("tester", "os"), run), holder=Holder(run),
        report=silent, **options,
    )  # fmt: skip


@dataclass
class Partitions:
    """Plans and runs on one target; plans go through JSON, as between tasks."""

    target: Target
    folder: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def db(self) -> Any:
        return self.target.db

    def plan(self, strategy: Strategy, run: str = "run 1", folder: str | None = None, **asked: Any) -> PartitionPlan:
        request = PartitionRequest(strategy=strategy, **{"collection": "events", "key": "at", **asked})
        made = engine.plan(work(self.target, folder or self.folder, run, **self.options), request, NOW)
        again = PartitionPlan.of(json.loads(json.dumps(made.as_value())))
        assert again == made
        assert again.digest == made.digest
        return again

    def carry_out(
        self, plan: PartitionPlan, run: str = "run 1", folder: str | None = None
    ) -> dict[str, dict[str, int]]:
        holding = work(self.target, folder or self.folder, run, **self.options)
        done = {str(phase): engine.carry_out(holding, plan, phase) for phase in Phase}
        return {phase: counts for phase, counts in done.items() if counts}

    def run(
        self, strategy: Strategy, run: str = "run 1", folder: str | None = None, **asked: Any
    ) -> dict[str, dict[str, int]]:
        return self.carry_out(self.plan(strategy, run, folder, **asked), run, folder)

    def raw(self, name: str) -> list[bytes]:
        found = self.target.db.get_collection(name, codec_options=RAW).find()
        return sorted(bytes(document.raw) for document in found)

    def content(self, name: str) -> Content:
        return of_documents(self.raw(name))

    def names(self) -> list[str]:
        return sorted(
            one for one in self.db.list_collection_names() if not one.startswith(("ops_", "system.", "audit_"))
        )

    def archives(self) -> dict[str, Content]:
        """The content of every archive, by folder."""
        place = Path(open_folder(self.folder).path)
        found = sorted(one for one in place.glob("*") if (one / "manifest.json").exists())
        return {one.name: manifest.content_of(manifest.read(open_folder(one.as_uri())).total) for one in found}

    def everywhere(self) -> Content:
        """The content of all collections and of all archives together."""
        plain = [info["name"] for info in self.db.list_collections(filter={"type": "collection"})]
        ours = [name for name in plain if name.startswith("events")]
        return sum((self.content(name) for name in ours), sum(self.archives().values(), Content()))

    def outcome(self) -> dict[str, Any]:
        """What must be the same whether or not a run was killed. Archives of months are named after a random uuid."""
        events = Counter(one["action"] for one in self.db.audit_log.find())
        infos = {info["name"]: info for info in self.db.list_collections() if info["name"] in self.names()}
        return {
            "documents": {name: self.raw(name) for name, info in infos.items() if info["type"] == "collection"},
            "views": {name: info["options"] for name, info in infos.items() if info["type"] == "view"},
            "indexes": {n: sorted(i["name"] for i in self.db[n].list_indexes()) for n, i in infos.items() if i["type"] == "collection"},
            "archives": sorted(one.as_value()["digest"] for one in self.archives().values()),
            "states": sorted((one["_id"].split("/")[0], one["state"]) for one in self.db[PARTITIONS].find()),
            "audit": {name: count for name, count in events.items() if name.startswith("partition.")},
            "checkpoints": self.db.ops_checkpoints.count_documents({}),
        }  # fmt: skip


def fill(db: Any, count: int = 240, *, indexes: bool = True) -> None:
    """Documents over six months, with a validator and indexes."""
    db.create_collection("events", validator={"n": {"$type": "int"}}, validationLevel="moderate")
    if indexes:
        db.events.create_index([("at", 1), ("n", -1)], name="by_time")
        db.events.create_index("n", name="numbers", unique=True)
    days = (NOW - FIRST_DAY).days
    db.events.insert_many(
        [{"_id": i, "at": FIRST_DAY + timedelta(days=i * days / count), "n": i, "text": "x" * 50} for i in range(count)]
    )


def insert_raw(db: Any, name: str, document: bytes) -> None:
    """Put bytes into a collection as they are."""
    db.get_collection(name, codec_options=RAW).insert_one(RawBSONDocument(document, RAW))


# Processes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where to die: ``before`` the n-th command of a name is sent, or ``after`` its answer came."""

    command: str
    nth: int = 1
    when: str = "after"

    def __str__(self) -> str:
        return f"{self.when}-{self.command}-{self.nth}"


@dataclass(frozen=True)
class Job:
    """What a process needs to know."""

    uri: str
    database: str
    folder: str
    plan: dict[str, Any]
    run: str = "run 1"


class Mine:
    """A command listener that kills its process."""

    def __init__(self, point: Point) -> None:
        self.point, self.seen = point, 0

    def started(self, event: Any) -> None:
        if event.command_name == self.point.command:
            self.seen += 1
            self._here("before")

    def succeeded(self, event: Any) -> None:
        if event.command_name == self.point.command:
            self._here("after")

    def failed(self, event: Any) -> None:
        del event

    def _here(self, when: str) -> None:
        if (self.point.nth, self.point.when) == (self.seen, when):
            os.kill(os.getpid(), signal.SIGKILL)


def listener(point: Point) -> Any:
    from pymongo.monitoring import CommandListener

    return type("MineListener", (Mine, CommandListener), {})(point)


def go_on(job: Job, point: Point | None) -> None:
    """Carry a plan out from wherever a killed process stopped, in small batches."""
    batches.FIRST_SIZE, files.PIECE = 40, 30
    environment = Environment("development", "mongo_development", database=job.database, batch_seconds=0.002)
    spec = ConnectionSpec("mongo_development", job.uri, "here", job.database)
    mines = () if point is None else (listener(point),)
    with connect(spec, environment, listeners=mines) as target:
        Partitions(target, job.folder).carry_out(PartitionPlan.of(job.plan), job.run)


def run(job: Job, point: Point | None = None) -> bool:
    """Run a process and say whether it was killed."""
    running = CONTEXT.Process(target=go_on, args=(job, point), daemon=True)
    running.start()
    running.join(DEADLINE)
    assert running.exitcode in (0, -signal.SIGKILL), (point, running.exitcode)
    return bool(running.exitcode)


def points() -> Iterator[Any]:
    """Where by_time dies: around every kind of change of the catalogue, and around commits.

    What dies inside a transaction blocks its retry for the seconds that the server lets one live, so those are long runs, as are most others.
    """
    yield from (Point("create"), Point("renameCollection"), Point("drop"), Point("commitTransaction", 4))
    late = [
        Point("create", 1, "before"),
        Point("create", 5),
        Point("createIndexes"),
        Point("createIndexes", 1, "before"),
    ]
    late += [
        Point("renameCollection", 1, "before"),
        Point("renameCollection", 2),
        Point("drop", 1, "before"),
        Point("drop", 2),
    ]
    late += [Point("delete", 3), Point("commitTransaction", 2, "before"), Point("commitTransaction", 15, "before")]
    late += [Point("commitTransaction", nth, when) for nth in (1, 8, 12, 18, 22, 25) for when in ("before", "after")]
    yield from (pytest.param(point, marks=pytest.mark.chaos) for point in (*late, Point("commitTransaction", 16)))
