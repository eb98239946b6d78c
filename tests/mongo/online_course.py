"""An online migration with writers at work on its collection: the shapes of the ledger tests, and what must hold at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from bson import Int64
from tests.mongo import online_runner
from tests.mongo.online_ledger import NEVER, NOTHING_LOST, Crowd, Document, Ledger, Losses, compare
from tests.mongo.online_project import Project, spec

from mongo_ops import audit
from mongo_ops.errors import RunError
from mongo_ops.mongo.connection import Target
from mongo_ops.online.model import Phase

NAME, COLLECTION, GHOST, OLD = "001_notes", "notes", "ops_ghost_notes", "ops_old_notes"
QUICK = "Limits(chunk=150, nice=0.0)"
SECONDS = {
    "transform": '[{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}]',
    "fields": '("seconds",)',
    "contract": 'Contract(validator={"$jsonSchema": {"required": ["seconds"]}})',
    "limits": QUICK,
}
BY_FUNCTION = SECONDS | {"transform": 'lambda note: {**note, "seconds": note["ms"] / 1000}'}
"""In place: a field derived of another, by the server or by a function."""

LONG = {
    "mode": '"ghost"',
    "transform": '[{"$set": {"ms": {"$toLong": "$ms"}, "seconds": {"$divide": ["$ms", 1000]}}}]',
    "inverse": '[{"$set": {"ms": {"$toInt": "$ms"}}}, {"$unset": "seconds"}]',
    "limits": QUICK,
}
"""By a ghost: a longer integer and a new field; the way back gives writers exactly what they wrote."""

RENAMED = {
    "mode": '"ghost"',
    "transform": '[{"$set": {"_id": {"$concat": ["n", {"$toString": "$_id"}]}, "was": "$_id"}}]',
    "inverse": '[{"$set": {"_id": "$was"}}, {"$unset": "was"}]',
    "changes_id": "True",
    "limits": QUICK,
}
"""By a ghost: another ``_id``."""


def with_seconds(note: Document) -> Document:
    return {**note, "seconds": note["ms"] / 1000}


def with_longs(note: Document) -> Document:
    return {**with_seconds(note), "ms": Int64(note["ms"])}


def renamed(note: Document) -> Document:
    return {**note, "_id": f"n{note['_id']}", "was": note["_id"]}


class Course:
    """A project with one migration, a crowd of writers, and the moments between which the collections were swapped."""

    def __init__(self, target: Target, uri: str, folder: Path, words: dict[str, str], **options: Any) -> None:
        self.project = Project(target, folder / "include")
        self.project.write(NAME, spec(COLLECTION, **words))
        self.crowd = Crowd(uri, target.database, COLLECTION, **options)
        self.crowd.load()
        self.swapped = NEVER
        self.killed = self.retried = 0

    @property
    def db(self):
        return self.project.db

    @property
    def live(self):
        return self.db[COLLECTION]

    def engine(self, owner: str = "tester"):
        return self.project.engine(NAME, owner)

    @property
    def phase(self) -> Phase:
        return Phase(self.project.state(NAME)["phase"])

    def cut_over(self, engine=None):
        """Cut over, and note when."""
        engine = engine or self.engine()
        began = time.monotonic()
        done = engine.cut_over(engine.verification().digest)
        self.swapped = (began, time.monotonic())
        return done

    def level(self) -> None:
        """With the writers at rest, replay until nothing is left."""
        engine = self.engine()
        while engine.advance(budget=5.0).progress["changes"]:
            pass

    def losses(self, transform, collection: str = COLLECTION, ledger: Ledger | None = None) -> Losses:
        return compare(ledger or self.crowd.ledger(), self.db[collection], transform, self.swapped)

    def nothing_lost(self, transform, collection: str = COLLECTION) -> None:
        losses = self.losses(transform, collection)
        assert losses == NOTHING_LOST, str(losses)

    # Processes that are killed --------------------------------------------------------------------------------------------

    def process(self, action: str, **options: Any) -> Fork:
        """Start the runner on this course's migration in a process of its own."""
        seeds = ",".join(f"{host}:{port}" for host, port in sorted(self.db.client._topology_settings.seeds))
        words = {"uri": f"mongodb://{seeds}/?replicaSet=rs0", "hosts": seeds, "database": self.db.name, "name": NAME}
        words |= {"include": str(self.project.include), "owner": "tester", "action": action}
        return Fork(words | {"lease_ttl": self.project.target.environment.lease_ttl} | options)

    def killed_at(self, step: str, action: str, **options: Any) -> str:
        """Run a process until it has reached the step and kill it there; return the kind of the last line that it told."""
        with self.process(action, stop_at=step, **options) as process:
            told = {"event": "nothing"}
            while line := process.line():
                told = line
                if line["event"] == "stopped":
                    self.killed += process.kill()
        return told["event"]

    def completed(self, action: str, **options: Any) -> dict[str, Any]:
        """Let a process do it to the end, and another one when that is told to be retried; return the result.

        A process killed while the server still worked on its request for the lease gets it in the end, and the next one loses its own.
        """
        for _ in range(TRIES):
            with self.process(action, **options) as process:
                code, told = process.end()
            if code != RunError.exit_code:
                break
            self.retried += 1
        assert code == 0, told
        return told[-1]


def nothing_left(at):
    """No fence, no lease, no broken chain."""
    assert not at.project.state(NAME).get("fence")
    assert audit.verify(at.db).ok


TRIES = 4
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.mongo.online_course"])


class Fork:
    """The runner in a process that is forked from a server which has imported everything: a test can afford many."""

    def __init__(self, options: dict[str, Any]) -> None:
        told, end = CONTEXT.Pipe(duplex=False)
        self.running = CONTEXT.Process(target=_run, args=(json.dumps(options), end), daemon=True)
        self.running.start()
        end.close()
        self._lines = os.fdopen(os.dup(told.fileno()))
        told.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._lines.close()

    def line(self) -> dict[str, Any]:
        """Wait for the next line that it tells; {} when it has ended."""
        return json.loads(self._lines.readline() or "{}")

    def send(self, number: int) -> None:
        os.kill(self.running.pid, number)

    def kill(self) -> bool:
        """kill -9; say whether it was alive until then."""
        alive = self.running.exitcode is None
        self.running.kill()
        self.running.join()
        return alive and self.running.exitcode == -signal.SIGKILL

    def end(self, seconds: float = 120.0) -> tuple[int | None, list[dict[str, Any]]]:
        """Wait for the end; return the exit code and what was told."""
        watch = threading.Timer(seconds, self.running.kill)
        watch.start()
        told = [json.loads(line) for line in self._lines]
        self.running.join()
        watch.cancel()
        return self.running.exitcode, told


def _run(options: str, end: Any) -> None:
    sys.argv, sys.stdout = ["online_runner", options], os.fdopen(os.dup(end.fileno()), "w")
    end.close()
    sys.exit(online_runner.main())
