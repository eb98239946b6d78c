"""Airflow itself dies in the middle of a migration: its scheduler, a worker with its task, one try after the other."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from demo import processes
from tests.airflow.conftest import Scheduler, start_scheduler

from mongo_ops import audit
from mongo_ops.mongo import lease

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

COUNTERS = 60_000
MIGRATION = "008_count_plays"
CHECKPOINT = f"{MIGRATION}.1/forward/0"
SETTINGS = {  # after how many seconds of silence somebody is taken for dead
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    started = start_scheduler(tmp_path_factory.mktemp("chaos"), SETTINGS)
    yield started
    started.client.close()
    started.stack.stop()


def test_a_killed_scheduler_comes_back_and_the_migration_is_done_exactly_once(scheduler):
    run = begin(scheduler, "orphaned")
    until_done(scheduler, "orphaned", COUNTERS // 10)
    first = component(scheduler, "scheduler")

    os.kill(first, signal.SIGKILL)

    scheduler.until(lambda: component(scheduler, "scheduler") not in (None, first), "another scheduler")
    assert_exactly_once(scheduler, "orphaned", scheduler.end(run, 200))


def test_a_worker_killed_with_its_task_is_noticed_and_the_task_is_tried_again(scheduler):
    run = begin(scheduler, "stopped")
    until_done(scheduler, "stopped", COUNTERS // 10)
    task = task_process(scheduler, "stopped")

    for pid in (task.parent, task.pid):  # nobody is left to report the end
        os.kill(pid, signal.SIGKILL)

    ended = scheduler.end(run, 200)
    assert_exactly_once(scheduler, "stopped", ended)
    assert ended.tasks[MIGRATION]["try_number"] == 2


def test_three_tries_killed_at_random_moments_change_every_document_exactly_once(scheduler):
    moments = random.Random(20)
    run = begin(scheduler, "killed")
    done, dead = 0, []

    for _ in range(3):
        done = until_done(scheduler, "killed", done + moments.randint(1, COUNTERS // 8))
        task = task_process(scheduler, "killed", dead)
        os.kill(task.pid, signal.SIGKILL)
        dead.append(task.pid)

    ended = scheduler.end(run, 200)
    assert_exactly_once(scheduler, "killed", ended)
    assert ended.tasks[MIGRATION]["try_number"] == 4
    assert [event["found_by_attempt"] for event in scheduler.events("killed", "interrupted")] == [2, 3, 4]


def begin(scheduler: Scheduler, environment):
    """Trigger a run that has nothing to do but to count a play in every counter."""
    scheduler.bring_up(environment, "--to", "007")
    scheduler.db(environment).counters.insert_many([{"kind": "play", "n": 0} for _ in range(COUNTERS)])
    return scheduler.trigger(environment)


def until_done(scheduler, environment, at_least):
    """Wait until so many documents are done; return how many are."""
    db = scheduler.db(environment)
    scheduler.until(lambda: db.ops_checkpoints.find_one({"_id": CHECKPOINT, "done": {"$gt": at_least}}), "batches", 120)
    done = db.ops_checkpoints.find_one({"_id": CHECKPOINT})["done"]
    assert done < COUNTERS, "it was over before anything could be killed"
    return done


def task_process(scheduler, environment, dead=()):
    """Return the process that holds the lease."""
    db = scheduler.db(environment)
    scheduler.until(lambda: lease.show(db, "migrations")["pid"] not in dead, "the next try")
    pid = lease.show(db, "migrations")["pid"]
    return next(process for process in scheduler.stack.members() if process.pid == pid)


def component(scheduler, name):
    """Return the id of one of Airflow's components, by the log that it writes."""
    log = scheduler.stack.run / "logs" / f"{name}.log"
    for process in processes.children([scheduler.stack.state.launcher]):
        try:
            if Path(f"/proc/{process.pid}/fd/1").resolve() == log and "worker" not in command(process.pid):
                return process.pid
        except OSError:
            continue
    return None


def command(pid):
    """Return a process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def assert_exactly_once(scheduler, environment, ended):
    """Every counter stands at one, the migration is applied once, the audit chain is whole, the lease is free."""
    db = scheduler.db(environment)
    groups = {group["_id"]: group["count"] for group in db.counters.aggregate([{"$sortByCount": "$n"}])}
    assert (ended.state, groups) == ("success", {1: COUNTERS})
    assert [event["migration"] for event in scheduler.events(environment, "applied")].count(MIGRATION) == 1
    assert audit.verify(db).ok
    assert lease.show(db, "migrations") is None
