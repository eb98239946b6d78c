"""Health checks through the real scheduler: a report each night, notices on changes, and a red verdict when something is critical."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from tests.mongo.webhook import listening


@pytest.fixture(scope="module")
def watched(scheduler):
    scheduler.bring_up("watched")
    return scheduler.db("watched")


def check(scheduler, **conf):
    return scheduler.end(scheduler.trigger("watched", "mongo_health_check", **conf))


@pytest.fixture
def told(scheduler):
    """What Airflow's HTTP notifier sends to a server of the test."""
    path = scheduler.include / "health.yaml"
    before = path.read_text()
    use = "airflow.providers.http.notifications.http.HttpNotifier"
    options = {"http_conn_id": "health_webhook", "endpoint": "hook", "json": {"text": "{{ health.text }}"}}
    with listening() as (port, sent):
        where = {"conn_type": "http", "host": "127.0.0.1", "port": port}
        scheduler.api.call("POST", "/connections", {"connection_id": "health_webhook", **where})
        notifiers = [{"use": use, "options": options, "environments": ["watched"]}]
        path.write_text(yaml.safe_dump({**yaml.safe_load(before), "notifiers": notifiers}))
        try:
            yield sent
        finally:
            path.write_text(before)


def test_what_is_new_is_told_once_and_a_critical_finding_makes_the_verdict_red_after_the_report(
    scheduler, watched, told
):
    lapsed = datetime.now(UTC) - timedelta(days=2)
    watched.ops_erasure_requests.insert_one({"_id": "er_overdue", "state": "received", "open": True, "due_at": lapsed})

    first = check(scheduler, groups=["own"])
    again = check(scheduler, groups=["own"])

    assert [(run.states["history"], run.states["report"]) for run in (first, again)] == [("success", "success")] * 2
    assert [run.states["notify"] for run in (first, again)] == ["success", "skipped"]
    assert [(run.states["verdict"], run.tasks["verdict"]["try_number"]) for run in (first, again)] == [
        ("failed", 1)
    ] * 2
    rows = list(watched.ops_health.find({"kind": "finding", "check": "overdue_erasure"}).sort("at", 1))
    assert [(row["scope"], row["transition"], row["status"]) for row in rows] == [
        ("er_overdue", "NEW", "CRIT"),
        ("er_overdue", "SAME", "CRIT"),
    ]
    assert [body["text"].splitlines()[:2] for _, body in told] == [
        ["CRIT: watched (test_watched)", "NEW CRIT overdue_erasure: The request er_overdue was due 2 days ago."]
    ]
    assert [run.states["forget"] for run in (first, again)] == ["success"] * 2
    page = Path(scheduler.api.xcom(first.run, "report")["page"].removeprefix("file://"))
    assert "The request er_overdue was due 2 days ago" in page.read_text()
