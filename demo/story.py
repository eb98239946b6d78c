"""The demo's story: an empty database, the reference model's migrations, real data, and a migration of that data."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from rich.console import Console
from rich.table import Table

from demo import music, processes
from demo.api import Api, Run
from demo.environment import ROOT
from demo.progress import Follower
from demo.stack import Stack
from demo.state import StackError

DAG = "mongo_migrate"
NOTE = "make demo"
MODEL = "006"
"""The reference model's last migration; 007 changes the data loaded after it."""

PARSE_SECONDS = 60.0
END_SECONDS = 30.0
Document = dict[str, Any]


def tell(stack: Stack, console: Console) -> int:
    """Tell the story on a running stack; return the exit code."""
    began = time.monotonic()
    with embedded_database(stack) as db:
        api = stack.api
        with console.status(f"Waiting for Airflow to parse {DAG} ..."):
            await_dag(api, stack.started_at)
            end_interrupted_runs(api, console)
        reset(db, stack, console)
        follower = Follower(api, db, console)
        console.rule("1  The reference model: migrations 001 to 006, through Airflow")
        migrate(follower, {"target_version": MODEL})
        console.rule("2  Demo data")
        load(db, console)
        console.rule("3  A data migration: 007 lower-cases the artists' genres")
        before = genres(db)
        migrate(follower, {})
        console.print(
            f"Genres before: {', '.join(before)} ...\nGenres now:    {', '.join(genres(db))} ...", highlight=False
        )
        console.rule("4  The result")
        show_status(stack, db, console)
    console.print(f"All of this took {time.monotonic() - began:.0f} s after the start.", highlight=False)
    return 0


@contextlib.contextmanager
def embedded_database(stack: Stack) -> Iterator[Database[Document]]:
    """Yield the development database, once it is certain that it is the stack's own server.

    Raises:
        StackError: Airflow's connection, or the server that answers, is another one: nothing is touched.
    """
    address = ("127.0.0.1", stack.state.mongo_port)
    connection = json.loads(stack.variable("AIRFLOW_CONN_MONGO_DEVELOPMENT") or "{}")
    refusal = "The demo resets its database, so it runs only against the embedded MongoDB that `make up` starts"
    if (connection.get("host"), connection.get("port")) != address:
        raise StackError(f"{refusal}; mongo_development points to {connection.get('host')}:{connection.get('port')}.")
    with MongoClient[Document](stack.mongo_uri, serverSelectionTimeoutMS=10_000) as client:
        pid = int(client.admin.command("serverStatus")["pid"])
        if pid not in {process.pid for process in stack.members()}:
            raise StackError(f"{refusal}; port {address[1]} is answered by another server (process {pid}).")
        yield client[stack.database("development")]


def await_dag(api: Api, since: datetime) -> None:
    """Wait until Airflow has parsed the DAG as the files are now.

    Raises:
        StackError: it does not import, or is not there in time.
    """

    def known() -> bool:
        if errors := api.import_errors():
            raise StackError(
                "A DAG file does not import:\n" + "\n".join(f"{name}\n{text}" for name, text in errors.items())
            )
        return api.has_dag(DAG, since)

    if not processes.wait_for(known, PARSE_SECONDS, 0.2):
        raise StackError(f"Airflow has not found dags/{DAG}.py in {PARSE_SECONDS:.0f} s; see dag-processor.log.")


def end_interrupted_runs(api: Api, console: Console) -> None:
    """Fail what an interrupted demo left going, so that it cannot work on a database being reset.

    Raises:
        StackError: somebody else's run is going.
    """
    for found in unfinished(api):
        if found["note"] != NOTE:
            raise StackError(
                f"The run {found['dag_run_id']} of {DAG} is still going. Wait for its end, then try again."
            )
        console.print(f"Ending {found['dag_run_id']}, which an interrupted demo left.", highlight=False)
        api.call("PATCH", Run(DAG, found["dag_run_id"]).path, {"state": "failed"})
    running = f"/dags/{DAG}/dagRuns/~/taskInstances?state=running"
    if not processes.wait_for(lambda: not api.call("GET", running)["task_instances"], END_SECONDS, 0.2):
        raise StackError("A task of the interrupted demo does not end. `make down`, then try again.")


def unfinished(api: Api) -> list[dict[str, Any]]:
    """Return the DAG's runs that have not ended."""
    return list(api.call("GET", f"/dags/{DAG}/dagRuns?state=running&state=queued&limit=100")["dag_runs"])


def reset(db: Database[Document], stack: Stack, console: Console) -> None:
    """Empty the demo database, and say so."""
    if db.list_collection_names():
        console.print(f"Resetting the demo database {db.name} on the embedded server (port {stack.state.mongo_port}).")
        db.client.drop_database(db.name)


def migrate(follower: Follower, conf: dict[str, Any]) -> None:
    """Trigger the DAG and follow it to its end.

    Raises:
        StackError: the run failed; the message ends with the failed task's log.
    """
    run = follower.api.trigger(DAG, {"environment": "development", "reason": NOTE, **conf}, note=NOTE)
    if follower.follow(run) == "success":
        return
    failed = next(task for task in follower.api.task_instances(run) if task["state"] == "failed")
    log = follower.api.logs(run, failed["task_id"], failed["try_number"]).splitlines()
    message = f"{failed['task_id']} failed. Its log ends:"
    raise StackError("\n".join([message, *log[-25:]]))


def load(db: Database[Document], console: Console) -> None:
    """Load the music and say what came."""
    with console.status("Loading Chinook and made-up plays ..."):
        counts = music.load(db)
    listed = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts.items() if kind != "plays")
    console.print(f"Chinook (real): {listed}.", highlight=False)
    console.print(f"Made up with a seed and labelled synthetic: {counts['plays']:,} plays.", highlight=False)


def genres(db: Database[Document], few: int = 6) -> list[str]:
    """Return a few genres as artists have them now."""
    return [
        str(genre) for genre in sorted(db["artists"].distinct("genres"), key=lambda genre: str(genre).lower())[:few]
    ]


def show_status(stack: Stack, db: Database[Document], console: Console) -> None:
    """Show what `mongo-ops status` says; without it, what the database has recorded."""
    command = ["mongo-ops", "status", "--env", "development"]
    program = Path(sys.executable).with_name(command[0])
    console.print(f"$ {' '.join(command)}", style="bold", highlight=False)
    done = subprocess.run(
        [program, *command[1:]], env=stack.environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode in (0, 2):
        console.print(done.stdout.rstrip(), markup=False, highlight=False)
        return
    console.print(f"(exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]})", markup=False, style="dim")
    table = Table("migration", "state", "applied at")
    for record in db["ops_migrations"].find().sort("_id"):
        table.add_row(record["_id"], record.get("state", ""), f"{record.get('applied_at') or '':%Y-%m-%d %H:%M:%S}")
    console.print(table)
