"""The tasks of mongo_health_check. Facts and results pass between them as files in storage: XCom gets counts and names of groups only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mongo_ops.orchestration import params
from mongo_ops.orchestration.operators import EngineOperator
from mongo_ops.orchestration.targets import connection_spec, open_storage, open_target
from mongo_ops.settings import load_environment, load_environments

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.health.model import Run
    from mongo_ops.health.session import Session
    from mongo_ops.storage import Folder

GROUPS = ("replication", "server", "storage", "schema", "indexes", "data", "own", "security")
"""The groups of checks, known without importing them; a test holds both lists together."""

FOLDER = "health"


def environment_param() -> Param:
    """Which database; by default the first that is ``nightly`` in environments.yaml, which the schedule looks after."""
    environments, made = load_environments(), params.environment()
    nightly = next((name for name, value in environments.items() if value.nightly), next(iter(environments)))
    return Param(nightly, description=made.description, **made.schema)


def groups_param() -> Param:
    """Which groups of checks."""
    return Param(
        list(GROUPS), type="array", items={"type": "string", "enum": list(GROUPS)}, examples=list(GROUPS), minItems=1,
        title="Groups", description="Which groups of checks to carry out.",
    )  # fmt: skip


@contextmanager
def open_session(context: Context) -> Iterator[Session]:
    """Yield a session whose client can only read."""
    from mongo_ops.health.session import Session  # noqa: PLC0415
    from mongo_ops.health.sight import HealthGuard  # noqa: PLC0415
    from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
    from mongo_ops.mongo.connection import connect  # noqa: PLC0415
    from mongo_ops.orchestration.health_facts import outside  # noqa: PLC0415

    environment = load_environment(str(context["params"]["environment"]))
    spec, guard = connection_spec(environment), HealthGuard()
    with connect(spec, environment, listeners=(guard,)) as target:
        yield Session(target, spec, guard, load_thresholds(), outside(target))


def place(context: Context) -> Folder:
    """Return the run's folder in storage."""
    environment = load_environment(str(context["params"]["environment"]))
    return open_storage(environment) / FOLDER / _safe(str(context["dag_run"].run_id))


def _safe(run_id: str) -> str:
    """Return a run's id as a file name; Airflow's hold colons and pluses."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in run_id)


def write(path: Folder, data: bytes) -> None:
    """Write a file, over the one of an earlier try."""
    from mongo_ops.storage.atomic import writing  # noqa: PLC0415

    with writing(path, overwrite=True) as sink:
        sink.write(data)


def read(path: Folder) -> bytes:
    """Read a file whole."""
    with path.open("rb") as source:
        return bytes(source.read())


class SnapshotOperator(EngineOperator):
    """Read the facts of the deployment once, with few commands; name the groups of checks, each of which becomes a task."""

    def work(self, context: Context) -> list[str]:
        """Return the groups."""
        from mongo_ops.health.run import chosen  # noqa: PLC0415

        groups = list(dict.fromkeys(context["params"]["groups"]))
        checks = chosen(groups)
        if context["params"]["plan_only"]:
            self.log.info(
                "These checks would look:\n%s", "\n".join(f"{one.group:12} {one.id}: {one.title}" for one in checks)
            )
            raise AirflowSkipException("Plan only: nothing is looked at.")
        with open_session(context) as session:
            snapshot = session.snapshot()
            write(place(context) / "snapshot.bson", snapshot.as_bytes())
            self.log.info(
                "%s commands; not read: %s", session.guard.commands, dict(snapshot.missing) or "nothing missing"
            )
        return groups


class ChecksOperator(EngineOperator):
    """Carry out one group of checks on the facts; a check that fails is UNKNOWN and stops no other."""

    def __init__(self, *, group: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group

    def work(self, context: Context) -> dict[str, Any]:
        """Return {group, counts, commands}; the results go into a file."""
        from mongo_ops.health.history import count  # noqa: PLC0415
        from mongo_ops.health.report import result_value  # noqa: PLC0415
        from mongo_ops.health.run import chosen  # noqa: PLC0415
        from mongo_ops.health.snapshot import Snapshot  # noqa: PLC0415

        folder = place(context)
        snapshot = Snapshot.of_bytes(read(folder / "snapshot.bson"))
        with open_session(context) as session:
            results = session.look(snapshot, chosen([self.group]))
            commands = session.guard.commands
        content = {"commands": commands, "results": [result_value(one) for one in results]}
        write(folder / f"checks-{self.group}.json", json.dumps(content).encode())
        return {"group": self.group, "counts": count(results), "commands": commands}


class JudgeOperator(EngineOperator):
    """Compare with earlier runs: new, worse, the same, fixed; muted or not."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {status, counts, changes}; fails never, whatever was found."""
        import time  # noqa: PLC0415

        from mongo_ops.health.history import count  # noqa: PLC0415
        from mongo_ops.health.report import as_value, result_of  # noqa: PLC0415
        from mongo_ops.health.snapshot import Snapshot  # noqa: PLC0415

        folder, began = place(context), time.monotonic()
        snapshot = Snapshot.of_bytes(read(folder / "snapshot.bson"))
        groups = context["ti"].xcom_pull(task_ids="snapshot")
        parts = [json.loads(read(folder / f"checks-{group}.json")) for group in groups]
        results = [result_of(value) for part in parts for value in part["results"]]
        with open_session(context) as session:
            run = session.conclude(f"airflow {context['dag_run'].run_id}", snapshot.taken_at, results, began)
        value = as_value(run) | {"commands": sum(part["commands"] for part in parts)}
        write(folder / "report.json", json.dumps(value).encode())
        return {"status": str(run.status), "counts": count(run.results), "changes": len(run.changes)}


