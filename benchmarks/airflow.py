"""What Airflow adds: the DAG mongo_migrate on a warm stack, wall time of the run less the engine's own seconds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.stack import Stack
from pymongo import MongoClient

from benchmarks.measure import Goal, Notebook, Series
from benchmarks.table import Table

DAG = "mongo_migrate"
NOTHING, ALL = "nothing to do", "applies all"
OVERHEAD = 10.0
PARSE_SECONDS = 120.0


def measure(folder: Path, count: int, tell: Callable[[str], None]) -> Notebook:
    """Start a stack, warm it up with one run of each kind, measure, stop it to the last process."""
    stack = Stack(folder / "stack", airflow_port=0)
    tell("starting Airflow and its MongoDB ...")
    stack.start()
    try:
        _await_dag(stack)
        book = Notebook()
        client: MongoClient[dict[str, Any]]
        with MongoClient(stack.mongo_uri) as client:
            for number in range(count + 1):
                client.drop_database(stack.database())
                for kind in (ALL, NOTHING):
                    seen = _one_run(stack, client)
                    tell(
                        f"run {number}{'' if number else ' (warm-up)'}: {kind}, {seen['wall']:.1f} s, engine {seen['engine']:.1f} s"
                    )
                    for quantity, value in seen.items():
                        if number:
                            book.write(kind, quantity, value)
        return book
    finally:
        stack.stop()


def _await_dag(stack: Stack) -> None:
    deadline = time.monotonic() + PARSE_SECONDS
    while not stack.api.has_dag(DAG):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Airflow did not see {DAG} in {PARSE_SECONDS:.0f} s: {stack.api.import_errors()}")
        time.sleep(0.5)


def _one_run(stack: Stack, client: MongoClient[dict[str, Any]]) -> dict[str, float]:
    """Trigger a run, wait for its end, and return where its seconds went."""
    records = client[stack.database()].ops_migrations
    before = {record["_id"]: record.get("attempt") for record in records.find()}
    busy, began = _processor_seconds(stack), time.perf_counter()
    run = stack.api.trigger(DAG, {"environment": "development"})
    state = stack.api.wait(run, timeout=180.0, pause=0.1)
    wall = time.perf_counter() - began
    busy = _processor_seconds(stack) - busy
    tasks = stack.api.task_instances(run)
    if state != "success":
        raise RuntimeError(f"{run.run_id} ended as {state}: { {task['task_id']: task['state'] for task in tasks} }")
    engine = sum(
        float(record["seconds"]) for record in records.find() if before.get(record["_id"]) != record.get("attempt")
    )
    return {
        "wall": wall, "engine": engine, "overhead": wall - engine, "processor": busy,
        "tasks": len(tasks), **_inside(tasks),
    }  # fmt: skip


def _processor_seconds(stack: Stack) -> float:
    """Return what Airflow's processes have used so far, those that have ended included (their parents inherit it)."""
    ticks = 0
    for process in stack.members():
        if process.name != "mongod":
            with contextlib.suppress(OSError):  # ended meanwhile
                fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])  # user, system, and both of the children
    return ticks / os.sysconf("SC_CLK_TCK")


def _inside(tasks: list[dict[str, Any]]) -> dict[str, float]:
    """Return how long task processes ran, and how many."""
    ran = [task for task in tasks if task["duration"]]
    return {
        "in tasks": sum(float(task["duration"]) for task in ran),
        "ran": sum(task["state"] == "success" for task in tasks),
    }


def goals(book: Notebook | None) -> list[Goal]:
    """Return the promise about the overhead."""
    return [
        Goal(f"Airflow's own overhead, {kind}", OVERHEAD, "under", "s", book.series(kind, "overhead") if book else None)
        for kind in (NOTHING, ALL)
    ]


def table(book: Notebook) -> Table:
    """Return where a run's seconds go."""
    tasks = book.series(ALL, "tasks").median
    rows = [
        [
            kind,
            *(
                _seconds(book.series(kind, quantity))
                for quantity in ("wall", "engine", "overhead", "in tasks", "processor")
            ),
        ]
        for kind in (ALL, NOTHING)
    ]
    heading = [
        "s: median (min - max)",
        "trigger to success",
        "engine",
        "overhead",
        "inside task processes",
        "processor seconds",
    ]
    return Table(f"mongo_migrate through a warm Airflow, {tasks:.0f} tasks", heading, rows)


def _seconds(series: Series) -> str:
    return series.show("{:.1f}")
