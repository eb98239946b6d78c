"""GDPR erasure through the real scheduler: sealed at the door, planned, approved by a second person, erased, proved."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from datetime import UTC, datetime

import pytest
from bson import ObjectId
from demo import processes

from mongo_ops.erasure import ledger

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLAYS = 300
MANY = 40_000
CANARY = "canary.of.a.person@example.org"


def plant(db, email=CANARY):
    """Put a person, what they did and what is theirs into the reference model; return the person's id and the co-author's."""
    person, other, artist, track = (ObjectId() for _ in range(4))
    for key, address in ((person, email), (other, f"other.{email}")):
        account = {"_id": key, "email": address, "display_name": "Ann Lee", "status": "active", "created_at": NOW}
        db.users.insert_one(account | {"subscription_type": "free"})
        db.analytics.insert_many(
            [{"event_type": "play", "user_id": key, "track_id": track, "ts": NOW} for _ in range(PLAYS)]
        )
    db.artists.insert_one({"_id": artist, "name": "Ann Lee", "user_id": person, "bio": "born", "created_at": NOW})
    named = [{"name": "Ann Lee", "role": "x", "user_id": person}, {"name": "Bo", "role": "y", "user_id": other}]
    db.tracks.insert_one(
        {"_id": track, "title": "T", "artist_id": artist, "duration_ms": 1, "credits": named, "created_at": NOW}
    )
    return person, other


@pytest.fixture(scope="module")
def forgotten(scheduler):
    scheduler.bring_up("forgotten")
    return scheduler.db("forgotten")


@pytest.fixture(scope="module")
def guarded(scheduler):
    scheduler.bring_up("guarded_before")
    return scheduler.db("guarded")


def receive(scheduler, environment, person):
    """Receive a request by the CLI; return its id."""
    done = scheduler.cli("erase request", environment, "--json", typed=f"{person}\n")
    assert done.returncode == 0, done.stderr
    assert str(person) not in done.stdout + done.stderr
    return json.loads(done.stdout)["requests"][0]


@pytest.mark.chaos
def test_in_development_an_identifier_is_sealed_first_and_everything_is_erased(scheduler, forgotten):
    person, other = plant(forgotten, "dev.person@example.org")

    ended = scheduler.end(scheduler.trigger("forgotten", "mongo_gdpr_erasure", user_id=str(person)))

    assert ended.state == "success"
    assert {
        name: ended.states[name] for name in ("intake", "plan", "lease", "sweep", "verify", "certify", "release")
    } == dict.fromkeys(("intake", "plan", "lease", "sweep", "verify", "certify", "release"), "success")
    assert left(forgotten, person, other) == {"accounts": [other], "plays": {other: PLAYS}}
    assert forgotten.tracks.find_one({"credits.user_id": other})["credits"][1] == {
        "name": "Bo",
        "role": "y",
        "user_id": other,
    }
    result = scheduler.api.xcom(ended.run, "report")
    assert result["states"] == {"completed": 1}
    request = forgotten.ops_erasure_requests.find_one({"_id": result["request_id"]})
    assert (request["state"], forgotten.ops_erasure_certificates.count_documents({"_id": request["_id"]})) == (
        "completed",
        1,
    )


def test_a_plan_only_run_erases_nothing(scheduler, forgotten):
    person, _ = plant(forgotten, "planned.person@example.org")
    request = receive(scheduler, "forgotten", person)

    ended = scheduler.end(scheduler.trigger("forgotten", "mongo_gdpr_erasure", request_id=request, plan_only=True))

    assert (ended.state, ended.states["lease"], ended.states["sweep"]) == ("success", "skipped", "skipped")
    assert "analytics.events" in scheduler.log(ended.run, "plan")
    assert forgotten.users.count_documents({"_id": person}) == 1
    assert forgotten.ops_erasure_requests.find_one({"_id": request})["state"] == "received"


def test_a_protected_environment_takes_no_identifier(scheduler, guarded):
    before = guarded.ops_erasure_requests.count_documents({})

    ended = scheduler.end(scheduler.trigger("guarded", "mongo_gdpr_erasure", user_id=str(ObjectId())))

    assert (ended.state, ended.tasks["intake"]["try_number"]) == ("failed", 1)
    assert "Receive the request with `mongo-ops erase request`" in scheduler.log(ended.run, "intake")
    assert guarded.ops_erasure_requests.count_documents({}) == before


def test_a_second_person_approves_and_nothing_of_the_person_is_left_anywhere(scheduler, guarded):
    person, other = plant(guarded)
    request = receive(scheduler, "guarded", person)
    run = scheduler.trigger("guarded", "mongo_gdpr_erasure", request_id=request)
    scheduler.until_asked(run)
    assert guarded.users.count_documents({"_id": person}) == 1
    digest = scheduler.api.xcom(run, "plan")["digest"]

    scheduler.stack.api_as("olivia").answer(run, "approve", "Approve")

    ended = scheduler.end(run)
    assert ended.state == "success"
    assert left(guarded, person, other) == {"accounts": [other], "plays": {other: PLAYS}}
    issued = guarded.ops_erasure_certificates.find_one({"_id": request})["certificates"][-1]
    assert (issued["outcome"], issued["plan_digest"]) == ("completed", digest)
    assert ledger.verify(guarded).ok
    shown = scheduler.cli("erase certificate", "guarded", request)
    assert json.loads(shown.stdout)["digest"] == issued["digest"]
    assert canaries(scheduler, person) == {}


def canaries(scheduler, person):
    """Return where Airflow, its logs, the lineage or the package's own collections know the person: file or table -> what."""
    marks = [CANARY.encode(), str(person).encode(), person.binary]
    run = scheduler.stack.run
    found = {}
    for path in (p for p in run.rglob("*") if p.is_file() and "mongo" not in p.relative_to(run).parts[0]):
        content = path.read_bytes()
        if hits := [mark for mark in marks if mark in content]:
            found[str(path.relative_to(run))] = hits
    with sqlite3.connect(f"file:{run / 'airflow' / 'airflow.db'}?mode=ro", uri=True) as metadata:
        dump = "\n".join(metadata.iterdump()).encode()
    if hits := [mark for mark in marks if mark in dump]:
        found["metadata"] = hits
    return found


