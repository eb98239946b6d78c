"""Three members of which one stands still: lag and absence are told apart, and no usage is believed that one member cannot confirm."""

from __future__ import annotations

import signal
import time
import uuid

import pytest
from tests.mongo.healths import look, looking, told

from mongo_ops.embedded import ReplicaSet
from mongo_ops.health.checks.replication_lag import lags
from mongo_ops.health.model import Status
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
DEADLINE = 60.0


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def test_a_paused_secondary_is_away_and_is_no_lag_then_comes_back(tmp_path):
    with ReplicaSet(tmp_path / "three", size=3).running() as three:
        name = f"test_{uuid.uuid4().hex[:12]}"
        environment = Environment("development", "c", database=name)
        with (
            connect(ConnectionSpec("c", three.uri, "three", name), environment) as target,
            looking(three, target) as session,
        ):
            target.db.notes.create_index("a")
            until(lambda: told(look(session, target, "clean", ["replication"])) == {}, "three healthy members")
            assert len(members(session)) == 3
            primary = three.primary()
            paused = next(node for node in three.nodes if node is not primary)
            paused.process.send_signal(signal.SIGSTOP)
            try:
                until(lambda: is_away(target, paused), "the set misses the member")
                first = look(session, target, "away", ["replication", "indexes"])
                second = look(session, target, "still away", ["replication"])
            finally:
                paused.process.send_signal(signal.SIGCONT)
            until(lambda: not is_away(target, paused), "the member is back")
            last = look(session, target, "back", ["replication"])

    away = ("replication_state", paused.address)
    assert told(first)[away] == ("WARN", "NEW")
    assert [one.status for one in first.results if one.check == "replication_lag"] == [Status.OK]
    unused = [one for one in first.results if one.check == "unused_indexes"]
    assert [(one.status, one.reason) for one in unused] == [
        (Status.UNKNOWN, f"{paused.address} is away and cannot be asked.")
    ]
    assert told(second) == {away: ("WARN", "SAME")}
    assert told(last) == {away: ("OK", "FIXED")}


def is_away(target, node):
    found = target.client.admin.command("replSetGetStatus")["members"]
    return any(member["name"] == node.address and member["health"] == 0 for member in found)


def members(session):
    """The members that an index's usage is asked of."""
    snapshot = session.snapshot()
    assert all(lag >= 0 for lag in lags(snapshot.replication[-1]).values())
    return snapshot.replication[-1]["members"]
