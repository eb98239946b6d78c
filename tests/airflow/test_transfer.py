"""Export and import through the real scheduler: the same documents on the other side, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from demo import processes

from mongo_ops.mongo.documents import set_digest

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLAYS = 30_000


@pytest.fixture(scope="module")
def moved(scheduler):
    """A database with something in it."""
    scheduler.bring_up("moved")
    db = scheduler.db("moved")
    person = ObjectId()
    db.users.insert_one(
        {
            "_id": person,
            "email": "mover@example.org",
            "display_name": "M",
            "status": "active",
            "created_at": NOW,
            "subscription_type": "free",
        }
    )
    event = {"event_type": "play", "user_id": person, "track_id": ObjectId(), "ts": NOW}
    db.analytics.insert_many([dict(event) for _ in range(PLAYS)])
    return db


@pytest.fixture(scope="module")
def exported(scheduler, moved):
    """A finished export of two collections, in four parts each."""
    ended = scheduler.end(
        scheduler.trigger("moved", "mongo_bulk_export", collections=["users", "analytics"], partitions=4)
    )
    assert ended.state == "success"
    return scheduler.api.xcom(ended.run, "report")


def test_an_export_is_read_back_recorded_and_leaves_no_plan(scheduler, moved, exported):
    assert (exported["documents"], exported["collections"], exported["consistency"]) == (PLAYS + 1, 2, "snapshot")
    assert exported["verified"] is True
    noted = moved.ops_transfers.find_one({"kind": "export", "destination": exported["destination"]})
    assert (noted["documents"], moved.ops_transfers.count_documents({"plan": {"$exists": True}})) == (PLAYS + 1, 0)


def test_a_plan_only_export_writes_nothing(scheduler, moved):
    before = moved.ops_transfers.count_documents({})

    ended = scheduler.end(scheduler.trigger("moved", "mongo_bulk_export", plan_only=True))

    assert (ended.state, ended.states["lease"], ended.states["finish"]) == ("success", "skipped", "skipped")
    assert "analytics" in scheduler.log(ended.run, "plan")
    assert moved.ops_transfers.count_documents({}) == before


def test_a_finished_export_is_never_overwritten(scheduler, exported):
    ended = scheduler.end(scheduler.trigger("moved", "mongo_bulk_export", destination=exported["destination"]))

    assert (ended.state, ended.tasks["plan"]["try_number"]) == ("failed", 1)
    assert "which is never overwritten" in scheduler.log(ended.run, "plan")


def test_an_import_that_is_killed_loads_everything_exactly_once(scheduler, moved, exported):
    landed = scheduler.db("landed")
    run = scheduler.trigger("landed", "mongo_bulk_import", source=exported["destination"])
    scheduler.until(lambda: 2_000 <= landed.analytics.estimated_document_count() < PLAYS, "the load at work")
    lease = landed.ops_leases.find_one({"_id": {"$regex": "^transfer"}}, sort=[("renewed_at", -1)])

    os.kill(lease["pid"], signal.SIGKILL)

    assert processes.wait_for(lambda: processes.look_up(lease["pid"]) is None, 20)
    ended = scheduler.end(run)
    assert ended.state == "success"
    for name in ("users", "analytics"):
        assert set_digest(landed[name].find()) == set_digest(moved[name].find())
        assert names(landed[name]) == names(moved[name])
    assert landed.command("listCollections", filter={"name": "users"})["cursor"]["firstBatch"][0]["options"][
        "validator"
    ]


@pytest.mark.chaos
def test_an_import_into_a_protected_environment_waits_for_a_second_person(scheduler, exported):
    received = scheduler.db("received")
    run = scheduler.trigger(
        "received", "mongo_bulk_import", source=exported["destination"], collections={"users": "people"}
    )
    scheduler.until_asked(run)
    assert received.people.count_documents({}) == 0

    scheduler.stack.api_as("olivia").answer(run, "approve", "Approve")

    assert scheduler.end(run).state == "success"
    assert received.people.count_documents({}) == 1


def test_the_lineage_leads_from_collections_to_the_object(scheduler, exported):
    outputs = [
        output
        for line in (scheduler.stack.run / "lineage.ndjson").read_text().splitlines()
        if '"mongo_bulk_export.finish"' in line
        for output in json.loads(line)["outputs"]
    ]

    path = exported["destination"].removeprefix("file://")
    assert path in {output["name"] for output in outputs}


def names(collection):
    return sorted(index["name"] for index in collection.list_indexes())
