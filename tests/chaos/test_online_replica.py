"""Online migrations on a replica set of three that loses its primary, at boundaries and at random: the writers' ledger loses nothing."""

from __future__ import annotations

import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from tests.mongo.online_course import LONG, Course, nothing_left, with_longs
from tests.mongo.runner import until

from mongo_ops.embedded import ReplicaSet
from mongo_ops.errors import RunError
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.online.model import Phase
from mongo_ops.settings import Environment

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
PAUSE = 0.01
KNOWING = {"forget": ("seconds",)}
LOSSES = 8
GENTLE = {"limits": "Limits(chunk=50, nice=4.0)"}


@pytest.fixture
def dice():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    return random.Random(seed)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    options = ("--setParameter", "transactionLifetimeLimitSeconds=2")
    with ReplicaSet(tmp_path_factory.mktemp("three"), size=3, options=options).running() as running:
        with MongoClient(
            running.uri
        ) as client:  # do not elect after one second of silence: on a busy machine that alone would
            config = client.admin.command("replSetGetConfig")["config"]
            config["version"] += 1
            config["settings"]["electionTimeoutMillis"] = 2_000
            client.admin.command("replSetReconfig", config)
        yield running


@pytest.fixture
def on_three(three, tmp_path):
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = Environment("development", "c", database=name, lease_ttl=10.0)
    spec = ConnectionSpec("c", three.uri, "three nodes", name, {"serverSelectionTimeoutMS": 10_000})
    with connect(spec, environment) as target:
        yield lambda words, **options: Course(
            target, three.uri, tmp_path, words, **({"pause": PAUSE, "reads": False} | options)
        )
        until(lambda: healthy(three), "three members again")
        target.client.drop_database(name)


def healthy(three):
    """Whether all three members are up and agree on a primary."""
    try:
        with three.nodes[0].direct_client() as client:
            states = [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]
    except PyMongoError:
        return False
    return sorted(states) == ["PRIMARY", "SECONDARY", "SECONDARY"]


def kill_primary(three):
    lost = three.primary()
    lost.kill()
    until(lambda: is_served(three), "another primary")
    lost.start()
    until(lambda: healthy(three), "three members again")


def step_down(three):
    with three.primary().direct_client() as client:
        client.admin.command({"replSetStepDown": 3, "force": True})
    until(lambda: healthy(three), "three members again")


def is_served(three):
    try:
        with MongoClient(three.uri, serverSelectionTimeoutMS=500) as client:
            return client.admin.command("hello")["isWritablePrimary"]
    except PyMongoError:
        return False


def resumed(at, action, phase, **options):
    """Run a process again and again until the migration is in that phase; every end of it is one of our errors or none."""
    tries = 0
    while at.phase is not phase:
        tries += 1
        with at.process(action, **options) as process:
            code, told = process.end()
        assert code in (0, RunError.exit_code), told
        assert tries < 10, told


@pytest.mark.parametrize("lose", [kill_primary, step_down])
@pytest.mark.parametrize(
    "step",
    ["backfill.chunk", "replay.batch", "verify.range", "cut_over.fenced", "cut_over.drained", "cut_over.swapped"],
)
def test_a_primary_lost_at_a_boundary_loses_nothing(on_three, three, step, lose):
    at = on_three(LONG, documents=800, **KNOWING)
    with at.crowd.writing() as crowd:
        action = "cut_over" if step.startswith("cut_over") else "run"
        if action == "cut_over":
            at.completed("run")
        began = time.monotonic()
        with at.process(action, stop_at=step) as process:
            until(lambda: process.line()["event"] == "stopped", step)
            lose(three)
            process.send(signal.SIGCONT)
            code, told = process.end()
        assert code in (0, RunError.exit_code), told
        if action == "run":
            resumed(at, "run", Phase.READY)
            began = time.monotonic()
        resumed(at, "cut_over", Phase.SOAK)
        at.swapped = (began, time.monotonic())
        crowd.await_writes(50)
    at.nothing_lost(with_longs)
    nothing_left(at)


def test_primaries_lost_at_random_and_a_rollback_lose_nothing(on_three, three, dice):
    at = on_three(LONG | GENTLE, **KNOWING)
    at.engine().start()

    def migrate():
        resumed(at, "run", Phase.READY)
        resumed(at, "cut_over", Phase.SOAK)
        at.crowd.await_writes(100)
        resumed(at, "rollback", Phase.ROLLED_BACK)

    lost = 0
    with at.crowd.writing() as crowd, ThreadPoolExecutor(1) as pool:
        migrating = pool.submit(migrate)  # not the other way round: a server dies with the thread that started it
        while lost < LOSSES and not wait([migrating], dice.uniform(0.5, 1.5)).done:
            dice.choice([kill_primary, step_down])(three)
            lost += 1
        migrating.result()
        crowd.await_writes(50)
    at.nothing_lost(dict)
    nothing_left(at)
    assert lost >= 3
