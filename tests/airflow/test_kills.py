"""A task that is killed in the middle of a migration: what was done stays done, what was not is done once."""

from __future__ import annotations

import os
import signal

import pytest
from demo import processes

from mongo_ops.mongo import lease

COUNTERS = 25_000
MIGRATION = "008_count_plays"
CHECKPOINT = f"{MIGRATION}.1/forward/0"


@pytest.mark.chaos
def test_a_killed_task_is_tried_again_and_every_document_is_changed_exactly_once(scheduler):
    run = begin(scheduler, "killed")
    pid = until_half_done(scheduler, "killed")

    os.kill(pid, signal.SIGKILL)

    ended = scheduler.end(run)
    assert (ended.state, ended.tasks[MIGRATION]["try_number"]) == ("success", 2)
    assert counters(scheduler, "killed") == {1: COUNTERS}
    found = scheduler.events("killed", "interrupted")
    assert [(event["migration"], event["found_by_attempt"]) for event in found] == [(MIGRATION, 2)]
    assert f"{CHECKPOINT} resumes after" in scheduler.log(run, MIGRATION, 2)
    assert scheduler.api.xcom(run, scheduler.task_id(run, MIGRATION))["counts"] == {
        "matched": COUNTERS,
        "modified": COUNTERS,
    }
    assert scheduler.db("killed").ops_migrations.find_one({"_id": MIGRATION})["attempt"] == 2


@pytest.mark.chaos
def test_a_stopped_task_is_recorded_as_interrupted_frees_the_lease_and_resumes_when_cleared(scheduler):
    run = begin(scheduler, "stopped")
    pid = until_half_done(scheduler, "stopped")
    db = scheduler.db("stopped")

    scheduler.set_state(run, MIGRATION, "failed")

    stopped = scheduler.end(run)
    assert (stopped.state, stopped.states[MIGRATION], stopped.states["release"]) == ("failed", "failed", "success")
    assert processes.wait_for(lambda: processes.look_up(pid) is None, 20)
    # When the teardown is quicker than the dying task, that one is fenced and its end is noted by the next try.
    assert db.ops_migrations.find_one({"_id": MIGRATION})["state"] in ("interrupted", "running")
    assert lease.show(db, "migrations") is None
    done = db.ops_checkpoints.find_one({"_id": CHECKPOINT})["done"]
    assert counters(scheduler, "stopped") == {1: done, 0: COUNTERS - done}
    assert 0 < done < COUNTERS

    scheduler.api.clear(run, [task["task_id"] for task in stopped.tasks.values()])

    resumed = scheduler.end(run)
    assert (resumed.state, counters(scheduler, "stopped")) == ("success", {1: COUNTERS})
    assert [event["migration"] for event in scheduler.events("stopped", "applied")][-1] == MIGRATION
    assert db.ops_migrations.find_one({"_id": MIGRATION})["attempt"] == 2
    assert db.ops_history.count_documents({"migration": MIGRATION, "event": "interrupted"}) == 1


def begin(scheduler, environment):
    """Trigger a run that has nothing to do but to count a play in every counter."""
    scheduler.bring_up(environment, "--to", "007")
    scheduler.db(environment).counters.insert_many([{"kind": "play", "n": 0} for _ in range(COUNTERS)])
    return scheduler.trigger(environment)


def until_half_done(scheduler, environment):
    """Wait until the migration is under way; return the id of the task's process."""
    db = scheduler.db(environment)
    scheduler.until(
        lambda: db.ops_checkpoints.find_one({"_id": CHECKPOINT, "done": {"$gt": COUNTERS // 10}}), "batches", 90
    )
    point = db.ops_checkpoints.find_one({"_id": CHECKPOINT})
    assert point["done"] < COUNTERS, "it was over before it could be killed"
    pid = lease.show(db, "migrations")["pid"]
    assert pid in {process.pid for process in scheduler.stack.members()}, "never a process of somebody else"
    return pid


def counters(scheduler, environment):
    """Return how many counters stand at each value."""
    groups = scheduler.db(environment).counters.aggregate([{"$group": {"_id": "$n", "count": {"$sum": 1}}}])
    return {group["_id"]: group["count"] for group in groups}
