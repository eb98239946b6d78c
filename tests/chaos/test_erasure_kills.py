"""Erasures that are killed at every boundary and at 25 random moments: they come to the same as an undisturbed one."""

from __future__ import annotations

import random
import signal
import time

import pytest
from bson import ObjectId
from tests.mongo.erasure_people import ANN, KEYS, REMAIN, Course, database, plant, traced_places
from tests.mongo.erasure_runner import boundaries, job_of, killed, outcome, process

from mongo_ops import audit
from mongo_ops.embedded import ReplicaSet
from mongo_ops.erasure import ledger
from mongo_ops.erasure.model import STAGES

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
EVENTS = 3_000
RETRY = 1
"""A process killed while the server still worked on its request for a lease gets it in the end; the next one loses its own, and is retried."""

SOMEBODY = ObjectId("5eed5eed5eed5eed5eed5eed")


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


def planted(target):
    course = Course(target).model()
    plant(course.db)
    events = [  # a little more than half are somebody else's: half of a collection is the map's limit
        {
            "_id": n,
            "event_type": "play",
            "user_id": ANN.user if n < EVENTS else SOMEBODY,
            "track_id": ANN.track,
            "ts": None,
        }
        for n in range(2 * EVENTS + 500)
    ]
    course.db.analytics.insert_many(events, bypass_document_validation=True)
    return course, course.receive()


@pytest.fixture(scope="module")
def undisturbed(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("undisturbed")) as target:
        course, request = planted(target)
        plan = course.engine.plan(request)
        began = time.monotonic()
        assert course.whole(request).complete
        return plan, outcome(course, request), time.monotonic() - began


def test_killed_at_every_boundary_it_comes_to_the_same(undisturbed, replica_set, tmp_path):
    plan, expected, _ = undisturbed
    with database(replica_set, tmp_path) as target:
        course, request = planted(target)
        job = job_of(course, KEYS, request, tmp_path / "plan.json", replica_set.uri)

        missed = [point for point in boundaries(plan) if not killed(job, point)]

        assert missed == []
        ends(course, request, job, expected)


def test_killed_at_25_random_moments_it_comes_to_the_same(undisturbed, replica_set, tmp_path):
    _, expected, seconds = undisturbed
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    dice = random.Random(seed)
    with database(replica_set, tmp_path) as target:
        course, request = planted(target)
        job = job_of(course, KEYS, request, tmp_path / "plan.json", replica_set.uri, batch_seconds=0.02)
        codes = [killed_after(job, dice.random() * seconds * (kill + 1) / 25) for kill in range(25)]

        assert set(codes) <= {0, RETRY, -signal.SIGKILL}
        assert codes.count(-signal.SIGKILL) >= 3
        ends(course, request, job, expected)


def killed_after(job, seconds):
    """Run a process for a random time, kill it, and return how it ended."""
    running = process(job)
    running.join(seconds)
    if running.exitcode is None:
        running.kill()
    running.join(60)
    return running.exitcode


def ends(course, request, job, expected):
    for _ in range(3):
        end = process(job)
        end.join(120)
        if end.exitcode != RETRY:
            break
    assert end.exitcode == 0
    assert outcome(course, request) == expected
    assert audit.verify(course.db).ok
    assert ledger.verify(course.db).ok


def test_a_server_that_is_gone_in_the_middle_is_waited_for_or_gone_on_with(tmp_path):
    with ReplicaSet(tmp_path / "mongo").running() as replica_set, database(replica_set, tmp_path) as target:
        course = Course(target).model()
        plant(course.db)
        request = course.receive()
        plan = course.engine.plan(request)
        course.engine.hold()
        course.engine.begin(plan)
        rules = [rule for stage in STAGES for rule in plan.stage(stage)]
        for rule in rules[:5]:
            course.engine.carry_out(plan, rule)
        replica_set.nodes[0].kill()
        replica_set.nodes[0].start()

        course.execute(plan)
        assert course.finish(plan).states == {"completed_with_retention": 1}
        assert set(traced_places(target.client, ANN)) == REMAIN
        assert audit.verify(course.db).ok
