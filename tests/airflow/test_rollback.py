"""mongo_rollback through the real scheduler: back to a version, in the order applied, nothing lost, nothing by half."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import bson
import pytest

from mongo_ops import audit

LONDON = {"type": "Point", "coordinates": [-0.1276, 51.5072]}


@pytest.fixture
def without_007(scheduler, tmp_path):
    """An include folder in which somebody has not merged 007 yet."""
    folder = tmp_path / "include"
    shutil.copytree(scheduler.include, folder, ignore=shutil.ignore_patterns("__pycache__", "007_*"))
    return folder


def test_a_rollback_keeps_what_it_destroys_and_goes_back_to_nothing(scheduler):
    scheduler.bring_up("returning")
    db = scheduler.db("returning")
    event = {
        "_id": bson.ObjectId(),
        "event_type": "check_in",
        "location": LONDON,
        "ts": datetime(2026, 1, 2, tzinfo=UTC),
    }
    db.geo_events.insert_one({**event, "user_id": bson.ObjectId()})
    there = db.geo_events.find_one()

    ended = scheduler.roll_back("returning", "004", reason="the release is withdrawn")

    names = scheduler.files("returning")
    assert ended.state == "success"
    assert (ended.migrations("success"), scheduler.applied("returning")) == (names[4:], names[:4])
    undone = [event["migration"] for event in scheduler.events("returning", "rolled_back")]
    assert undone == names[:3:-1]
    assert {event["run_id"] for event in scheduler.events("returning", "rolled_back")} == {
        f"mongo_rollback {ended.run.run_id}"
    }
    assert "geo_events" not in db.list_collection_names()
    assert db.audit_log.count_documents({}) > 0
    assert audit.verify(db).ok
    kept = json.loads(scheduler.cli("snapshots list", "returning", "--json").stdout)["snapshots"]
    of_events = [name for name in kept if manifest(scheduler, name)["collection"] == "geo_events"]
    assert [(manifest(scheduler, name)["count"], manifest(scheduler, name)["run_id"]) for name in of_events] == [
        (1, f"mongo_rollback {ended.run.run_id}")
    ]

    restore = f"snapshots restore {of_events[0]}"
    back = scheduler.cli(restore, "returning", "--reason", "one event was still needed", "--json")

    assert (back.returncode, back.stderr) == (0, "")
    assert list(db.geo_events.find()) == [there]
    db.geo_events.drop()

    nothing = scheduler.roll_back("returning", "0")

    assert (nothing.state, nothing.migrations("success"), scheduler.applied("returning")) == ("success", names[:4], [])
    left = {name for name in db.list_collection_names() if not name.startswith(("ops_", "system."))}
    assert left == {"audit_log"}
    assert audit.verify(db).ok


def test_an_irreversible_migration_stops_the_whole_rollback_with_its_reason(scheduler):
    scheduler.bring_up("final")

    ended = scheduler.roll_back("final", "006")

    assert (ended.state, ended.states["plan"], ended.tasks["plan"]["try_number"]) == ("failed", "failed", 1)
    told = scheduler.log(ended.run, "plan")
    assert "009_forget_drafts cannot be rolled back: the drafts' authors were promised that nobody keeps a copy" in told
    assert scheduler.applied("final") == scheduler.files("final")
    assert scheduler.events("final", "rolling_back") == []


@pytest.mark.chaos
def test_migrations_applied_out_of_order_are_undone_in_the_order_applied(scheduler, without_007):
    scheduler.bring_up("late", include=without_007)
    seventh, eighth = "007_normalise_artist_genres", "008_count_plays"

    refused = scheduler.migrate("late")

    assert (refused.state, refused.tasks["plan"]["try_number"]) == ("failed", 1)
    assert f"{seventh} would run after {eighth}, which is already applied" in scheduler.log(refused.run, "plan")

    allowed = scheduler.migrate("late", allow_out_of_order=True)
    undone = scheduler.roll_back("late", "006")

    assert (allowed.state, allowed.migrations("success")) == ("success", [seventh])
    assert undone.state == "success"
    assert [event["migration"] for event in scheduler.events("late", "rolled_back")] == [seventh, eighth]
    assert scheduler.applied("late") == scheduler.files()[:6]


def test_a_rollback_that_is_only_planned_undoes_nothing(scheduler, staging):
    before = scheduler.applied(staging)

    ended = scheduler.roll_back(staging, "0", plan_only=True)

    assert (ended.state, ended.migrations("skipped")) == ("success", scheduler.files())
    assert [step["name"] for step in scheduler.api.xcom(ended.run, "plan")["plan"]["steps"]] == before[::-1]
    assert scheduler.applied(staging) == before
    assert scheduler.events(staging, "rolling_back") == []


def manifest(scheduler, name):
    """Read a snapshot's manifest from the storage folder."""
    return json.loads(
        (
            scheduler.stack.run / "storage" / name.split("/")[0].removeprefix("test_") / name / "manifest.json"
        ).read_text()
    )
