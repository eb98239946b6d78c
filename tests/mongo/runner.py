"""The engine as the proof tests use it: in the test's own process, and as a process of its own that can be killed.

``python -m tests.mongo.runner '{"uri": ..., "hosts": ..., "database": ..., "include": ..., "storage": ...}'`` prints one JSON
line when it has the lease, one for each outcome, and one for an error of ours; its exit code is the error's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pymongo import client_session_shared

from mongo_ops import migrations
from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import engine, history
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.mongo.batches import log_progress
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.mongo.lease import Holder
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "include"
DEADLINE = 60.0


def migration(
    *operations: str, before: str = "", doc: str = "A migration of a test, long enough to say what it does.", **rest
):
    """The text of a migration file. ``before`` is code above the value; ``rest`` are further arguments, as source."""
    further = "".join(f"    {name}={value},\n" for name, value in rest.items())
    listed = "".join(f"        {operation},\n" for operation in operations)
    head = f'"""{doc}"""\nfrom mongo_ops.migrations import *\n\n{textwrap.dedent(before)}\n'
    return f"{head}migration = Migration(\n    operations=[\n{listed}    ],\n{further})\n"


@dataclass
class Project:
    """A folder of migrations and the database that they run on."""

    target: Target
    include: Path
    report: Any = log_progress

    @property
    def db(self):
        return self.target.db

    def write(self, **files: str) -> None:
        """Write migration files: ``n001_name="text"`` (a keyword cannot begin with a digit)."""
        (self.include / "migrations").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            self.path(name[1:]).write_text(text, encoding="utf-8")

    def path(self, name: str) -> Path:
        return self.include / "migrations" / f"{name}.py"

    def edit(self, name: str, old: str, new: str) -> None:
        text = self.path(name).read_text(encoding="utf-8")
        assert old in text
        self.path(name).write_text(text.replace(old, new), encoding="utf-8")

    def survey(self) -> engine.Survey:
        return engine.survey(self.target, self.include)

    def open(self, owner: str = "tester", run_id: str = "run 1"):
        occasion = Occasion(Actor("me", "os"), run_id)
        losses = Losses(open_folder(self.target.environment.storage))
        return engine.open_run(self.target, occasion, losses, holder=Holder(owner), report=self.report)

    def migrate(self, version: str | None = None, *, owner: str = "tester", allow_out_of_order: bool = False):
        """Apply what is pending; return the outcomes."""
        facts = self.survey()
        plan = engine.plan_forward(self.target, facts, version=version, allow_out_of_order=allow_out_of_order)
        with self.open(owner) as run:
            return list(engine.apply_all(run, facts, plan.names))

    def rollback(self, version: str | None = "0", *, failed_only: bool = False, owner: str = "tester"):
        """Go back to a version; return the outcomes."""
        facts = self.survey()
        plan = engine.plan_reverse(self.target, facts, None if failed_only else version, failed_only=failed_only)
        with self.open(owner) as run:
            return list(engine.revert_all(run, facts, plan.names))

    def states(self) -> dict[str, str]:
        return {record.name: record.state.value for record in history.load_all(self.db)}

    def events(self, name: str) -> list[str]:
        found = self.db["ops_history"].find({"migration": name}, sort=[("at", 1), ("_id", 1)])
        return [event["event"] for event in found]

    def process(self, **options: Any) -> Process:
        """Start the runner on this project as a process of its own."""
        environment, seeds = self.target.environment, self.target.client._topology_settings.seeds
        hosts = ",".join(f"{host}:{port}" for host, port in sorted(seeds))
        words = {"uri": f"mongodb://{hosts}/?replicaSet=rs0", "hosts": hosts, "database": self.target.database}
        words |= {"include": str(self.include), "storage": environment.storage, "owner": "tester"}
        words |= {"lease_ttl": environment.lease_ttl, "batch_seconds": environment.batch_seconds}
        return Process(words | options)


@dataclass
class Process:
    """A runner in a process of its own."""

    options: dict[str, Any]
    popen: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "tests.mongo.runner", json.dumps(self.options)]
        self.popen = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)
        self.popen.communicate()

    def send(self, number: int) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def line(self) -> dict[str, Any]:
        """Wait for the next line that it prints."""
        text = self.popen.stdout.readline()
        assert text, f"the runner ended: {self.popen.communicate()}"
        return json.loads(text)

    def kill(self) -> None:
        """kill -9, and be sure that it was alive until then."""
        assert self.popen.poll() is None, self.popen.communicate()
        self.popen.kill()
        self.popen.communicate()

    def end(self, seconds: float = DEADLINE) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the end; return the exit code, what was printed, and the log."""
        out, log = self.popen.communicate(timeout=seconds)
        return self.popen.returncode, [json.loads(line) for line in out.splitlines()], log


