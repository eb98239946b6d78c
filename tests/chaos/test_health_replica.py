"""Three members of which some stand still: lag and absence are told apart, and no usage is believed that one member cannot confirm."""

from __future__ import annotations

import signal
import uuid
from contextlib import contextmanager

import pytest
from pymongo import WriteConcern
from tests.mongo import healths
from tests.mongo.healths import look, looking, thresholds, told

from mongo_ops.embedded import ReplicaSet
from mongo_ops.health.checks.replication_lag import lags
from mongo_ops.health.model import Status
from mongo_ops.health.run import chosen
from mongo_ops.health.session import Session, reach
from mongo_ops.health.sight import HealthGuard
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.orchestration.health_facts import outside
from mongo_ops.settings import Environment

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
DEADLINE = 60.0
OPTIONS = ("--setParameter", "enableTestCommands=1")


def until(condition, what):
    return healths.until(condition, what, DEADLINE)


@pytest.fixture
def three(tmp_path):
    with ReplicaSet(tmp_path / "three", size=3, options=OPTIONS).running() as running:
        yield running


@pytest.fixture
def spec(three):
    return ConnectionSpec("c", three.uri, "three", f"test_{uuid.uuid4().hex[:12]}")


@pytest.fixture
def target(spec):
    with connect(spec, Environment("development", "c", database=spec.database)) as connected:
        yield connected


@contextmanager
def paused(*nodes):
    """Have members stand still meanwhile."""
    for node in nodes:
        node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            node.process.send_signal(signal.SIGCONT)


def secondaries(three):
    primary = three.primary()
    return [node for node in three.nodes if node is not primary]


def test_a_paused_secondary_is_away_and_is_no_lag_then_comes_back(three, target):
    with looking(three, target) as session:
        target.db.notes.create_index("a")
        until(lambda: told(look(session, target, "clean", ["replication"])) == {}, "three healthy members")
        assert len(members(session)) == 3
        one = secondaries(three)[0]
        with paused(one):
            until(lambda: is_away(target, one), "the set misses the member")
            first = look(session, target, "away", ["replication", "indexes"])
            second = look(session, target, "still away", ["replication"])
        until(lambda: not is_away(target, one), "the member is back")
        last = look(session, target, "back", ["replication"])

    away = ("replication_state", one.address)
    assert told(first)[away] == ("WARN", "NEW")
    assert [one.status for one in first.results if one.check == "replication_lag"] == [Status.OK]
    unused = [found for found in first.results if found.check == "unused_indexes"]
    assert [(found.status, found.reason) for found in unused] == [
        (Status.UNKNOWN, f"{one.address} is away and cannot be asked.")
    ]
    assert told(second) == {away: ("WARN", "SAME")}
    assert told(last) == {away: ("OK", "FIXED")}


def test_a_secondary_that_no_longer_applies_lags_and_catches_up(three, target):
    """The fail point stops only the applying: the member is healthy, answers, and falls behind."""
    slow = secondaries(three)[0]
    lag = thresholds(replication_lag={"warn": 2, "crit": 60})
    with slow.direct_client() as client, looking(three, target, lag) as session:
        until(lambda: told(look(session, target, "clean", ["replication"])) == {}, "three healthy members")
        client.admin.command({"configureFailPoint": "rsSyncApplyStop", "mode": "alwaysOn"})
        try:
            until(lambda: behind(target, session, slow) > 3, "the member is seconds behind")
            first = look(session, target, "behind", ["replication"])
        finally:
            client.admin.command({"configureFailPoint": "rsSyncApplyStop", "mode": "off"})
        until(lambda: behind(target, session, slow) < 1, "the member has caught up")
        last = look(session, target, "caught up", ["replication"])

    assert told(first) == {("replication_lag", slow.address): ("WARN", "NEW")}
    assert told(last) == {("replication_lag", slow.address): ("OK", "FIXED")}


def behind(target, session, node):
    """Write something, and return how many seconds the member is behind."""
    target.db.notes.with_options(write_concern=WriteConcern(1)).insert_one({})
    return lags(session.snapshot().replication[-1]).get(node.address, 0.0)


def test_a_set_without_a_primary_is_told_of_by_the_member_that_is_left(three, target, spec):
    target.db.notes.insert_one({})
    left, guard = three.primary(), HealthGuard()
    with paused(*secondaries(three)):
        with left.direct_client() as client:
            until(lambda: not client.admin.command("hello")["isWritablePrimary"], "the primary stepped down")
        with reach(spec, target.environment, guard) as reading:
            run = Session(reading, spec, guard, thresholds(), outside(reading)).run("left alone", chosen())
    until(three.primary, "a primary again")

    found = {one.finding.scope: str(one.finding.status) for one in run.judged if one.check == "replication_state"}
    assert found.pop("all") == found.pop("majority") == "CRIT"
    assert found == {node.address: "WARN" for node in three.nodes if node is not left}
    results = {one.check: one.status for one in run.results}
    assert results["connections"] is Status.OK
    assert {results[name] for name in ("replication_lag", "overdue_erasure", "unused_indexes")} == {Status.UNKNOWN}
    assert run.seconds < 40
    assert run.notes == ("The history could not be read (ServerSelectionTimeoutError): everything counts as new.",)


def is_away(target, node):
    found = target.client.admin.command("replSetGetStatus")["members"]
    return any(member["name"] == node.address and member["health"] == 0 for member in found)


def members(session):
    """The members that an index's usage is asked of."""
    snapshot = session.snapshot()
    assert all(lag >= 0 for lag in lags(snapshot.replication[-1]).values())
    return snapshot.replication[-1]["members"]
