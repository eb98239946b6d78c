"""How a run behaves: indexes that are never advised away, long work, a dying server, a locked one, and the command line."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from tests.mongo.healths import look, looking, thresholds, told

from mongo_ops.cli import main
from mongo_ops.embedded import ReplicaSet
from mongo_ops.health import history, report
from mongo_ops.health import session as sessions
from mongo_ops.health.checks import fragmentation
from mongo_ops.health.model import Finding, Judged, Result, Run, Status
from mongo_ops.health.page import as_page
from mongo_ops.health.run import chosen
from mongo_ops.health.sight import HealthGuard, together
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.guard import WriteRefusedError
from mongo_ops.settings import Environment

DEADLINE = 20.0


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def test_only_an_idle_plain_index_that_is_old_enough_is_advised_away(replica_set, target):
    notes = target.db.notes
    notes.insert_many([{"n": number} for number in range(10)])
    notes.create_index("unique", unique=True, sparse=True)
    notes.create_index("ttl", expireAfterSeconds=9_000)
    notes.create_index("partial", partialFilterExpression={"n": {"$gt": 5}})
    notes.create_index("folded", collation={"locale": "de"})
    notes.create_index("used")
    notes.create_index("idle")
    notes.find_one({"used": 1})
    days = {"unused_indexes": {"options": {"days": 0}}}

    with looking(replica_set, target, thresholds(**days)) as session:
        advised = told(look(session, target, "old enough", ["indexes"]))
    with looking(replica_set, target) as session:
        young = told(look(session, target, "too young", ["indexes"]))

    assert {place for place in advised if place[0] == "unused_indexes"} == {("unused_indexes", "notes.idle_1")}
    assert {place for place in young if young[place][1] != "FIXED"} == {("ttl_values", "notes.ttl_1 types")}


def test_a_long_operation_and_an_open_transaction_are_found_without_their_values(replica_set, target):
    target.db.notes.insert_one({"secret": "hidden@example.org"})
    limits = {"long_operations": {"warn": 1, "crit": 600}, "open_transactions": {"warn": 0.000001, "crit": 300}}
    sleeper = threading.Thread(target=lambda: target.client.admin.command("sleep", 1, millis=4000, lock="none"))
    running = [{"$currentOp": {}}, {"$match": {"command.sleep": {"$exists": True}, "secs_running": {"$gte": 1}}}]
    sleeper.start()
    with target.client.start_session() as own, own.start_transaction():
        target.db.notes.with_options(read_concern=ReadConcern("local")).find_one(
            {"secret": "hidden@example.org"}, session=own
        )
        until(lambda: list(target.client.admin.aggregate(running)), "the operation has run for a second")
        with looking(replica_set, target, thresholds(**limits)) as session:
            snapshot = session.snapshot()
            results = {one.check: one for one in session.look(snapshot, chosen(["server"]))}
        own.abort_transaction()
    sleeper.join()

    assert [one.scope for one in results["long_operations"].findings] == ["sleep on admin.$cmd"]
    assert results["open_transactions"].status is Status.WARN
    assert "hidden@example.org" not in str(snapshot)


def test_a_server_that_dies_in_the_middle_leaves_unknowns_and_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "HISTORY_SECONDS", 0.5)
    quick = replace(thresholds(), check_seconds=2.0)
    with ReplicaSet(tmp_path / "mongo").running() as own:
        environment = Environment("development", "c", database="dying")
        options = {"serverSelectionTimeoutMS": 500}
        spec = ConnectionSpec("c", own.uri, "here", "dying", options)

        def kill(_snapshot):
            own.nodes[0].kill()
            return []

        with connect(spec, environment) as target, looking(own, target, quick, options, drift=kill) as session:
            run = look(session, target, "dying")

    results = {one.check: one for one in run.results}
    assert len(results) == len(chosen())
    assert {results[name].status for name in ("connections", "cache", "schema_drift")} == {Status.OK}
    assert {results[name].status for name in ("overdue_erasure", "unused_indexes")} <= {Status.UNKNOWN, Status.OK}
    assert results["overdue_erasure"].status is Status.UNKNOWN
    assert run.status is Status.UNKNOWN
    assert len(run.notes) == 2  # neither read nor written
    assert "Erasure requests" in as_page(run, report.Rows(), quick)


def test_a_check_that_breaks_is_unknown_and_hides_no_other(replica_set, target):
    def breaks(_snapshot):
        raise ValueError("ann@example.org")

    with looking(replica_set, target, drift=breaks) as session:
        run = look(session, target, "run", ["schema"])

    found = {one.check: one for one in run.results}
    assert (found["schema_drift"].status, found["schema_drift"].error) == (Status.UNKNOWN, "ValueError")
    assert found["validator_violations"].status is Status.OK
    assert "ann@example.org" not in str(run)


def test_the_guard_lets_a_background_validate_pass_and_nothing_that_writes(target):
    guard = HealthGuard()
    target.db.notes.insert_one({})
    with MongoClient(
        target.client.address[0], target.client.address[1], event_listeners=[guard], directConnection=True
    ) as client:
        assert client[target.database].command("validate", "notes", background=True)["valid"]
        for command in (
            {"validate": "notes"},
            {"validate": "notes", "background": True, "repair": True},
            {"drop": "notes"},
        ):
            with pytest.raises(WriteRefusedError):
                client[target.database].command(command)
    assert guard.commands >= 4
    assert target.db.notes.count_documents({}) == 1


def test_many_collections_are_read_in_few_commands(replica_set, target):
    names = [f"c{number:03}" for number in range(120)]
    for name in names:
        target.db[name].insert_one({})
    with looking(replica_set, target) as session:
        counts = dict(together(session.target.db, [(name, [{"$count": "n"}]) for name in names]))
        before = session.guard.commands
        snapshot = session.snapshot()

    assert counts == {name: {"n": 1} for name in names}
    assert set(snapshot.sizes) >= set(names)
    assert session.guard.commands - before < 30


def test_the_history_keeps_a_run_once_and_forgets_it_in_time(target):
    now = datetime.now(UTC)

    def made(number, at):
        finding = Finding(Status.WARN, "A sentence.", "used", 91.0, "%")
        return Run(
            f"run {number}",
            "development",
            "m",
            at,
            (Result("cache", Status.WARN, (finding,)),),
            (Judged("cache", finding),),
        )

    for number, days in enumerate((30, 2, 1, 1)):
        history.record(target.db, made(min(number, 2), now - timedelta(days=days)), keep_days=10)

    assert sorted(target.db.ops_health.distinct("run")) == ["run 1", "run 2"]
    assert target.db.ops_health.count_documents({}) == 6
    assert [point.value for point in history.past(target.db, "cache", "used")] == [91.0, 91.0]
    assert history.earlier(target.db, ["cache"], now)["cache"].problems["used"][0] is Status.WARN
    assert history.earlier(target.db, ["cache"], now - timedelta(days=5)) == {}
    summaries, numbers = history.frame_rows(target.db, 60)
    assert (len(summaries), len(numbers)) == (2, 2)


@pytest.fixture
def environment(replica_set, target, tmp_path, monkeypatch):
    host = replica_set.nodes[0].address
    connection = {"conn_type": "mongo", "host": host, "schema": target.database, "extra": {"replicaSet": "rs0"}}
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEVELOPMENT", json.dumps(connection))
    monkeypatch.setenv("MONGO_OPS_STORAGE", str(tmp_path))
    return target


def test_the_command_says_by_its_exit_code_how_bad_it_is(environment, capsys, tmp_path):
    words = ["health", "--env", "development", "--json", "--group", "own"]
    page = tmp_path / "report.html"

    assert main([*words, "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["OK"] >= 4
    assert "<!doctype html>" in page.read_text()
    environment.db.ops_leases.insert_one(
        {
            "_id": "dead",
            "released": False,
            "acquired_at": datetime.now(UTC),
            "expires_at": datetime.now(UTC) - timedelta(hours=1),
        }
    )
    assert main(words) == 2
    environment.db.ops_migrations.insert_one({"_id": "099_half", "state": "failed"})
    assert main([*words, "--dry-run"]) == 1
    assert {one["transition"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])["judged"]} == {
        "SAME",
        "NEW",
    }
    assert environment.db.ops_health.count_documents({"kind": "run"}) == 2
    assert main(["health", "--env", "development", "--group", "none"]) == 3


def test_limits_can_switch_a_check_off(replica_set, target):
    with looking(replica_set, target, thresholds(cache={"enabled": False})) as session:
        run = look(session, target, "run", ["server"])

    assert [one.status for one in run.results if one.check == "cache"] == [Status.SKIPPED]


COVERED = {
    "a": ([("a", 1)], {}), "a_b": ([("a", 1), ("b", -1)], {}), "reverse": ([("a", -1), ("b", 1), ("c", 1)], {}),
    "folded": ([("s", 1)], {"collation": {"locale": "en", "strength": 2}}),
    "folded_longer": ([("s", 1), ("a", 1)], {"collation": {"locale": "en", "strength": 2}}),
    "exact": ([("s", 1)], {}), "other": ([("s", 1), ("a", 1)], {"collation": {"locale": "de"}}),
    "some": ([("$**", 1)], {"wildcardProjection": {"m": 1}}), "all": ([("$**", 1)], {}),
    "lone": ([("u", 1)], {"unique": True}), "lone_longer": ([("u", 1), ("a", 1)], {}),
}  # fmt: skip


def test_what_is_called_redundant_is_not_missed_by_the_servers_own_planner(replica_set, target):
    """Without the index, each query that it served is served by an index all the same: no scan, no sort in memory."""
    notes = target.db.notes
    notes.insert_many([{"a": n % 7, "b": n % 5, "c": n, "s": f"S{n}", "u": n, "m": n} for n in range(200)])
    for name, (keys, options) in COVERED.items():
        notes.create_index(keys, name=name, **options)
    with looking(replica_set, target) as session:
        run = look(session, target, "run", ["indexes"])
    advised = {scope.partition(".")[2] for check, scope in told(run) if check == "redundant_indexes"}

    assert advised == {"a", "a_b", "folded"}
    for name in advised:
        notes.drop_index(name)
    folded = {"locale": "en", "strength": 2}
    for query, order, collation in (
        ({"a": 3}, [("a", 1)], None), ({"a": {"$gt": 3}}, [("a", -1)], None), ({"a": 3, "b": {"$lt": 4}}, [("a", 1), ("b", -1)], None),
        ({}, [("a", -1), ("b", 1)], None), ({"s": "s7"}, [("s", 1)], folded), ({"s": {"$gt": "s7"}}, [("s", -1)], folded),
    ):  # fmt: skip
        plan = str(notes.find(query).sort(order).collation(collation).explain()["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in plan, (query, order)
        assert "COLLSCAN" not in plan
        assert "'SORT'" not in plan


def test_a_single_unknown_finding_is_new_once_and_a_check_that_cannot_look_is_too(replica_set, target):
    """A token of a form that nobody knows is UNKNOWN night after night: that is no news, and nothing is fixed by it."""
    target.db.readers.insert_one({"_id": 5, "token": "of another database"})
    watched = thresholds(resume_tokens={"options": {"places": ["readers.token"], "full": 0.9}})

    def breaks(_snapshot):
        raise ValueError

    with looking(replica_set, target, watched, drift=breaks) as session:
        runs = [look(session, target, name, ["replication", "schema"]) for name in ("first", "second", "third")]
    target.db.readers.delete_many({})
    with looking(replica_set, target, watched) as session:
        last = look(session, target, "mended", ["replication", "schema"])

    token, drift = ("resume_tokens", "readers.token of 5"), ("schema_drift", "could not look")
    assert [told(run) for run in runs] == [
        {token: ("UNKNOWN", way), drift: ("UNKNOWN", way)} for way in ("NEW", "SAME", "SAME")
    ]
    assert {one.since for run in runs for one in run.judged} == {runs[0].at}
    assert told(last) == {token: ("OK", "FIXED"), drift: ("OK", "FIXED")}


def test_storage_statistics_are_asked_for_only_where_holes_can_be(replica_set, target, monkeypatch):
    """They cost milliseconds for each collection with its indexes: nobody is asked while the database has too little free space."""
    target.db.notes.insert_one({})

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(fragmentation, "together", refuse)
    small = thresholds(fragmentation={"options": {"megabytes": 0}})
    statuses = []
    for found in (thresholds(), small):
        with looking(replica_set, target, found) as session:
            results = session.look(session.snapshot(), chosen(["storage"]))
        statuses += [one.status for one in results if one.check == "fragmentation"]

    assert statuses == [Status.OK, Status.UNKNOWN]
