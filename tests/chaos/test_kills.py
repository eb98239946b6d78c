"""Long fault runs on one server: kill -9 at random moments, twenty starts at once, runners that sleep beyond their lease."""

from __future__ import annotations

import random
import signal
import time

import pytest
from tests.mongo.runner import INCLUDE, Project, migration, point_of, slow, until

from mongo_ops import audit
from mongo_ops.migrations import history
from mongo_ops.migrations.model import State
from mongo_ops.migrations.verify import differences
from mongo_ops.mongo.lease import LeaseHeldError

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
ADD_ONE = "Backfill('numbers', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})"


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


@pytest.fixture
def project(target, tmp_path):
    return Project(slow(target, batch_seconds=0.02, lease_ttl=2.0), tmp_path / "include")


@pytest.fixture
def dice(request):
    """Random numbers that a failure can be repeated with."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    return random.Random(seed)


def numbers(db, count):
    spread = {"$project": {"i": {"$range": [0, count]}}}
    shape = {"$project": {"_id": "$i", "n": {"$literal": 0}}}
    db.aggregate([{"$documents": [{}]}, spread, {"$unwind": "$i"}, shape, {"$out": "numbers"}])


def tally(db):
    return {row["_id"]: row["c"] for row in db.numbers.aggregate([{"$group": {"_id": "$n", "c": {"$sum": 1}}}])}


def test_after_25_random_kills_every_document_is_incremented_once(project, dice):
    count = 40_000
    numbers(project.db, count)
    project.write(n001_add=migration(ADD_ONE))

    for kill in range(25):
        goal = int(count * (kill + dice.random()) / 27)
        with project.process(owner="retried" if kill % 2 else f"run {kill}") as process:
            if not waited_out(project, process, goal):
                continue
            process.kill()
        half = tally(project.db)
        assert set(half) <= {0, 1}, kill
    assert history.load_one(project.db, "001_add").state is State.RUNNING

    until(lambda: process_ends_well(project), "the last run", 60)
    assert tally(project.db) == {1: count}
    assert audit.verify(project.db).ok

    for kill in range(5):  # and down again
        with project.process(owner="down", rollback_to="0") as process:
            goal = int(count * (kill + dice.random()) / 7)
            until(
                lambda goal=goal: point_of(project.db, "001_add", "reverse") >= goal, f"{goal} undone", running=process
            )
            process.kill()
        assert set(tally(project.db)) <= {0, 1}
    project.target = slow(project.target, lease_ttl=60.0)
    project.rollback(owner="down")
    assert tally(project.db) == {0: count}
    assert project.states() == {"001_add": "rolled_back"}
    assert audit.verify(project.db).ok


def waited_out(project, process, goal):
    """Wait until the process has walked so far; False when it was refused because a dead one's lease still lives."""
    while process.popen.poll() is None:
        if point_of(project.db, "001_add") >= goal:
            return True
        time.sleep(0.002)
    code, told, log = process.end()
    assert (code, told[-1]["type"]) == (3, "LeaseHeldError"), (told, log)
    until(lambda: not lease_alive(project), "the lease lapses")
    return False


def lease_alive(project):
    from mongo_ops.migrations.engine import RESOURCE
    from mongo_ops.mongo.lease import show

    return show(project.db, RESOURCE) is not None


def process_ends_well(project):
    with project.process(owner="last") as process:
        code, told, log = process.end()
    assert code in (0, 3), (told, log)
    return code == 0


def test_of_twenty_starts_at_once_exactly_one_applies(project, tmp_path):
    numbers(project.db, 4_000)
    project.write(n001_add=migration(ADD_ONE), n002_more=migration(ADD_ONE.replace("'n'", "'m'")))
    barrier = tmp_path / "go"
    processes = [project.process(owner=f"start {number}", barrier=str(barrier)) for number in range(20)]
    try:
        assert {process.line()["event"] for process in processes} == {"ready"}
        barrier.touch()
        ends = [process.end(120) for process in processes]
    finally:
        for process in processes:
            process.send(signal.SIGKILL)

    applied = [told for _, told, _ in ends if any(line["event"] == "outcome" for line in told)]
    assert len(applied) == 1, ends
    refused = [told[-1] for code, told, _ in ends if code == 3]
    nothing_left = [told for code, told, _ in ends if code == 0 and told not in applied]
    assert 1 + len(refused) + len(nothing_left) == 20, ends
    assert all(line["type"] == "LeaseHeldError" and "held by start " in line["message"] for line in refused)
    assert all([line["event"] for line in told] == ["opened"] for told in nothing_left)
    assert tally(project.db) == {1: 4_000}
    assert project.events("001_add").count("applied") == project.events("002_more").count("applied") == 1
    assert audit.verify(project.db).ok


@pytest.mark.parametrize("sleeper", range(3))
def test_a_runner_asleep_at_a_random_moment_changes_nothing_when_it_wakes(project, dice, sleeper):
    project.target = slow(project.target, lease_ttl=1.0)
    numbers(project.db, 20_000)
    project.write(n001_add=migration(ADD_ONE))

    with project.process(owner="zombie") as process:
        goal = dice.randrange(15_000)
        until(lambda: point_of(project.db, "001_add") > goal, f"{goal} documents", running=process)
        process.send(signal.SIGSTOP)

        def finished():
            try:
                return project.migrate(owner="second") or True
            except LeaseHeldError:
                return False

        until(finished, "the second run", 60)
        before = list(project.db["ops_history"].find()), project.db["ops_migrations"].find_one()
        process.send(signal.SIGCONT)
        code, told, log = process.end()

    assert (code, told[-1]["type"]) == (1, "LeaseLostError"), log
    assert tally(project.db) == {1: 20_000}
    assert (list(project.db["ops_history"].find()), project.db["ops_migrations"].find_one()) == before
    assert before[1]["state"] == "applied"


def test_the_reference_model_survives_kills_at_random_moments_up_and_down(target, dice):
    project = Project(slow(target, lease_ttl=60.0), INCLUDE)
    project.migrate("1")
    target.db.artists.insert_many([{"name": f"A{i}", "genres": ["Rock", "Fado"]} for i in range(5_000)])

    def killed_and_ended(kills, **options):
        """Kill it after a few more events each time, then let it end."""
        for _ in range(kills):
            goal = events(target.db) + dice.randrange(1, 9)
            with project.process(**options) as process:
                while process.popen.poll() is None and events(target.db) < goal:
                    time.sleep(0.002)
                if process.popen.poll() is not None:
                    assert process.end()[0] == 0
                    return
                process.kill()
        with project.process(**options) as process:
            code, told, log = process.end()
        assert code == 0, (told, log)

    killed_and_ended(8)
    facts = project.survey()
    assert set(project.states().values()) == {"applied"}
    assert differences(target.db, facts.files, facts.records) == ()
    assert target.db.artists.distinct("genres") == ["fado", "rock"]
    assert target.db.artists.count_documents({}) == 5_000

    killed_and_ended(8, rollback_to="0")
    assert set(project.states().values()) == {"rolled_back"}
    assert [name for name in target.db.list_collection_names() if not name.startswith(("ops_", "audit_log"))] == []
    assert [name for name in target.db.list_collection_names() if name.startswith("ops_before_")] == []
    assert audit.verify(target.db).ok
    assert target.db["ops_history"].count_documents({"event": "interrupted"}) >= 3


def events(db):
    return db["ops_history"].estimated_document_count()
