"""Online migrations that are killed, paused, given up, taken back, tampered with and overloaded, on one server.

In every run writers keep a ledger, and at the end nothing of it may be lost. ``MONGO_OPS_CHAOS_RUNS=n`` gives n further runs with kills at
random moments in each mode.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from bson import Int64
from tests.mongo.online_course import GHOST, LONG, NAME, OLD, SECONDS, Course, nothing_left, with_longs, with_seconds
from tests.mongo.online_ledger import NEVER
from tests.mongo.runner import slow, until

from mongo_ops.errors import RunError
from mongo_ops.mongo.lease import LeaseHeldError, LeaseLostError
from mongo_ops.online import steps
from mongo_ops.online.errors import CriticalLoadError, DifferencesError, WrongPhaseError
from mongo_ops.online.model import Phase

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
FURTHER = int(os.environ.get("MONGO_OPS_CHAOS_RUNS", "0"))
RANDOM_RUNS = 3 + FURTHER
PAUSE = 0.01
GENTLE = {"limits": "Limits(chunk=50, nice=4.0)"}
KNOWING = {"forget": ("seconds",)}
"""Writers of a ghost migration write whole documents; those of one in place know nothing of the new field."""


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


@pytest.fixture
def course(replica_set, target, tmp_path):
    return lambda words, **options: Course(target, replica_set.uri, tmp_path, words, **({"pause": PAUSE} | options))


@pytest.fixture
def dice():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    return random.Random(seed)


BEFORE, AFTER = ("recorded", "fenced", "drained"), ("verified", "swapped", "recorded_after")
"""Boundaries of an exchange: killed at one before the decision it goes back, at one after it goes on, so each of those is a run."""


def boundaries(*prefixes):
    return [step for step in steps.STEPS if step.partition(".")[0] in prefixes]


def killed_at_each(at, action, *prefixes, without=(), **options):
    """Kill a process at each of these boundaries, one after the other; return those that it did not reach."""
    wanted = [step for step in boundaries(*prefixes) if step not in without]
    return [step for step in wanted if at.killed_at(step, action, **options) != "stopped"]


# Killed at every boundary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", AFTER)
def test_a_ghost_killed_at_every_boundary_is_cut_over_and_contracted(course, last):
    at = course(LONG, **KNOWING)
    with at.crowd.writing() as crowd:
        if last == AFTER[0]:
            assert killed_at_each(at, "run", "start", "backfill", "replay", "verify") == []
        at.completed("run")
        steps = [f"cut_over.{step}" for step in (*BEFORE, last)]
        began = time.monotonic()
        assert [step for step in steps if at.killed_at(step, "cut_over") != "stopped"] == []
        at.completed("run")  # whoever comes next brings it to its end
        at.swapped = (began, time.monotonic())
        crowd.await_writes(100)
        assert at.phase is Phase.SOAK
        missed = killed_at_each(
            at, "contract", "contract", without=("contract.strict", "contract.verified"), early=True
        )
        at.completed("contract", early=True)
        crowd.await_writes(100)

    assert (missed, at.phase) == ([], Phase.DONE)
    at.nothing_lost(with_longs)
    assert {GHOST, OLD} & set(at.db.list_collection_names()) == set()
    nothing_left(at)


@pytest.mark.parametrize("last", AFTER)
def test_a_rollback_killed_at_every_boundary_gives_back_what_was_written_since(course, last):
    at = course(LONG, **KNOWING)
    with at.crowd.writing() as crowd:
        at.completed("run")
        at.cut_over()
        crowd.await_writes(200)
        steps = [f"rollback.{step}" for step in (*BEFORE, last)]
        assert [step for step in steps if at.killed_at(step, "rollback") != "stopped"] == []
        at.completed("rollback")
        crowd.await_writes(100)

    assert at.phase is Phase.ROLLED_BACK
    at.swapped = NEVER
    at.nothing_lost(dict)
    assert {GHOST, OLD} & set(at.db.list_collection_names()) == set()
    nothing_left(at)


def test_in_place_killed_at_every_boundary_leaves_nothing_stale(course):
    at = course(SECONDS)
    with at.crowd.writing() as crowd:
        assert killed_at_each(at, "run", "start", "backfill", "replay", "verify") == []
        at.completed("run")
        crowd.await_writes(100)
    at.level()
    at.nothing_lost(with_seconds)

    inside = [f"contract.{step}" for step in ("strict", "verified", "recorded", "dropped")]
    assert [step for step in inside if at.killed_at(step, "contract") != "stopped"] == []
    at.completed("contract")

    assert at.phase is Phase.DONE
    at.nothing_lost(with_seconds)
    nothing_left(at)


# Killed at random --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", range(RANDOM_RUNS))
def test_a_ghost_killed_at_random_moments_loses_nothing(course, dice, run):
    at = course(LONG | GENTLE, documents=6_000, **KNOWING)
    with at.crowd.writing() as crowd:
        killed_at_random(at, dice, 4, "run")
        at.engine().control(nice=0.0)
        at.completed("run")
        began = time.monotonic()
        killed_at_random(at, dice, 3, "cut_over", longest=0.5)
        at.completed("cut_over")
        at.swapped = (began, time.monotonic())
        crowd.await_writes(100)
        if run % 2:
            killed_at_random(at, dice, 3, "rollback", longest=0.5)
            at.completed("rollback")
            crowd.await_writes(100)
            at.swapped = NEVER

    at.nothing_lost(dict if run % 2 else with_longs)
    assert at.killed >= 3
    nothing_left(at)


@pytest.mark.parametrize("run", range(RANDOM_RUNS))
def test_in_place_killed_at_random_moments_leaves_nothing_stale(course, dice, run):
    at = course(SECONDS | GENTLE, documents=6_000)
    with at.crowd.writing():
        killed_at_random(at, dice, 5, "run")
        at.engine().control(nice=0.0)
        at.completed("run")
    at.level()
    at.nothing_lost(with_seconds)
    assert at.killed >= 3
    nothing_left(at)


def killed_at_random(at, dice, times, action, longest=1.0):
    """Start a process so often and kill it after a random time; it may have ended before."""
    for _ in range(times):
        with at.process(action) as process:
            assert process.line()["event"] == "opened"
            time.sleep(dice.uniform(0, longest))
            at.killed += process.kill()


@pytest.mark.parametrize("words", [LONG, SECONDS], ids=["ghost", "in place"])
def test_parts_filled_at_once_and_killed_at_random_lose_nothing_though_a_zombie_wakes_up(course, dice, words):
    at = course(words | GENTLE, documents=5_000, forget=("seconds",) if words is LONG else ())
    at.engine().start(parts=3)
    assert at.engine().parts() == 3
    with at.crowd.writing() as crowd, at.process("advance", part=1, budget=60.0) as zombie:
        assert zombie.line()["event"] == "opened"
        time.sleep(dice.uniform(0.05, 0.6))
        zombie.send(signal.SIGSTOP)
        with ThreadPoolExecutor(3) as pool:
            tries = list(pool.map(filled, [at] * 3, range(3), [dice.randrange(2**32) for _ in range(3)]))
        assert at.engine().advance(Phase.CATCH_UP).next is not Phase.BACKFILL
        at.engine().control(nice=0.0)
        at.project.to_phase(at.engine(), Phase.READY)
        zombie.send(signal.SIGCONT)
        code, told = zombie.end()
        assert (code, told[-1]["type"]) == (LeaseLostError.exit_code, "LeaseLostError")
        crowd.await_writes(50)
        if words is LONG:
            at.cut_over()
            crowd.await_writes(50)
    assert sum(tries) > 3, "nothing was killed"
    at.level()
    at.nothing_lost(with_longs if words is LONG else with_seconds)


def filled(at, part, seed):
    """Work on a part until it is over, in processes that are killed after a while; return how many it took."""
    dice, tries = random.Random(seed), 0
    while True:
        tries += 1
        with at.process("advance", part=part, budget=60.0) as process:
            watch = threading.Timer(dice.uniform(0.3, 1.5) if tries < 3 else 120, process.running.kill)
            watch.start()
            code, told = process.end()
            watch.cancel()
        assert code in (0, RunError.exit_code, -signal.SIGKILL), told
        if code == 0 and told[-1]["done"]:
            return tries


def test_writers_who_ask_the_gate_lose_nothing_at_a_cut_over_and_a_rollback(course):
    at = course(LONG | {"fence": 'Fence(kind="gate", settle_seconds=0.3)'}, asks_gate=True, **KNOWING)
    with at.crowd.writing() as crowd:
        at.completed("run")
        at.killed_at("cut_over.fenced", "cut_over")
        at.cut_over()
        crowd.await_writes(100)
        with crowd.at_rest():
            at.level()
            at.nothing_lost(with_longs)
        at.killed_at("rollback.fenced", "rollback")
        at.completed("rollback")
        crowd.await_writes(50)
    at.swapped = NEVER
    at.nothing_lost(dict)
    assert set(crowd.ledger().errors) == {"fence: gate"}


# Paused, given up --------------------------------------------------------------------------------------------------------------


def test_paused_it_does_nothing_and_resumed_it_loses_nothing(course):
    at = course(LONG, **KNOWING)
    engine = at.engine()
    with at.crowd.writing() as crowd:
        engine.start()
        while at.phase is not Phase.READY:
            engine.pause()
            before = at.db[GHOST].count_documents({}), at.phase
            waiting = engine.advance(budget=0.05).waiting
            assert waiting.startswith("paused")
            assert (at.db[GHOST].count_documents({}), at.phase) == before
            crowd.await_writes(30)
            engine.resume()
            engine.advance(budget=0.2)
        engine.pause()
        with pytest.raises(WrongPhaseError, match="paused"):
            at.cut_over(engine)
        engine.resume()
        at.cut_over(engine)
        crowd.await_writes(50)
    at.nothing_lost(with_longs)


@pytest.mark.parametrize("step", ["start.target", "backfill.chunk", "replay.batch", "verify.range", "verify.recorded"])
@pytest.mark.parametrize(("words", "writers"), [(LONG, KNOWING), (SECONDS, {})], ids=["ghost", "in place"])
def test_given_up_anywhere_the_source_is_as_its_writers_know_it(course, words, writers, step):
    at = course(words, documents=600, **writers)
    with at.crowd.writing() as crowd:
        assert at.killed_at(step, "run") == "stopped"
        crowd.await_writes(50)
        killed_at_each(at, "abort", "abort")
        at.completed("abort")
        crowd.await_writes(50)

    assert at.phase is Phase.ABORTED
    at.nothing_lost(dict)
    assert at.live.count_documents({"seconds": {"$exists": True}}) == 0
    assert GHOST not in at.db.list_collection_names()
    nothing_left(at)


@pytest.mark.parametrize("step", ["cut_over.recorded", "cut_over.fenced", "cut_over.drained"])
def test_given_up_behind_the_fence_writers_go_on_with_the_source(course, step):
    at = course(LONG, **KNOWING)
    with at.crowd.writing() as crowd:
        at.completed("run")
        assert at.killed_at(step, "cut_over") == "stopped"
        at.completed("abort")
        crowd.await_writes(100)

    assert at.phase is Phase.ABORTED
    at.nothing_lost(dict)
    assert GHOST not in at.db.list_collection_names()
    nothing_left(at)


# Refused -----------------------------------------------------------------------------------------------------------------------

CORRUPTIONS = {
    "another value": {"$set": {"v": -5}},
    "a long instead of an int": [{"$set": {"v": {"$toLong": "$v"}}}],
    "a double instead of an int": [{"$set": {"v": {"$toDouble": "$v"}}}],
    "a double instead of a long": [{"$set": {"ms": {"$toDouble": "$ms"}}}],
    "another order of fields": [
        {"$replaceWith": {"_id": "$_id", "ms": "$ms", "v": "$v", "pad": "$pad", "seconds": "$seconds"}}
    ],
    "a field more": {"$set": {"more": None}},
}


@pytest.mark.parametrize("when", [Phase.VERIFY, Phase.READY])
@pytest.mark.parametrize("how", CORRUPTIONS)
def test_a_corrupted_copy_of_equal_count_is_refused_by_its_id(course, how, when):
    at = course(LONG | {"limits": "Limits(chunk=1000, nice=0.0)"}, documents=300, **KNOWING)
    engine = at.engine()
    at.project.to_phase(engine, when)
    assert at.db[GHOST].update_one({"_id": 137}, CORRUPTIONS[how]).modified_count == 1
    assert at.db[GHOST].count_documents({}) == at.live.count_documents({}) == 300

    with pytest.raises(DifferencesError) as refused:
        at.project.to_phase(engine, Phase.READY)
        at.cut_over(engine)

    assert (refused.value.ids, refused.value.count) == (("137",), 1)
    assert at.live.count_documents({"seconds": {"$exists": True}}) == 0  # nothing was swapped
    at.live.insert_one({"_id": -1})  # and nobody is refused
    assert at.phase is not Phase.CUT_OVER


def test_a_copy_that_lacks_one_and_has_another_is_refused(course):
    at = course(LONG, documents=300, **KNOWING)
    engine = at.project.to_ready(NAME)
    at.db[GHOST].delete_one({"_id": 7})
    at.db[GHOST].insert_one({"_id": 7_007, "v": 0, "ms": Int64(1)})

    with pytest.raises(DifferencesError) as refused:
        at.cut_over(engine)

    assert (set(refused.value.ids), refused.value.count) == ({"7", "7007"}, 2)


def test_of_two_runs_at_once_one_refuses_and_a_zombie_changes_nothing(course, target):
    at = course(LONG | GENTLE, **KNOWING)
    at.project.target = slow(target, lease_ttl=1.5)
    with at.crowd.writing() as crowd:
        with at.process("run", owner="first", stop_at="backfill.chunk", stop_after=3) as first:
            until(lambda: first.line()["event"] == "stopped", "the third chunk")
            with pytest.raises(LeaseHeldError):
                at.engine("second").advance()
            until(lambda: lapsed(at), "the lease lapses")
            at.engine().control(nice=0.0)
            at.project.to_phase(at.engine("second"), Phase.READY)
            crowd.await_writes(50)
            first.send(signal.SIGCONT)
            code, told = first.end()
        assert (code, told[-1]["event"]) == (LeaseLostError.exit_code, "error"), told
        assert told[-1]["type"] == "LeaseLostError"
        at.cut_over(at.engine("second"))
        crowd.await_writes(50)
    at.nothing_lost(with_longs)


def lapsed(at):
    try:
        return at.engine("second").advance(budget=0.0)
    except LeaseHeldError:
        return None


def test_a_load_spike_throttles_and_a_worse_one_gives_up(course, replica_set):
    at = course(LONG | GENTLE, documents=1_000, **KNOWING)
    engine = at.engine()
    with at.crowd.writing() as crowd:
        engine.start()
        now = connections(at.db)
        engine.control(max_load={"connections": now + 20}, critical_load={"connections": now + 60})
        before = engine.advance(budget=0.2).progress["documents"]
        with connected(replica_set, 30):
            until(lambda: connections(at.db) > now + 20, "the spike")
            held = engine.advance(budget=5.0)
            assert (held.done, held.progress["documents"]) == (False, before)
            assert held.waiting.endswith(f"connections (limit {now + 20})")
        until(lambda: connections(at.db) < now + 20, "the spike is over")
        assert engine.advance(budget=0.2).progress["documents"] > before
        with connected(replica_set, 70):
            until(lambda: connections(at.db) > now + 60, "the worse one")
            with pytest.raises(CriticalLoadError, match="connections"):
                engine.advance(budget=5.0)
        assert at.phase is Phase.ABORTING
        engine.abort()
        crowd.await_writes(50)
    assert at.phase is Phase.ABORTED
    at.nothing_lost(dict)


def connections(db):
    return db.client.admin.command("serverStatus")["connections"]["current"]


@contextlib.contextmanager
def connected(replica_set, number):
    """So many more connections."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(socket.create_connection(("127.0.0.1", replica_set.nodes[0].port)))
        yield
