"""Runs that are killed, servers that go away, runs at the same time: it comes to the same as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.mongo.erasure_people import (
    ANN,
    BOB,
    JOANN,
    KEYS,
    Course,
    database,
    plant,
    snapshot,
)
from tests.mongo.erasure_runner import boundaries, job_of, killed, outcome, process

from mongo_ops import audit
from mongo_ops.erasure import ledger
from mongo_ops.erasure.conclusion import certificates
from mongo_ops.erasure.run import RunChangedError
from mongo_ops.mongo.lease import LeaseHeldError


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


@pytest.fixture(scope="module")
def model(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("model")) as target:
        yield Course(target).model()


@pytest.fixture
def course(model, tmp_path):
    at = model.emptied(tmp_path)
    plant(at.db)
    yield at
    model.emptied(tmp_path)  # nobody may be in two databases of a server


# Kills ------------------------------------------------------------------------------------------------------------------------


def test_killed_at_boundaries_it_comes_to_the_same(replica_set, tmp_path):
    with database(replica_set, tmp_path / "undisturbed") as target:
        course = Course(target).model()
        plant(course.db)
        request = course.receive()
        plan = course.engine.plan(request)
        assert course.whole(request).complete
        undisturbed = outcome(course, request)
    with database(replica_set, tmp_path / "killed") as target:
        course = Course(target).model()
        plant(course.db)
        request = course.receive()
        job = job_of(course, KEYS, request, tmp_path / "plan.json", replica_set.uri)

        missed = [point for point in list(boundaries(plan))[::5] if not killed(job, point)]
        assert missed == []
        end = process(job)
        end.join(60)

        assert end.exitcode == 0
        assert outcome(course, request) == undisturbed
        assert audit.verify(course.db).ok
        assert ledger.verify(course.db).ok


# Two runs at once -------------------------------------------------------------------------------------------------------------


def test_of_two_runs_on_one_request_the_second_is_refused(course):
    request = course.receive()
    one, other = course, replace(course, owner="cli 2")
    plan, same = one.engine.plan(request), other.engine.plan(request)
    assert plan.digest == same.digest
    one.engine.hold()
    one.engine.begin(plan)

    with pytest.raises(LeaseHeldError):
        other.engine.hold()
    with pytest.raises(LeaseHeldError):
        other.engine.begin(same)
    one.execute(plan)
    assert one.finish(plan).complete
    one.engine.release()

    before = snapshot(course.db)
    for step in (other.engine.begin, other.engine.sweep, other.engine.verify):
        with pytest.raises(RunChangedError, match="concluded"):
            step(same)
    assert snapshot(course.db) == before
    assert len(certificates(course.db, request)) == 1


def test_of_overlapping_batches_the_later_one_plans_again(course):
    ann, bob, joann = (course.receive(who.user) for who in (ANN, BOB, JOANN))
    first, second = course.batch(ann, bob), course.batch(bob, joann)
    other = replace(course, owner="cli 2")
    stale = other.engine.plan(second)

    concluded = course.whole(first)
    assert (concluded.states, concluded.reasons) == ({"completed_with_retention": 2}, ())
    before = snapshot(course.db)
    with pytest.raises(RunChangedError, match="1 of 2 people"):
        other.engine.begin(stale)
    assert snapshot(course.db) == before

    assert other.whole(second).states == {"completed_with_retention": 1}
    assert other.engine.plan(second, only=True).excluded == {
        bob: "done already (completed_with_retention)",
        joann: "done already (completed_with_retention)",
    }
    assert course.db.users.count_documents({}) == 0
