"""mongo_migrate through the real scheduler: what it does, what it refuses, and what it never tells."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass

import bson
import pytest
from demo.api import ApiError
from tests.airflow.conftest import LOGIN, PASSWORD, Ended

from mongo_ops import audit
from mongo_ops.mongo import lease

E_MAIL, NAME = "marker.person@example.org", "Marker Person-Of-The-Tests"
PERSONAL = (E_MAIL, NAME)
PLUMBING = ("ops_leases",)


@dataclass(frozen=True)
class Told:
    """A finished run on data about a person."""

    ended: Ended
    before: int


@pytest.fixture(scope="module")
def development(scheduler):
    """mongo_migrate on development: 001 and 002 are there, a person and three artists too; olivia triggers the rest."""
    scheduler.bring_up("development", "--to", "002")
    db = scheduler.db("development")
    db.users.insert_one({"email": E_MAIL, "display_name": NAME})
    db.artists.insert_many([{"name": NAME, "genre": genre} for genre in ("Rock", "Jazz", "Folk")])
    before = db.ops_history.count_documents({})
    return Told(scheduler.end(scheduler.trigger("development", user="olivia", reason="release of the week")), before)


def test_a_plan_only_run_shows_the_plan_and_writes_nothing(scheduler):
    scheduler.bring_up("trial", "--to", "002")
    before, mark = digest(scheduler.db("trial")), oplog_end(scheduler)

    ended = scheduler.migrate("trial", plan_only=True)

    assert ended.state == "success"
    assert ended.migrations("skipped") == scheduler.files()
    assert [ended.states[task] for task in ("approve", "lease", "verify", "release")] == ["skipped"] * 4
    assert [ended.states[task] for task in ("lint", "plan", "report")] == ["success"] * 3
    assert digest(scheduler.db("trial")) == before
    assert [entry for entry in oplog_since(scheduler, mark) if "test_trial" in entry] == []
    shown = scheduler.api.xcom(ended.run, "plan")
    assert [step["name"] for step in shown["plan"]["steps"]] == scheduler.files("trial")[2:]
    assert "Apply 5 migrations on **trial**" in shown["markdown"]
    assert scheduler.api.xcom(ended.run, "report")["plan_only"] is True


@pytest.mark.chaos
def test_a_target_version_is_where_it_stops(scheduler):
    scheduler.bring_up("aimed", "--to", "002")

    ended = scheduler.migrate("aimed", target_version="003")

    assert ended.state == "success"
    assert ended.migrations("success") == ["003_backfill_status_genres_created_at"]
    assert scheduler.applied("aimed") == scheduler.files()[:3]


def test_a_full_run_applies_every_migration_that_is_pending(scheduler, development):
    mine = scheduler.files("development")

    assert development.ended.state == "success"
    assert development.ended.migrations("success") == mine[2:]
    assert development.ended.migrations("skipped") == [name for name in scheduler.files() if name not in mine[2:]]
    assert scheduler.applied("development") == mine
    db = scheduler.db("development")
    assert db.users.count_documents({"status": "active", "subscription_type": "free"}) == 1
    assert sorted(genre for artist in db.artists.find() for genre in artist["genres"]) == ["folk", "jazz", "rock"]
    result = scheduler.api.xcom(development.ended.run, "report")
    assert {name for name, state in result["status"].items() if state == "applied"} == set(mine)


def test_the_history_names_the_run_and_the_audit_chain_holds_the_user_only_as_a_commitment(scheduler, development):
    run = f"mongo_migrate {development.ended.run.run_id}"
    db = scheduler.db("development")

    entries = list(db.audit_log.find({"run_id": run}).sort("chain.seq"))

    assert {found["run_id"] for found in db.ops_history.find().sort("at").skip(development.before)} == {run}
    assert [e["entity_id"] for e in entries if e["action"] == "migration.applied"] == scheduler.files("development")[2:]
    assert audit.verify(db).ok
    assert {entry["personal"]["actor"]["value"] for entry in entries} == {"olivia"}
    assert "olivia" not in json.dumps([{**entry, "personal": None} for entry in entries], default=str)
    assert {entry["details"]["reason"] for entry in entries} == {"release of the week"}
    with db.client.start_session() as session:
        erased = audit.erase_personal(db, session, {"run_id": run})
    assert (erased, audit.verify(db).ok) == (len(entries), True)


def test_the_chain_is_anchored_outside_of_the_database_and_a_shortened_one_fails_the_run(scheduler, development):
    db = scheduler.db("development")

    done = scheduler.end(scheduler.trigger("development", "mongo_audit_anchor"))

    anchored = scheduler.api.xcom(done.run, "anchor")["audit_log"]
    assert (done.state, anchored["entries"]) == (
        "success",
        db.audit_log.count_documents({"chain.seq": {"$exists": True}}),
    )
    with db.client.start_session() as session, session.start_transaction():
        heads, last = db.ops_audit_head, db.audit_log.find_one({"chain.seq": anchored["seq"]}, session=session)
        before = db.audit_log.find_one({"chain.seq": anchored["seq"] - 1}, session=session)
        db.audit_log.delete_one({"_id": last["_id"]}, session=session)
        heads.update_one(
            {"_id": "audit_log"},
            {"$set": {"seq": before["chain"]["seq"], "hash": before["chain"]["hash"]}},
            session=session,
        )
    assert audit.verify(db).ok

    failed = scheduler.end(scheduler.trigger("development", "mongo_audit_anchor"))

    db.audit_log.insert_one(last)
    heads.update_one({"_id": "audit_log"}, {"$set": {"seq": last["chain"]["seq"], "hash": last["chain"]["hash"]}})
    assert (failed.state, failed.tasks["anchor"]["try_number"]) == ("failed", 1)
    assert "The audit chain has 1 fault" in scheduler.log(failed.run, "anchor")


def test_no_credential_and_no_personal_value_gets_out_of_the_database(scheduler, development):
    home = scheduler.stack.run

    kept = {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and p.relative_to(home).parts[0] != "mongo"}

    logs = [path for path in kept if path.suffix == ".log" and f"run_id={development.ended.run.run_id}" in str(path)]
    assert len(logs) >= len(scheduler.files("development"))
    for secret in (PASSWORD, *PERSONAL):
        assert [str(path) for path, content in kept.items() if secret.encode() in content] == []
    for name in (LOGIN, "olivia"):
        assert [str(path) for path in logs if name.encode() in kept[path]] == []
        assert name not in handed_on(scheduler, development.ended.run)


def test_lineage_tells_collections_and_counts_of_a_migration(scheduler, development):
    complete = {
        event["job"]["name"].rpartition(".")[2]: event
        for event in scheduler.lineage(development.ended.run)
        if event["eventType"] == "COMPLETE"
    }

    outputs = complete["007_normalise_artist_genres"]["outputs"]
    assert [(output["namespace"], output["name"]) for output in outputs] == [
        (f"mongodb://127.0.0.1:{scheduler.stack.state.mongo_port}", "test_development.artists")
    ]
    assert outputs[0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    named = {output["name"] for output in complete["005_create_advanced_collections"]["outputs"]}
    assert {"test_development.consent", "test_development.geo_events", "test_development.audit_log"} <= named


def test_progress_is_in_the_task_state(scheduler, development):
    run = development.ended.run
    task = scheduler.task_id(run, "007_normalise_artist_genres")

    stored = scheduler.api.call("GET", f"{run.path}/taskInstances/{task}/state-store/progress")

    value = stored["value"] if isinstance(stored["value"], dict) else json.loads(stored["value"])
    assert (value["done"], value["total"]) == (3, 3)
    assert scheduler.api.xcom(run, task)["counts"] == {"matched": 3, "modified": 3}


@pytest.mark.chaos
def test_two_runs_and_the_cli_at_once_apply_everything_exactly_once(scheduler):
    first, second = scheduler.trigger("raced"), scheduler.trigger("raced")
    db = scheduler.db("raced")
    scheduler.until(lambda: db.ops_migrations.find_one({"state": "applied"}), "the first migration")

    beside = scheduler.cli("migrate", "raced")

    holder = first if db.ops_leases.find_one()["owner"].endswith(first.run_id) else second
    assert (beside.returncode, f"held by airflow mongo_migrate {holder.run_id}" in beside.stderr) == (3, True)
    ends = [scheduler.end(holder)]
    afterwards = digest(db)
    ends.append(scheduler.end(second if holder == first else first))
    assert [end.state for end in ends] == ["success", "success"]
    assert ends[0].migrations("success") == scheduler.files("raced")
    assert ends[1].migrations("skipped") == scheduler.files()
    assert digest(db) == afterwards
    assert [event["migration"] for event in scheduler.events("raced", "applied")] == scheduler.files("raced")
    assert lease.show(db, "migrations") is None


@pytest.mark.chaos
def test_an_edited_file_stops_the_run_with_a_sentence_and_without_a_retry(scheduler):
    scheduler.bring_up("drifted", "--to", "001")
    scheduler.db("drifted").ops_migrations.update_one({}, {"$set": {"checksum": "0" * 64}})
    before = digest(scheduler.db("drifted"))

    ended = scheduler.migrate("drifted")

    assert (ended.state, ended.states["plan"], ended.tasks["plan"]["try_number"]) == ("failed", "failed", 1)
    assert "001_create_core_collections changed since being applied. Restore the file" in scheduler.log(
        ended.run, "plan"
    )
    assert ended.migrations("success") == []
    assert digest(scheduler.db("drifted")) == before


def test_an_environment_that_does_not_exist_is_refused_by_the_form(scheduler):
    with pytest.raises(ApiError, match="is not one of") as refused:
        scheduler.trigger("moon")

    assert refused.value.status == 400


@pytest.mark.chaos
def test_a_server_that_does_not_answer_is_tried_again(scheduler):
    run = scheduler.trigger("unreachable")
    scheduler.until(lambda: scheduler.api.task(run, "plan")["try_number"] > 1, "the second try")

    ended = scheduler.give_up(run, "plan")

    told = scheduler.log(run, "plan")
    assert (ended.state, ended.migrations("success")) == ("failed", [])
    assert "No MongoDB server answered at 127.0.0.1:1 (connection mongo_nowhere)" in told
    assert PASSWORD not in told


def test_a_wrong_password_fails_at_once(scheduler):
    ended = scheduler.migrate("forbidden")

    assert (ended.state, ended.states["plan"], ended.tasks["plan"]["try_number"]) == ("failed", "failed", 1)
    told = scheduler.log(ended.run, "plan")
    assert "refused the user or password of connection mongo_wrong_password" in told
    assert (PASSWORD in told, LOGIN in told) == (False, False)


def test_a_failing_migration_tells_where_and_no_value(scheduler):
    scheduler.bring_up("telling", "--to", "007")
    account = {"email": E_MAIL, "display_name": NAME, "status": "active", "subscription_type": "free"}
    scheduler.db("telling").users.insert_one(account | {"created_at": bson.datetime_ms.DatetimeMS(0)})

    ended = scheduler.migrate("telling")

    assert (ended.state, ended.migrations("failed")) == ("failed", ["010_tell_a_secret"])
    assert (ended.states["release"], ended.states["verify"]) == ("success", "upstream_failed")
    assert ended.tasks["010_tell_a_secret"]["try_number"] == 1
    told = scheduler.log(ended.run, "010_tell_a_secret")
    assert "010_tell_a_secret" in told
    assert "ValueError" in told
    assert E_MAIL not in told
    record = scheduler.db("telling").ops_migrations.find_one({"_id": "010_tell_a_secret"})
    assert (record["state"], E_MAIL in str(record)) == ("failed", False)
    assert scheduler.cli("unlock", "telling").stdout == "Nobody holds the lease.\n"


def digest(db):
    """Fingerprint everything in a database but the lease."""
    found = hashlib.sha256()
    for options in sorted(db.list_collections(), key=lambda one: one["name"]):
        if options["name"] in PLUMBING:
            continue
        collection = db[options["name"]]
        found.update(repr((options["name"], options.get("options"), sorted(collection.index_information()))).encode())
        for document in sorted(bson.encode(document) for document in collection.find()):
            found.update(document)
    return found.hexdigest()


def oplog_end(scheduler):
    """Return the time of the last write."""
    return scheduler.client.local["oplog.rs"].find_one(sort=[("$natural", -1)])["ts"]


def oplog_since(scheduler, mark):
    """Return the later writes as texts."""
    return [str(entry) for entry in scheduler.client.local["oplog.rs"].find({"ts": {"$gt": mark}, "op": {"$ne": "n"}})]


def handed_on(scheduler, run):
    """Return everything that a run's tasks handed on, rendered or were given."""
    queries = (
        "select value from xcom where run_id = ?",
        "select rendered_fields from rendered_task_instance_fields where run_id = ?",
        "select conf from dag_run where run_id = ?",
    )
    with sqlite3.connect(f"file:{scheduler.stack.run}/airflow/airflow.db?mode=ro", uri=True) as database:
        rows = [row for query in queries for row in database.execute(query, (run.run_id,))]
    assert len(rows) > len(scheduler.files("development"))
    return str(rows)
