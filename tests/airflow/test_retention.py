"""Retention through the real scheduler, and erasure on an environment that has all that it needs: assets, and exports elsewhere."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId

NOW = datetime.now(UTC)
DUE = 7
ALERTS = ("overdue", "resurrections", "coverage")


@pytest.fixture(scope="module")
def retained(scheduler):
    scheduler.bring_up("retained")
    return scheduler.db("retained")


def person(db, email):
    """Add somebody; return their id."""
    account = {
        "email": email,
        "display_name": "Ann Lee",
        "status": "active",
        "subscription_type": "free",
        "created_at": NOW,
    }
    return db.users.insert_one(account).inserted_id


def night(scheduler, **conf):
    return scheduler.end(scheduler.trigger("retained", "mongo_retention", **conf))


@pytest.mark.chaos
def test_one_rule_that_is_due_is_shown_then_carried_out_and_reported(scheduler, retained):
    ann = person(retained, "ann.retained@example.org")
    event = {"event_type": "play", "user_id": ann, "track_id": ObjectId()}
    old = [{**event, "ts": NOW - timedelta(days=900 + n)} for n in range(DUE)]
    kept = retained.analytics.insert_many([{**event, "ts": NOW - timedelta(days=n)} for n in range(3)]).inserted_ids
    retained.analytics.insert_many(old)

    shown = night(scheduler, plan_only=True)

    assert (shown.state, shown.states["due"], shown.states["retain"]) == ("success", "skipped", "skipped")
    due = {one["id"]: one["documents"] for one in scheduler.api.xcom(shown.run, "plan")["plan"]["due"]}
    assert {name: number for name, number in due.items() if number} == {"analytics.events": DUE}
    assert retained.analytics.count_documents({}) == DUE + 3
    assert retained.ops_erasure_runs.count_documents({"kind": "retention"}) == 0

    done = night(scheduler)

    assert (done.state, done.states["retain"]) == ("success", "success")
    result = scheduler.api.xcom(done.run, "report")
    assert (result["retained"], result["plan_only"]) == ({"analytics.events": DUE}, False)
    assert result["findings"] == {name: [] for name in ALERTS}
    assert sorted(retained.analytics.distinct("_id")) == sorted(kept)
    events = list(retained.ops_erasure_ledger.find({"action": "erasure.retention.done"}))
    assert [one["details"]["documents"] for one in events] == [DUE]


@pytest.mark.chaos
def test_a_night_with_nothing_due_says_so_and_what_a_person_must_see_fails_its_own_task_only(scheduler, retained):
    late = scheduler.cli("erase request", "retained", "--received", "2026-01-31", "--json", typed=f"{ObjectId()}\n")
    (request,) = json.loads(late.stdout)["requests"]
    try:
        ended = night(scheduler)
    finally:
        retained.ops_erasure_requests.delete_one({"_id": request})

    assert (ended.states["retain"], ended.states["overdue"], ended.states["report"]) == ("skipped", "failed", "success")
    result = scheduler.api.xcom(ended.run, "report")
    assert (result["retained"], result["findings"]["overdue"]) == ({}, [f"{request} is overdue (Art. 12(3))"])


@pytest.mark.chaos
def test_objects_and_exports_outside_of_the_storage_lose_a_person_who_is_erased(scheduler, retained):
    ann, bob = person(retained, "ann.exported@example.org"), person(retained, "bob.exported@example.org")
    artist = {"name": "Ann Lee", "user_id": ann, "image_key": "artists/ann-exported.png", "created_at": NOW}
    retained.artists.insert_one(artist)
    run = Path(scheduler.stack.run)
    image = run / "storage-assets" / "retained" / "artists" / "ann-exported.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"\x89PNG")
    elsewhere = run / "elsewhere"
    made = scheduler.end(
        scheduler.trigger(
            "retained", "mongo_bulk_export", destination=str(elsewhere), collections=["users"], format="jsonl.gz"
        )
    )
    assert made.state == "success"
    assert str(ann) in exported(elsewhere)

    ended = scheduler.end(scheduler.trigger("retained", "mongo_gdpr_erasure", user_id=str(ann)))

    assert ended.state == "success"
    assert scheduler.api.xcom(ended.run, "objects") == {"objects": 1, "versions": 1, "files": 1, "documents": 1}
    assert not image.exists()
    left = exported(elsewhere)
    assert (str(ann) in left, "ann.exported" in left, str(bob) in left) == (False, False, True)
    assert scheduler.api.xcom(ended.run, "report")["states"] == {"completed": 1}


def exported(folder):
    """The text of all parts of an export."""
    return "".join(gzip.decompress(one.read_bytes()).decode() for one in sorted(folder.rglob("*.gz")))
