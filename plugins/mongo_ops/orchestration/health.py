"""The tasks of mongo_health_check. Facts and results pass between them as files in storage: XCom gets counts and names of groups only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mongo_ops.orchestration.operators import EngineOperator
from mongo_ops.orchestration.targets import connection_spec, open_storage
from mongo_ops.settings import Environment, load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.health.model import Run
    from mongo_ops.health.session import Session
    from mongo_ops.mongo.connection import Target
    from mongo_ops.storage import Folder

GROUPS = ("replication", "server", "storage", "schema", "indexes", "data", "own", "security")
"""The groups of checks, known without importing them; a test holds both lists together."""


def groups_param() -> Param:
    """Which groups of checks."""
    return Param(
        list(GROUPS), type="array", items={"type": "string", "enum": list(GROUPS)}, examples=list(GROUPS), minItems=1,
        title="Groups", description="Which groups of checks to carry out.",
    )  # fmt: skip


def environment_of(context: Context) -> Environment:
    """Return the run's environment, with the connection of its health user where health.yaml names one."""
    from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415

    return load_thresholds().as_seen(load_environment(str(context["params"]["environment"])))


@contextmanager
def open_session(context: Context) -> Iterator[Session]:
    """Yield a session whose client can only read."""
    from mongo_ops.health.session import Session, reach  # noqa: PLC0415
    from mongo_ops.health.sight import HealthGuard  # noqa: PLC0415
    from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
    from mongo_ops.orchestration.health_facts import outside  # noqa: PLC0415

    environment = environment_of(context)
    spec, guard = connection_spec(environment), HealthGuard()
    with reach(spec, environment, guard) as target:
        yield Session(target, spec, guard, load_thresholds(), outside(target))


@contextmanager
def open_history(context: Context) -> Iterator[Target]:
    """Yield a target that may write the history."""
    from mongo_ops.mongo.connection import connect  # noqa: PLC0415

    environment = environment_of(context)
    with connect(connection_spec(environment), environment) as target:
        yield target


def place(context: Context) -> Folder:
    """Return the run's folder in storage."""
    from mongo_ops.health import files  # noqa: PLC0415

    run = context["dag_run"]
    return files.place(open_storage(environment_of(context)), run.run_after.astimezone(UTC).date(), str(run.run_id))


def write(path: Folder, data: bytes) -> None:
    """Write a file, over the one of an earlier try."""
    from mongo_ops.storage import writing  # noqa: PLC0415

    with writing(path, overwrite=True) as sink:
        sink.write(data)


def read(path: Folder) -> bytes:
    """Read a file whole."""
    with path.open("rb") as source:
        return bytes(source.read())


def judged(context: Context) -> Run:
    """Return the run as it was judged."""
    from mongo_ops.health.report import run_of  # noqa: PLC0415

    return run_of(json.loads(read(place(context) / "report.json")))


