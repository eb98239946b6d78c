"""When to hold back, how large the next batch is, and what the probe makes of the members it sees."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from mongo_ops.mongo import throttle
from mongo_ops.mongo.throttle import LagProbe, Limits, Sample, next_size, reason_to_wait

LIMITS = Limits(max_lag=10, max_sample_age=30)
NOW = datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(0), None),
        (Sample(10), None),
        (Sample(10.04), "replication lag 10.0 s (limit 10.0 s)"),
        (Sample(99.5), "replication lag 99.5 s (limit 10.0 s)"),
        (Sample(0, age=30), None),
        (Sample(0, age=31), "the last replication sample is 31 s old (limit 30 s)"),
        (Sample(99, age=45), "the last replication sample is 45 s old (limit 30 s)"),
    ],
)
def test_a_reason_to_wait_can_be_printed(sample, reason):
    assert reason_to_wait(sample, LIMITS) == reason


@pytest.mark.parametrize(
    ("size", "seconds", "then"),
    [
        (1000, 0.5, 1000),  # on time
        (1000, 0.4, 1250),
        (1000, 0.25, 2000),
        (1000, 0.001, 2000),  # at most doubled
        (1000, 0.0, 2000),
        (1000, 1.0, 500),
        (1000, 60.0, 500),  # at most halved
        (15_000, 0.1, 20_000),
        (12, 10.0, 10),
        (10, 10.0, 10),
        (4, 10.0, 4),  # so small because a batch failed
        (1, 0.1, 2),
    ],
)
def test_batches_aim_at_half_a_second(size, seconds, then):
    assert next_size(size, seconds, 0.5) == then


class Admin:
    """Answers replSetGetStatus from a list; an error is raised."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0
        self.admin = self

    def command(self, name):
        assert name == "replSetGetStatus"
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"members": [member(*one) for one in answer]}


def member(state, seconds_behind, health=1):
    return {"state": state, "health": health, "optimeDate": NOW - timedelta(seconds=seconds_behind)}


@pytest.mark.parametrize(
    ("members", "lag"),
    [
        ([(1, 0)], 0),
        ([(1, 0), (2, 3), (2, 7)], 7),
        ([(1, 0), (2, 3), (2, 500, 0)], 3),  # unhealthy: no majority waits for it
        ([(1, 0), (2, 3), (3, 900), (7, 900)], 3),  # recovering, arbiter
        ([(2, 0), (2, 4)], 4),  # no primary for a moment
        ([(3, 0)], 0),
        ([], 0),
    ],
)
def test_lag_is_the_slowest_healthy_secondarys(members, lag):
    assert LagProbe(Admin(members)).sample() == Sample(lag, pytest.approx(0, abs=0.1))


def test_samples_are_taken_once_per_interval_and_know_their_age(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: clock[0])
    admin = Admin([(1, 0), (2, 5)], [(1, 0), (2, 8)])
    probe = LagProbe(admin, interval=1.0)

    assert probe.sample() == Sample(5, 0)
    clock[0] += 0.9
    assert probe.sample() == Sample(5, pytest.approx(0.9))
    assert admin.asked == 1
    clock[0] += 0.1
    assert probe.sample() == Sample(8, 0)
    assert admin.asked == 2


@pytest.mark.parametrize("code", [13, 59, 76])
def test_where_lag_cannot_be_seen_it_does_not_hold_back_and_says_why_once(code, caplog):
    admin = Admin(OperationFailure("no", code))
    probe = LagProbe(admin, interval=0)

    assert [probe.sample(), probe.sample()] == [Sample(0, 0), Sample(0, 0)]
    assert f"code {code}" in probe.unavailable
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"code {code}" in caplog.text
    assert admin.asked == 1


def test_a_failure_that_may_pass_lets_the_former_sample_age(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: clock[0])
    admin = Admin([(1, 0), (2, 5)], OperationFailure("no", 11600), AutoReconnect("gone"), [(1, 0), (2, 1)])
    probe = LagProbe(admin, interval=1.0)

    assert probe.sample() == Sample(5, 0)
    clock[0] += 20
    assert reason_to_wait(probe.sample(), LIMITS) is None
    clock[0] += 20
    assert probe.sample() == Sample(5, 40)
    assert reason_to_wait(probe.sample(), LIMITS) == "the last replication sample is 40 s old (limit 30 s)"
    assert admin.asked == 3
    clock[0] += 1
    assert probe.sample() == Sample(1, 0)


def test_any_other_failure_is_not_hidden():
    with pytest.raises(OperationFailure):
        LagProbe(Admin(OperationFailure("no", 2))).sample()