@pytest.mark.chaos
def test_a_killed_rule_is_tried_again_and_the_result_is_the_same(scheduler, forgotten):
    person, other = plant(forgotten, "killed.person@example.org")
    for whose, number in (
        (person, MANY),
        (ObjectId(), MANY + 2 * PLAYS),
    ):  # others' too: half of a collection is the limit
        event = {"event_type": "play", "user_id": whose, "track_id": ObjectId(), "ts": NOW}
        forgotten.analytics.insert_many([dict(event) for _ in range(number)])
    request = receive(scheduler, "forgotten", person)
    run = scheduler.trigger("forgotten", "mongo_gdpr_erasure", request_id=request)
    scheduler.until(lambda: half_done(forgotten, person), "the rule at work")
    lease = forgotten.ops_leases.find_one({"_id": "erasure.analytics.events"})

    os.kill(lease["pid"], signal.SIGKILL)

    assert processes.wait_for(lambda: processes.look_up(lease["pid"]) is None, 20)
    ended = scheduler.end(run)
    assert ended.state == "success"
    assert left(forgotten, person, other) == {"accounts": [other], "plays": {other: PLAYS}}
    done = {rule["rule"]: rule["documents"] for rule in certificate(forgotten, request)["rules"]}
    assert done["analytics.events"] == PLAYS + MANY


def left(db, *people):
    """Return whose accounts there are, and how many plays of each, among these people."""
    accounts = [found["_id"] for found in db.users.find({"_id": {"$in": people}}, {"_id": 1})]
    plays = {one: db.analytics.count_documents({"user_id": one}) for one in people}
    return {"accounts": accounts, "plays": {one: number for one, number in plays.items() if number}}


def half_done(db, person):
    done = db.ops_erasure_results.find_one({"rule": "analytics.events", "documents": {"$gte": 500}}, sort=[("_id", -1)])
    return done is not None and db.analytics.count_documents({"user_id": person}, limit=1) == 1


def certificate(db, request):
    return db.ops_erasure_certificates.find_one({"_id": request})["certificates"][-1]
