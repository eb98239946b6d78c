"""One real scheduler for all of these tests, on a folder of migrations of their own; every test has a database to itself."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
from demo.api import ApiError, Run
from demo.environment import ROOT
from demo.processes import wait_for
from demo.stack import Stack
from pymongo.database import Database

PASSWORD = "pa55-marker-of-the-password"
LOGIN = "login-marker-of-the-user"
CONNECTION, WRONG_PASSWORD, NOWHERE = "mongo_tests", "mongo_wrong_password", "mongo_nowhere"

DAGS = sorted(file.stem for file in (ROOT / "dags").glob("*.py"))
PLAIN = (
    "development",
    "trial",
    "aimed",
    "raced",
    "drifted",
    "returning",
    "final",
    "late",
    "telling",
    "killed",
    "stopped",
    "orphaned",
    "forgotten",
    "guarded_before",
    "moved",
    "landed",
    "watched",
    "retained",
    "flowing",
    "swapped",
)
PROTECTED = {
    "production": {"promotes_from": "staging"},
    "rejected": {"promotes_from": "staging"},
    "impatient": {"promotes_from": "staging", "approval_minutes": 0.02},
    "edited": {"promotes_from": "staging"},
    "forced": {"promotes_from": "staging"},
    "appointed": {"promotes_from": "staging", "approvers": ["admin"]},
    "chosen": {"promotes_from": "staging", "approvers": ["admin", "olivia"]},
    "untested": {"promotes_from": "unproven"},
    "urgent": {"promotes_from": "unproven"},
    "guarded": {},
    "received": {},
}

COUNT_PLAYS = '''"""Count one more play in every counter.

Readers may see counters with and without it until this has run. Undone by counting one less in exactly those.
"""

from mongo_ops.migrations import Backfill, Migration

migration = Migration(
    tags=("core",),
    environments=("late", "edited", "killed", "stopped", "orphaned"),
    operations=[Backfill("counters", {"$inc": {"n": 1}}, where={"kind": "play"}, revert={"$inc": {"n": -1}})],
)
'''
FORGET_DRAFTS = '''"""Remove drafts for good.

Readers may see drafts until this has run. There is no way back.
"""

from mongo_ops.migrations import Backfill, Migration

migration = Migration(
    tags=("core",),
    environments=("final",),
    irreversible="the drafts' authors were promised that nobody keeps a copy",
    operations=[Backfill("drafts", {"$unset": {"text": ""}}, where={"kind": "draft"}, revert="snapshot")],
)
'''
TELL_A_SECRET = '''"""Fail with a text that holds what a user wrote.

Readers see no difference. Nothing to undo.
"""

from mongo_ops.migrations import Migration, RunPython


def tell(ctx):
    """Fail as code does that puts a value into its message."""
    raise ValueError(f"cannot handle {ctx.db.users.find_one()['email']}")


def nothing(ctx):
    """There is nothing to undo."""


migration = Migration(
    tags=("advanced",),
    environments=("telling",),
    operations=[RunPython(tell, reverse=nothing, collections=["users"])],
)
'''
SECONDS = '''"""Give plays their length in seconds beside that in milliseconds.

Old writers go on writing milliseconds only; the field is kept right beside them until the contract.
"""

from mongo_ops.online import Contract, Limits, OnlineMigration

migration = OnlineMigration(
    collection="plays",
    transform=[{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}],
    fields=("seconds",),
    contract=Contract(drop=("ms",)),
    limits=Limits(chunk=200, nice=0.5),
)
'''
WORDS = '''"""Compare words without regard to case, by default: a collation, which only a new collection can have.

Readers see the same documents in another order. Undone by a rollback within the window.
"""

from mongo_ops.online import Limits, OnlineMigration, TargetOptions

migration = OnlineMigration(
    collection="words",
    mode="ghost",
    transform=[{"$set": {"size": {"$strLenCP": "$word"}}}],
    inverse=[{"$unset": "size"}],
    target=TargetOptions(collation={"locale": "de", "strength": 2}),
    limits=Limits(nice=0),
    soak_hours=1,
)
'''
ONLINE = {"901_seconds.py": SECONDS, "902_words.py": WORDS}
EXTRA = {
    "008_count_plays.py": COUNT_PLAYS,
    "009_forget_drafts.py": FORGET_DRAFTS,
    "010_tell_a_secret.py": TELL_A_SECRET,
}

SETTINGS = {
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",  # an approval's time limit is looked at this often
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",  # leaves the processors to the tests beside it
}


@dataclass(frozen=True)
class Ended:
    """A run that came to its end, with what its tasks came to."""

    run: Run
    state: str
    tasks: Mapping[str, Mapping[str, Any]]

    @property
    def states(self) -> dict[str, str]:
        """Each task's state by its name without the group."""
        return {name: str(task["state"]) for name, task in self.tasks.items()}

    def migrations(self, state: str) -> list[str]:
        """The migrations whose task ended so, oldest first."""
        return sorted(name for name, found in self.states.items() if name[:3].isdigit() and found == state)


