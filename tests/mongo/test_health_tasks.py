"""The tasks of mongo_health_check one after the other, without a scheduler: a server that dies in between, notices, reports that end."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException
from tests.mongo.runner import INCLUDE
from tests.mongo.webhook import listening
from upath import UPath

from mongo_ops.embedded import ReplicaSet
from mongo_ops.health import files
from mongo_ops.mongo import connection
from mongo_ops.mongo.connection import ServerUnreachableError
from mongo_ops.orchestration import health, health_notify, nightly

HTTP = "airflow.providers.http.notifications.http.HttpNotifier"
RETRIES = 2


class Night:
    """One run of the DAG: its folder, its tasks, and what each returned."""

    def __init__(self, folder, number):
        self.folder = folder
        self.returned = {}
        self.run = SimpleNamespace(
            dag_id="mongo_health_check",
            run_id=f"manual__{number}+00:00",
            run_after=datetime.now(UTC),
            run_type="manual",
        )

    def context(self, groups, try_number):
        def pull(*, task_ids):
            return self.returned[task_ids]

        ti = SimpleNamespace(try_number=try_number, xcom_pull=pull)
        params = {"environment": "watched", "groups": groups, "plan_only": False, "reason": None}
        return {"params": params, "dag_run": self.run, "ti": ti}

    def do(self, operator, *, groups=("own",), try_number=1, **words):
        name = operator.__name__.removesuffix("Operator").lower()
        task = operator(task_id=name, retries=RETRIES, **words)
        self.returned[name] = task.work(self.context(list(groups), try_number))
        return self.returned[name]

    def look(self, groups=("own",)):
        self.do(health.SnapshotOperator, groups=groups)
        return self.judge(groups)

    def judge(self, groups=("own",)):
        for group in groups:
            self.do(health.ChecksOperator, group=group)
        return self.do(health.JudgeOperator)

    def tell(self):
        self.do(health.HistoryOperator)
        self.do(health.ReportOperator)
        return self.do(health_notify.NotifyOperator)

    @property
    def files(self):
        return (
            UPath(self.folder)
            / "health"
            / f"{self.run.run_after:%Y-%m-%d}"
            / self.run.run_id.replace("+", "_").replace(":", "_")
        )


@pytest.fixture
def include(tmp_path, monkeypatch):
    """Write the two YAML files anew; return how to write health.yaml."""
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "data_map.yaml").symlink_to(INCLUDE / "data_map.yaml")
    rows = {"watched": {"connection": "mongo_watched", "storage": str(tmp_path / "storage")}}
    (folder / "environments.yaml").write_text(json.dumps({"environments": rows}))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(folder))

    def write(**content):
        (folder / "health.yaml").write_text(yaml.safe_dump({"sample_seconds": 0, **content}))

    write()
    return write


@pytest.fixture
def watched(include, target, replica_set, monkeypatch):
    host = replica_set.nodes[0].address
    where = {"conn_type": "mongo", "host": host, "schema": target.database, "extra": {"replicaSet": "rs0"}}
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_WATCHED", json.dumps(where))
    return target.db


@pytest.fixture
def night(tmp_path):
    numbers = iter(range(100))
    return lambda: Night(tmp_path / "storage", next(numbers))


def overdue(db, days=2):
    db.ops_erasure_requests.insert_one(
        {"_id": "er_late", "open": True, "due_at": datetime.now(UTC) - timedelta(days=days)}
    )


def webhook(monkeypatch, name, port):
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": port})
    )
    return {"use": HTTP, "options": {"http_conn_id": name, "endpoint": "hook", "json": {"text": "{{ health.text }}"}}}


def test_people_are_told_what_is_new_and_what_is_fixed_and_nothing_in_between(watched, include, night, monkeypatch):
    with listening() as (port, sent):
        include(notifiers=[webhook(monkeypatch, "people", port)])
        overdue(watched)
        first, second, third = night(), night(), night()
        first.look()
        assert first.tell()["told"] == 1
        second.look()
        with pytest.raises(AirflowSkipException, match="Nothing changed"):
            second.tell()
        watched.ops_erasure_requests.delete_many({})
        third.look()
        third.tell()

    texts = [body["text"] for _, body in sent]
    assert [path for path, _ in sent] == ["/hook"] * 2
    assert "CRIT: watched" in texts[0]
    assert "NEW CRIT overdue_erasure: The request er_late was due 2 days ago." in texts[0]
    assert str(first.files / "report.html") in texts[0]
    assert "FIXED OK overdue_erasure: It is well again." in texts[1]
    with pytest.raises(AirflowFailException, match="er_late was due"):
        first.do(health.VerdictOperator)
    assert third.do(health.VerdictOperator) == {"status": "OK"}


def test_a_notifier_that_fails_keeps_no_other_from_telling_and_its_retry_tells_nobody_twice(
    watched, include, night, monkeypatch
):
    with listening() as (port, sent), listening(status=500) as (broken, refused):
        include(notifiers=[webhook(monkeypatch, "broken", broken), webhook(monkeypatch, "people", port)])
        overdue(watched)
        one = night()
        one.look()
        with pytest.raises(health_notify.NotifierFailedError, match="HttpNotifier") as failed:
            one.tell()
        webhook(monkeypatch, "broken", port)
        assert one.do(health_notify.NotifyOperator, try_number=2)["told"] == 2

    assert (len(refused), len(sent)) == (1, 2)
    assert str(broken) not in str(failed.value)


@pytest.mark.parametrize(
    ("notifier", "words"),
    [
        ({"use": "no.such.Notifier"}, "cannot be made"),
        ({"use": "datetime.datetime"}, "no notifier"),
        ({"use": HTTP, "options": {"strange": 1}}, "cannot be made"),
    ],
)
def test_what_is_no_notifier_is_refused_before_anybody_is_told(watched, include, night, notifier, words):
    include(notifiers=[notifier])
    overdue(watched)
    one = night()
    one.look()
    with pytest.raises(health_notify.InvalidNotifierError, match=words):
        one.tell()


def test_other_environments_notifiers_are_left_alone(watched, include, night):
    include(notifiers=[{"use": "no.such.Notifier", "environments": ["production"]}])
    overdue(watched)
    one = night()
    one.look()
    assert one.tell()["told"] == 0


def test_a_server_that_dies_after_the_snapshot_leaves_unknowns_a_report_and_a_red_verdict(
    include, night, tmp_path, monkeypatch
):
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.5)
    groups, one = ("own", "server"), night()
    with ReplicaSet(tmp_path / "mongo").running() as own:
        extra = {"replicaSet": "rs0", "serverSelectionTimeoutMS": 300}
        monkeypatch.setenv(
            "AIRFLOW_CONN_MONGO_WATCHED",
            json.dumps({"conn_type": "mongo", "host": own.nodes[0].address, "extra": extra}),
        )
        one.do(health.SnapshotOperator, groups=groups)
        own.nodes[0].kill()
        verdict = one.judge(groups)
        with pytest.raises(ServerUnreachableError):
            one.do(health.HistoryOperator, try_number=RETRIES)
        kept = one.do(health.HistoryOperator, try_number=RETRIES + 1)
        report = one.do(health.ReportOperator)
        told = one.do(health_notify.NotifyOperator)
        with pytest.raises(AirflowFailException, match="not in the history"):
            one.do(health.VerdictOperator)

    assert verdict["status"] == "UNKNOWN"
    assert verdict["counts"]["UNKNOWN"] == verdict["changes"] == 12
    assert kept == {"documents": 0}
    assert "No MongoDB server answered" in (one.files / "report.html").read_text()
    assert "UNKNOWN" in report["markdown"]
    assert len(told["changes"]) == 12


def test_the_files_of_old_runs_are_removed_and_nothing_else(include, watched, night, tmp_path):
    include(report_days=30)
    storage, today = UPath(tmp_path / "storage"), datetime.now(UTC).date()
    days = {number: today - timedelta(days=number) for number in (29, 30, 31, 400)}
    for day in days.values():
        folder = files.place(storage, day, "run 1")
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")
        (folder / "report.html").write_text("")
    other = storage / "exports" / days[400].isoformat() / "run 1" / "report.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    one = night()
    one.look()

    assert one.do(health.ForgetOperator) == {"files": 4}
    left = sorted(path.parent.parent.name for path in (storage / "health").glob("*/run_1/report.json"))
    assert left == [days[30].isoformat(), days[29].isoformat()]
    assert other.exists()
    assert (one.files / "report.json").exists()
    assert files.forget(storage, date(1999, 1, 1), 1) == 0


def test_the_health_user_is_asked_where_health_yaml_names_one(include, watched, night, monkeypatch):
    include(connections={"watched": "mongo_of_health"})
    with pytest.raises(Exception, match="no connection mongo_of_health"):
        night().look()
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_OF_HEALTH", os.environ["AIRFLOW_CONN_MONGO_WATCHED"])
    assert night().look()["status"] == "OK"


def test_the_schedule_has_a_run_for_each_other_nightly_environment(tmp_path, monkeypatch):
    rows = {name: {"connection": "c", "nightly": name != "b"} for name in "abcd"}
    (tmp_path / "environments.yaml").write_text(json.dumps({"environments": rows}))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(tmp_path))
    run = SimpleNamespace(dag_id="mongo_health_check", run_id="scheduled__x", run_type="scheduled")
    task = nightly.NightlyOperator(task_id="other_nights", environment="c")

    assert nightly.other_nights() == ["c", "d"]
    with pytest.raises(DagRunTriggerException) as triggered:
        task.execute({"dag_run": run})
    assert (triggered.value.dag_run_id, triggered.value.conf) == ("nightly__c__scheduled__x", {"environment": "c"})
    run.run_type = "manual"
    with pytest.raises(AirflowSkipException):
        task.execute({"dag_run": run})