class HistoryOperator(EngineOperator):
    """Store the run in ops_health, and remove what is too old."""

    def work(self, context: Context) -> dict[str, int]:
        """Return {documents}."""
        from mongo_ops.health import history  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415

        run = judged(context)
        with open_target(str(context["params"]["environment"])) as target:
            return {"documents": history.record(target.db, run, load_thresholds().history_days)}


class ReportOperator(EngineOperator):
    """Make the page, beside its JSON in storage; the Markdown summary is the task's result."""

    def work(self, context: Context) -> dict[str, str]:
        """Return {markdown, page}."""
        from mongo_ops.health import history, page, report  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
        from mongo_ops.storage.paths import show  # noqa: PLC0415

        run, folder = judged(context), place(context)
        with open_target(str(context["params"]["environment"]), read_only=True) as target:
            rows = report.Rows(*history.frame_rows(target.db, report.RUNS_SHOWN))
        write(folder / "report.html", page.as_page(run, rows, load_thresholds()).encode())
        self.log.info("\n%s", report.as_text(run))
        return {"markdown": report.as_markdown(run), "page": show(folder / "report.html")}


class NotifyOperator(EngineOperator):
    """Tell people what changed, and only that: what is as it was last night is in the report."""

    def work(self, context: Context) -> dict[str, list[str]]:
        """Return {changes}: what is new, worse or fixed, for callbacks and listeners; skipped when there is nothing."""
        changes = [
            f"{one.transition} {one.finding.status} {one.check}: {one.finding.sentence}"
            for one in judged(context).changes
        ]
        if not changes:
            raise AirflowSkipException("Nothing changed since the last run.")
        self.log.warning("\n%s", "\n".join(changes))
        return {"changes": changes}


class VerdictOperator(EngineOperator):
    """Fail when something is critical, so that the run is red; history and report are written by now."""

    def work(self, context: Context) -> dict[str, str]:
        """Return {status}."""
        from mongo_ops.health.model import Status  # noqa: PLC0415

        run = judged(context)
        if run.status is Status.CRIT:
            found = [
                f"{one.check}: {one.finding.sentence}"
                for one in run.judged
                if one.is_problem and one.finding.status is Status.CRIT
            ]
            raise AirflowFailException(f"Critical: {' '.join(found)} See the report.")
        return {"status": str(run.status)}


def judged(context: Context) -> Run:
    """Return the run as it was judged."""
    from mongo_ops.health.report import run_of  # noqa: PLC0415

    return run_of(json.loads(read(place(context) / "report.json")))