class Scheduler:
    """The running stack, and what a person would do with it: trigger, look, answer, clear, use the CLI beside it."""

    def __init__(self, stack: Stack, include: Path) -> None:
        self.stack, self.include = stack, include
        self.api = stack.api
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(stack.mongo_uri)

    def db(self, environment: str) -> Database[dict[str, Any]]:
        """Return an environment's database."""
        return self.client[f"test_{environment}"]

    def trigger(self, environment: str, dag: str = "mongo_migrate", user: str = "admin", **conf: Any) -> Run:
        """Start a run."""
        return self.stack.api_as(user).trigger(dag, {"environment": environment, **conf})

    def end(self, run: Run, timeout: float = 120) -> Ended:
        """Wait for a run's end."""
        state = self.api.wait(run, timeout)
        return Ended(run, state, {name_of(task["task_id"]): task for task in self.api.task_instances(run)})

    def migrate(self, environment: str, **conf: Any) -> Ended:
        """Run mongo_migrate to its end."""
        return self.end(self.trigger(environment, **conf))

    def roll_back(self, environment: str, target_version: str, **conf: Any) -> Ended:
        """Run mongo_rollback to its end."""
        return self.end(self.trigger(environment, "mongo_rollback", target_version=target_version, **conf))

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Poll until something holds."""
        assert wait_for(lambda: bool(condition()), seconds, 0.02), f"{what}: not within {seconds:.0f} s"

    def until_asked(self, run: Run, task_id: str = "approve") -> None:
        """Wait until the run waits for a person, and Airflow's scheduler has noticed that the asking process has ended.

        An answer within that blink is lost: the scheduler takes the end of the first process for the end of the task.
        """
        self.until(lambda: self.api.task(run, task_id)["state"] == "awaiting_input", "the question for approval")
        self.until(lambda: self._saw_the_end(run, task_id), "the end of the asking process")

    def _saw_the_end(self, run: Run, task_id: str) -> bool:
        lines = (self.stack.run / "logs" / "scheduler.log").read_text(errors="replace").splitlines()
        ends = (line for line in lines if "Received executor event with state success" in line)
        return any(f"task_id='{task_id}'" in line and run.run_id in line for line in ends)

    def log(self, run: Run, task_id: str, try_number: int = 1) -> str:
        """Return a task's log, with what Airflow keeps of exceptions."""
        path = f"{run.path}/taskInstances/{self.task_id(run, task_id)}/logs/{try_number}?full_content=true"
        return json.dumps(self.api.call("GET", path)["content"], ensure_ascii=False)

    def task_id(self, run: Run, name: str) -> str:
        """Return a task's full id, with its group."""
        return next(t["task_id"] for t in self.api.task_instances(run) if name_of(t["task_id"]) == name)

    def set_state(self, run: Run, name: str, state: str) -> None:
        """Mark a task as failed or successful, as a button in the UI does."""
        self.api.call("PATCH", f"{run.path}/taskInstances/{self.task_id(run, name)}", {"new_state": state})

    def give_up(self, run: Run, name: str) -> Ended:
        """Mark a task as failed while it waits for its next try; return the run's end."""
        self.until(
            lambda: self.api.task(run, self.task_id(run, name))["state"] == "up_for_retry", "a pause between tries"
        )
        self.set_state(run, name, "failed")
        return self.end(run)

    def cli(
        self, command: str, environment: str, *more: str, include: Path | None = None, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run ``mongo-ops`` on an environment; ``typed`` is what it reads from standard input."""
        words = [str(Path(sys.executable).with_name("mongo-ops")), *command.split(), "--env", environment, *more]
        return subprocess.run(
            words, env=self.cli_environment(include), cwd=ROOT, capture_output=True, text=True, check=False, input=typed
        )

    def cli_environment(self, include: Path | None = None) -> dict[str, str]:
        """Return the environment in which a person would use the CLI."""
        uri = json.dumps(
            connection(self.stack, PASSWORD) | {"extra": json.loads(connection(self.stack, PASSWORD)["extra"])}
        )
        theirs = self.stack.environment()
        keys = {name: value for name, value in theirs.items() if name.startswith("AIRFLOW_VAR_")}
        ours = {"MONGO_OPS_INCLUDE": str(include or self.include), f"AIRFLOW_CONN_{CONNECTION.upper()}": uri}
        return {**os.environ, **ours, **keys, "MONGO_OPS_STORAGE": theirs["MONGO_OPS_STORAGE"]}

    def bring_up(self, environment: str, *more: str, include: Path | None = None) -> None:
        """Apply migrations with the CLI, which is quicker than a run."""
        done = self.cli("migrate", environment, *more, include=include)
        assert done.returncode == 0, done.stderr

    def applied(self, environment: str) -> list[str]:
        """Return the migrations that are applied, oldest first."""
        return [found["_id"] for found in self.db(environment)["ops_migrations"].find({"state": "applied"}).sort("_id")]

    def events(self, environment: str, event: str) -> list[dict[str, Any]]:
        """Return a kind of events of the history in the order of the server's clock; keys of different processes have none."""
        return list(self.db(environment)["ops_history"].find({"event": event}).sort("at"))

    def files(self, environment: str | None = None) -> list[str]:
        """Return the names of the migrations that apply to an environment, oldest first; of all without one."""
        names = sorted(path.stem for path in (self.include / "migrations").glob("[0-9]*.py"))
        return [
            name
            for name in names
            if environment is None or f"{name}.py" not in EXTRA or f'"{environment}"' in EXTRA[f"{name}.py"]
        ]

    def lineage(self, run: Run) -> list[dict[str, Any]]:
        """Return the OpenLineage events of a run's tasks."""
        lines = (self.stack.run / "lineage.ndjson").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if run.run_id in json.dumps(event["run"]["facets"])]


