"""Follow a DAG run live in the terminal: which task, which migration, how many documents.

Task states come from Airflow's REST API, operations and documents from what the engine records in the database. Every
field is optional here: a picture with a gap is better than no picture.
"""

from __future__ import annotations

import graphlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.api import FINAL, Api, Run

if TYPE_CHECKING:
    from pymongo.database import Database

SIGNS = {
    "success": ("✔", "green"),
    "failed": ("✘", "red"),
    "upstream_failed": ("✘", "red"),
    "skipped": ("-", "dim"),
    "running": ("▶", "cyan"),
    "up_for_retry": ("↻", "yellow"),
    "awaiting_input": ("?", "yellow"),
}
ENDED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
PAUSE = 0.4
"""Between two looks; each costs the API server some 20 ms of a core that the tasks want too."""

QUIET_SECONDS = 2.0
"""Without a terminal, a running task's counts are printed this often at most."""


@dataclass(frozen=True)
class Line:
    """One task as shown."""

    task_id: str
    state: str
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Follower:
    """Follows runs of one DAG against one environment's database."""

    api: Api
    db: Database[dict[str, Any]]
    console: Console

    def follow(self, run: Run, timeout: float = 600.0) -> str:
        """Show the run until it ends; return its state.

        Raises:
            TimeoutError: it did not end in time.
        """
        order = self._order(run.dag_id)
        deadline = time.monotonic() + timeout
        printer = _Printer(self.console)
        with Live(console=self.console, auto_refresh=False) as live:
            while True:
                lines = self._lines(run, order)
                state = self.api.state(run) if all(line.state in ENDED for line in lines) else "running"
                if self.console.is_terminal:
                    live.update(picture(run, state, lines), refresh=True)
                else:
                    printer.tell(lines)
                if state in FINAL:
                    return state
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{run.dag_id} is still {state} after {timeout:.0f} s.")
                time.sleep(PAUSE)

    def _order(self, dag_id: str) -> dict[str, int]:
        tasks = self.api.call("GET", f"/dags/{dag_id}/tasks")["tasks"]
        graph = graphlib.TopologicalSorter({task["task_id"]: set() for task in tasks})
        for task in sorted(tasks, key=lambda task: str(task["task_id"])):
            for below in task["downstream_task_ids"]:
                graph.add(below, task["task_id"])
        return {task_id: place for place, task_id in enumerate(graph.static_order())}

    def _lines(self, run: Run, order: Mapping[str, int]) -> list[Line]:
        found = sorted(self.api.task_instances(run), key=lambda task: order.get(task["task_id"], len(order)))
        notes = self._notes(found)
        return [
            Line(task["task_id"], task["state"] or "", _seconds(task), notes.get(migration_of(task["task_id"]), ""))
            for task in found
        ]

    def _notes(self, tasks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        begun = {migration_of(task["task_id"]) for task in tasks if task["state"] in ("running", "success", "failed")}
        names = sorted(begun - {""})
        notes = {}
        for record in self.db["ops_migrations"].find({"_id": {"$in": names}}):
            steps = self.db["ops_checkpoints"].find({"_id": {"$regex": f"^{re.escape(record['_id'])}[./]"}})
            notes[record["_id"]] = describe(record, list(steps))
        return notes


class _Printer:
    """Without a terminal: one line for each change of state, and now and then a count."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, str] = {}
        self._told: dict[str, tuple[str, float]] = {}

    def tell(self, lines: Iterable[Line]) -> None:
        for line in lines:
            note, at = self._told.get(line.task_id, ("", 0.0))
            due = line.state == "running" and line.note != note and time.monotonic() - at > QUIET_SECONDS
            if line.state in SIGNS and (line.state != self._states.get(line.task_id) or due):
                self._states[line.task_id] = line.state
                self._told[line.task_id] = (line.note, time.monotonic())
                self._console.print(_row(line)[0], line.task_id, line.state, *_row(line)[2:], highlight=False)


def picture(run: Run, state: str, lines: Sequence[Line]) -> Group:
    """Return the run as a table, tasks in the order of the graph."""
    table = Table.grid(padding=(0, 2))
    for line in lines:
        table.add_row(*_row(line))
    ended = sum(line.state in ENDED for line in lines)
    title = Text(f"{run.dag_id}: {state}, {ended} of {len(lines)} tasks", style="bold")
    return Group(title, table)


def _row(line: Line) -> tuple[Text, Text, Text, Text]:
    sign, style = SIGNS.get(line.state, ("·", "dim"))
    seconds = "" if line.seconds is None else f"{line.seconds:.1f} s"
    return Text(sign, style=style), Text(line.task_id, style=style), Text(seconds, justify="right"), Text(line.note)


def migration_of(task_id: str) -> str:
    """Return the migration that a task runs (``core.001_create_...``), or nothing."""
    name = task_id.rpartition(".")[2]
    return name if name[:3].isdigit() else ""


def describe(record: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    """Say how far a migration is: operations done, documents walked, documents changed."""
    operations = record.get("operations") or []
    done = sum(operation.get("state") == "done" for operation in operations)
    parts = []
    if operations:
        parts.append(
            f"{len(operations)} operations" if done == len(operations) else f"operation {done + 1} of {len(operations)}"
        )
    walking = [step for step in steps if step.get("total")]
    if walking:
        walked, total = (sum(int(step.get(key) or 0) for step in walking) for key in ("done", "total"))
        parts.append(f"{walked:,} of {max(total, walked):,} documents")
    changed = sum(_changed(step) for step in steps) or sum(_changed(o.get("counts") or {}) for o in operations)
    if changed:
        parts.append(f"{changed:,} changed")
    if rate := next(
        (step["rate_per_s"] for step in walking if not step.get("finished") and step.get("rate_per_s")), None
    ):
        parts.append(f"{rate:,.0f}/s")
    return " · ".join(parts)


def _changed(counts: Mapping[str, Any]) -> int:
    return sum(int(counts.get(key) or 0) for key in ("modified", "inserted", "deleted"))


def _seconds(task: Mapping[str, Any]) -> float | None:
    if task.get("duration") is not None:
        return float(task["duration"])
    if task.get("state") != "running" or not task.get("start_date"):
        return None
    started = datetime.fromisoformat(str(task["start_date"]))
    return max(0.0, (datetime.now(UTC) - started).total_seconds())
