"""A replica set of three that loses its primary, lags, or goes away altogether while a migration runs."""

from __future__ import annotations

import signal
import time
import uuid

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from tests.mongo.runner import Project, migration, point_of, slow, until

from mongo_ops import audit
from mongo_ops.embedded import ReplicaSet
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
ADD_ONE = "Backfill('numbers', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})"
MANY = 60_000


@pytest.fixture
def three(tmp_path):
    """Three servers of its own for each test: what one leaves behind is no other's trouble."""
    options = ("--setParameter", "transactionLifetimeLimitSeconds=2")
    with ReplicaSet(tmp_path / "three", size=3, options=options).running() as running:
        be_patient(running)
        yield running


def be_patient(three):
    """Do not elect after one second of silence: on a busy machine that alone would topple primaries."""
    with MongoClient(three.uri) as client:
        config = client.admin.command("replSetGetConfig")["config"]
        config["version"] += 1
        config["settings"]["electionTimeoutMillis"] = 3_000
        client.admin.command("replSetReconfig", config)


@pytest.fixture
def project(three, tmp_path):
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = Environment("development", "c", database=name, storage=(tmp_path / "storage").as_uri())
    spec = ConnectionSpec("c", three.uri, "three nodes", name, {"serverSelectionTimeoutMS": 3_000})
    with connect(spec, environment) as target:
        made = Project(slow(target, batch_seconds=0.02, lease_ttl=10.0), tmp_path / "include")
        numbers(made.db, MANY)
        made.write(
            n001_add=migration(ADD_ONE), n002_index=migration("CreateIndex('numbers', keys=[('n', 1)], name='n')")
        )
        yield made


def numbers(db, count):
    spread = {"$project": {"i": {"$range": [0, count]}}}
    shape = {"$project": {"_id": "$i", "n": {"$literal": 0}}}
    db.aggregate([{"$documents": [{}]}, spread, {"$unwind": "$i"}, shape, {"$out": "numbers"}])


def tally(db):
    return {row["_id"]: row["c"] for row in db.numbers.aggregate([{"$group": {"_id": "$n", "c": {"$sum": 1}}}])}


def healthy(three):
    """Whether all three members are up and agree on a primary."""
    try:
        with three.nodes[0].direct_client() as client:
            states = [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]
    except PyMongoError:
        return False
    return sorted(states) == ["PRIMARY", "SECONDARY", "SECONDARY"]


def walked(project):
    try:
        return point_of(project.db, "001_add")
    except PyMongoError:
        return 0


def walked_again(project):
    """The progress as the next primary knows it."""
    return until(lambda: walked(project), "another primary")


def sound(project):
    return tally(project.db) == {1: MANY} and audit.verify(project.db).ok


def test_a_migration_outlives_two_primaries_and_loses_nothing(three, project):
    with project.process(lease_ttl=60.0) as process:
        for share in (0.2, 0.6):
            until(lambda share=share: walked(project) > MANY * share, f"{share} of the walk", running=process)
            lost = three.primary()
            lost.kill()
            met = walked_again(project)
            until(lambda met=met: walked(project) > met, "progress under another primary", running=process)
            process.send(signal.SIGSTOP)  # the second loss shall still meet it at work
            lost.start()
            until(lambda: healthy(three), "three members again")
            process.send(signal.SIGCONT)
        code, told, log = process.end(120)

    assert code == 0, (told, log)
    assert [line["name"] for line in told if line["event"] == "outcome"] == ["001_add", "002_index"]
    assert sound(project)
    assert project.states() == {"001_add": "applied", "002_index": "applied"}
    assert project.events("001_add").count("started") == 1  # one and the same run


def test_a_primary_that_steps_down_is_no_error(three, project):
    with project.process() as process:
        until(lambda: walked(project) > MANY * 0.2, "a fifth of the walk", running=process)
        with three.primary().direct_client() as client:
            client.admin.command({"replSetStepDown": 5, "force": True})
        code, told, log = process.end(120)

    assert code == 0, (told, log)
    assert sound(project)
    until(lambda: healthy(three), "three members again")


def test_a_server_that_is_gone_ends_the_run_in_bounded_time_and_the_next_one_resumes(three, project):
    with project.process(selection_ms=2_000, lease_ttl=3.0, retry_seconds=10) as process:
        until(lambda: walked(project) > MANY * 0.2, "a fifth of the walk", running=process)
        for node in three.nodes:
            node.kill()
        gone = time.monotonic()
        code, told, log = process.end(240)
        took = time.monotonic() - gone
    assert (code, told[-1]["event"]) == (1, "error"), (told, log)
    assert told[-1]["type"] in ("MigrationFailedError", "LeaseLostError", "ServerUnreachableError")
    assert took < 60

    for node in three.nodes:
        node.start()
    until(lambda: healthy(three), "three members again")
    half = tally(project.db)
    assert set(half) == {0, 1}
    assert half[1] >= MANY * 0.2  # majority writes survive
    assert project.states() == {"001_add": "running"}
    with project.process(owner="tester") as process:
        code, told, log = process.end(120)
    assert code == 0, (told, log)
    assert sound(project)


def test_a_lagging_secondary_is_waited_for_and_said_to_be_the_reason(three, project):
    project.target = slow(project.target, max_lag=1.0)
    primary = three.primary()
    behind = next(node for node in three.nodes if node is not primary)
    waits = []

    with behind.direct_client() as client:
        client.admin.command({"fsync": 1, "lock": True})  # it answers, and applies nothing any more
        locked = [True]

        def unlock_once_waited_for(progress):
            if progress.waiting:
                waits.append(progress)
                if locked:
                    client.admin.command("fsyncUnlock")
                    locked.clear()

        project.report = unlock_once_waited_for
        until(lambda: lag(three, project) > 1.5, "the lag", 60)
        try:
            project.migrate()
        finally:
            if locked:
                client.admin.command("fsyncUnlock")

    assert waits, "it never waited"
    assert waits[0].waiting.startswith("replication lag ")
    assert waits[0].waiting.endswith("(limit 1.0 s)")
    assert sound(project)
    until(lambda: healthy(three), "three members again")


def lag(three, project):
    """Write something, and say how far the slowest member is behind."""
    project.db.noise.insert_one({})
    members = project.db.client.admin.command("replSetGetStatus")["members"]
    times = [member["optimeDate"] for member in members if member["stateStr"] in ("PRIMARY", "SECONDARY")]
    return (max(times) - min(times)).total_seconds()