def until(question: Any, what: str, seconds: float = DEADLINE, running: Process | None = None) -> Any:
    """Ask again and again until the answer is true; return it."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        if running is not None and running.popen.poll() is not None:
            raise AssertionError(f"the runner ended before {what}: {running.popen.communicate()}")
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.002)
    return answer


def slow(target: Target, **changes: Any) -> Target:
    """The same target with other rules, such as short batches or a short lease."""
    return replace(target, environment=replace(target.environment, **changes))


def point_of(db: Any, name: str, direction: str = "forward") -> int:
    """How many documents the running walk of a migration has done."""
    running = {"_id": {"$regex": f"^{name}\\.\\d+/{direction}/"}, "finished": False}
    return (db["ops_checkpoints"].find_one(running, {"done": 1}) or {"done": 0})["done"]


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts, default=str) + "\n")
    sys.stdout.flush()


def work(options: dict[str, Any]) -> None:
    """Do what the options say."""
    rules = {name: options[name] for name in ("lease_ttl", "batch_seconds") if name in options}
    environment = Environment("development", "c", database=options["database"], storage=options["storage"], **rules)
    timeouts = {"serverSelectionTimeoutMS": options["selection_ms"]} if "selection_ms" in options else {}
    spec = ConnectionSpec("c", options["uri"], options["hosts"], options=timeouts)
    occasion = Occasion(Actor("me", "os"), options.get("run_id", "run 1"))
    losses = Losses(open_folder(environment.storage))
    holder = Holder(options["owner"])
    with connect(spec, environment) as target, engine.open_run(target, occasion, losses, holder=holder) as run:
        tell(event="opened", epoch=run.lease.epoch)
        facts = engine.survey(target, Path(options["include"]))
        if "rollback_to" in options:
            version, failed = options["rollback_to"], options["rollback_to"] is None
            plan = engine.plan_reverse(target, facts, version, failed_only=failed)
            outcomes = engine.revert_all(run, facts, plan.names)
        else:
            outcomes = engine.apply_all(run, facts, engine.plan_forward(target, facts).names)
        for outcome in outcomes:
            tell(event="outcome", name=outcome.name, counts=dict(outcome.counts), already=outcome.already)


def stop_after(kind: str, direction: str) -> None:
    """Freeze this process when such an operation has done its work and nothing of that is recorded yet."""
    operation, real = getattr(migrations, kind), getattr(getattr(migrations, kind), direction)

    def and_freeze(self: Any, at: Any) -> Any:
        counts = real(self, at)
        tell(event="stopped")
        os.kill(os.getpid(), signal.SIGSTOP)
        return counts

    setattr(operation, direction, and_freeze)


def main() -> int:
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "retry_seconds" in options:  # how long the driver repeats a transaction: 120 s otherwise
        client_session_shared._WITH_TRANSACTION_RETRY_TIME_LIMIT = options["retry_seconds"]
    if "stop_after" in options:
        stop_after(*options["stop_after"])
    if "barrier" in options:  # all at once
        tell(event="ready")
        while not Path(options["barrier"]).exists():
            time.sleep(0.001)
    try:
        work(options)
    except MongoOpsError as error:
        tell(event="error", type=type(error).__name__, message=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