def write_judged(context: Context, run: Run) -> None:
    """Store the run as it was judged."""
    from mongo_ops.health.report import as_value  # noqa: PLC0415

    write(place(context) / "report.json", json.dumps(as_value(run)).encode())


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
    """Carry out one group of checks on the facts; a check that fails is UNKNOWN and stops no other, and so are all without a server."""

    def __init__(self, *, group: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group

    def work(self, context: Context) -> dict[str, Any]:
        """Return {group, counts, commands}; the results go into a file."""
        from mongo_ops.health.history import count  # noqa: PLC0415
        from mongo_ops.health.report import result_value  # noqa: PLC0415
        from mongo_ops.health.run import chosen, none_could_look  # noqa: PLC0415
        from mongo_ops.health.snapshot import Snapshot  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
        from mongo_ops.mongo.connection import ServerUnreachableError  # noqa: PLC0415

        folder, checks, commands = place(context), chosen([self.group]), 0
        snapshot = Snapshot.of_bytes(read(folder / "snapshot.bson"))
        try:
            with open_session(context) as session:
                results = session.look(snapshot, checks)
                commands = session.guard.commands
        except ServerUnreachableError as error:  # it was there for the snapshot: the report has to say so
            results = none_could_look(checks, load_thresholds(), error)
        content = {"commands": commands, "results": [result_value(one) for one in results]}
        write(folder / f"checks-{self.group}.json", json.dumps(content).encode())
        return {"group": self.group, "counts": count(results), "commands": commands}


class JudgeOperator(EngineOperator):
    """Compare with earlier runs: new, worse, the same, fixed; muted or not. Fails never, whatever was found."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {status, counts, changes}."""
        from mongo_ops.health.history import count  # noqa: PLC0415
        from mongo_ops.health.report import result_of  # noqa: PLC0415
        from mongo_ops.health.session import conclude  # noqa: PLC0415
        from mongo_ops.health.snapshot import Snapshot  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
        from mongo_ops.mongo.connection import ServerUnreachableError  # noqa: PLC0415

        folder, name = place(context), f"airflow {context['dag_run'].run_id}"
        snapshot = Snapshot.of_bytes(read(folder / "snapshot.bson"))
        groups = context["ti"].xcom_pull(task_ids="snapshot")
        parts = [json.loads(read(folder / f"checks-{group}.json")) for group in groups]
        results = [result_of(value) for part in parts for value in part["results"]]
        try:
            with open_session(context) as session:
                run = conclude(name, snapshot, results, session.thresholds, session.target.db)
        except ServerUnreachableError:
            run = conclude(name, snapshot, results, load_thresholds(), None)
        seconds = sum(one.seconds for one in results)
        run = replace(run, commands=sum(part["commands"] for part in parts), seconds=seconds)
        write_judged(context, run)
        return {"status": str(run.status), "counts": count(run.results), "changes": len(run.changes)}


class HistoryOperator(EngineOperator):
    """Store the run in ops_health, and remove what is too old. When there is no server after all tries, the report says that."""

    def work(self, context: Context) -> dict[str, int]:
        """Return {documents}; none when it is not in the history."""
        from mongo_ops.health import history, report  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
        from mongo_ops.mongo.connection import ServerUnreachableError  # noqa: PLC0415

        run = judged(context)
        try:
            with open_history(context) as target:
                return {"documents": history.record(target.db, run, load_thresholds().history_days)}
        except ServerUnreachableError:
            if context["ti"].try_number <= (self.retries or 0):
                raise
            write_judged(context, report.without_history(run))
            return {"documents": 0}


class ReportOperator(EngineOperator):
    """Make the page, beside its JSON in storage; the Markdown summary is the task's result."""

    def work(self, context: Context) -> dict[str, str]:
        """Return {markdown, page}."""
        from mongo_ops.health import history, page, report  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415
        from mongo_ops.mongo.connection import ServerUnreachableError  # noqa: PLC0415
        from mongo_ops.storage import show  # noqa: PLC0415

        run, folder, rows = judged(context), place(context), report.Rows()
        try:
            with open_history(context) as target:
                rows = report.Rows(*history.frame_rows(target.db, report.RUNS_SHOWN))
        except ServerUnreachableError:
            self.log.warning("No server answers: the page shows this run alone.")
        write(folder / "report.html", page.as_page(run, rows, load_thresholds()).encode())
        self.log.info("\n%s", report.as_text(run))
        return {"markdown": report.as_markdown(run), "page": show(folder / "report.html")}


class ForgetOperator(EngineOperator):
    """Remove the files of runs that are older than ``report_days``: they hold keys of documents."""

    def work(self, context: Context) -> dict[str, int]:
        """Return {files}."""
        from mongo_ops.health import files  # noqa: PLC0415
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415

        storage = open_storage(environment_of(context))
        return {"files": files.forget(storage, datetime.now(UTC).date(), load_thresholds().report_days)}


class VerdictOperator(EngineOperator):
    """Fail when something is critical or the run is not in the history, so that it is red; the report is written by now."""

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
        if not context["ti"].xcom_pull(task_ids="history")["documents"]:
            raise AirflowFailException(" ".join(run.notes))
        return {"status": str(run.status)}