def name_of(task_id: str) -> str:
    """Return a task's name without its group."""
    return task_id.rpartition(".")[2]


def connection(stack: Stack, password: str, port: int | None = None) -> dict[str, Any]:
    """Return an Airflow connection to the embedded server, with credentials."""
    extra = {"replicaSet": "rs0", "authSource": "admin", "serverSelectionTimeoutMS": 500 if port else 3000}
    where = {"host": "127.0.0.1", "port": port or stack.state.mongo_port}
    return {"conn_type": "mongo", **where, "login": LOGIN, "password": password, "extra": json.dumps(extra)}


def write_include(folder: Path) -> Path:
    """Copy the project's include folder; add the tests' migrations and environments."""
    shutil.copytree(ROOT / "include", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in EXTRA.items():
        (folder / "migrations" / name).write_text(text)
    for name, text in ONLINE.items():
        (folder / "online").mkdir(exist_ok=True)
        (folder / "online" / name).write_text(text)
    rows: dict[str, dict[str, Any]] = {name: {"connection": CONNECTION} for name in PLAIN}
    rows["unproven"] = {"connection": CONNECTION}
    rows["staging"] = {"connection": CONNECTION, "promotes_from": "development"}
    rows["unreachable"] = {"connection": NOWHERE}
    rows["forbidden"] = {"connection": WRONG_PASSWORD}
    rows |= {name: {"connection": CONNECTION, "protected": True, **rules} for name, rules in PROTECTED.items()}
    for name, row in rows.items():
        row |= {"database": f"test_{name}", "storage": f"${{MONGO_OPS_STORAGE}}/{name}"}
    rows["guarded_before"]["database"] = "test_guarded"  # the same database, for filling it without a second person
    rows["retained"]["assets"] = "${MONGO_OPS_STORAGE}-assets/retained"
    rows["landed"] |= {"batch_seconds": 0.05, "lease_seconds": 5}
    for name in ("killed", "stopped", "orphaned"):
        rows[name] |= {"batch_seconds": 0.005, "lease_seconds": 5}
    (folder / "environments.yaml").write_text(json.dumps({"environments": rows}, indent=1))  # JSON is YAML
    return folder


def connect(stack: Stack, client: pymongo.MongoClient[dict[str, Any]]) -> None:
    """Create the user in MongoDB and the connections in Airflow's own store."""
    client.admin.command("createUser", LOGIN, pwd=PASSWORD, roles=["root"])
    # What a killed process had open blocks its retry for as long as the server lets a transaction live: a minute else.
    client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=3)
    ways = {
        CONNECTION: connection(stack, PASSWORD),
        WRONG_PASSWORD: connection(stack, f"not-{PASSWORD}"),
        NOWHERE: connection(stack, PASSWORD, port=1),
    }
    for name, way in ways.items():
        stack.api.call("POST", "/connections", {"connection_id": name, **way})


def start_scheduler(folder: Path, settings: Mapping[str, str]) -> Scheduler:
    """Start a stack and return it when both DAGs can be triggered."""
    include = write_include(folder / "include")
    stack = Stack(folder / "run", airflow_port=0)
    stack.start(extra_env={**settings, "MONGO_OPS_INCLUDE": str(include)})
    try:
        started = Scheduler(stack, include)
        connect(stack, started.client)
        started.until(lambda: has_dags(started), "the DAGs", 90)
    except BaseException:
        stack.stop()
        raise
    return started


def has_dags(scheduler: Scheduler) -> bool:
    """Tell whether the DAGs are parsed, or fail with what is wrong in them."""
    assert scheduler.api.import_errors() == {}
    try:
        return all(scheduler.api.has_dag(dag) for dag in DAGS)
    except ApiError as error:
        return error.status not in (0, http.client.INTERNAL_SERVER_ERROR)


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    """The running stack."""
    started = start_scheduler(tmp_path_factory.mktemp("scheduler"), SETTINGS)
    yield started
    started.client.close()
    started.stack.stop()


@pytest.fixture(scope="session")
def staging(scheduler: Scheduler) -> str:
    """The environment from which others promote, with everything applied."""
    scheduler.bring_up("staging")
    return "staging"
