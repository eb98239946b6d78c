"""Exactly-once batches: whatever is killed, refused, deleted or inserted, each document is changed once."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from bson import Decimal128, MaxKey, MinKey, ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import client_session_shared
from pymongo.errors import AutoReconnect, ConnectionFailure, OperationFailure
from tests.mongo.bench import Workshop
from tests.mongo.runner import ROOT

from mongo_ops.migrations.operations.backfill import Backfill
from mongo_ops.migrations.operations.base import apply_update
from mongo_ops.mongo import batches as module
from mongo_ops.mongo.batches import (
    CHECKPOINTS,
    Batches,
    BudgetSpentError,
    Counts,
    NotWalkableError,
    Step,
    StepChangedError,
    covered,
)
from mongo_ops.mongo.keyrange import End
from mongo_ops.mongo.lease import Holder, Lease, LeaseLostError, acquire
from mongo_ops.mongo.throttle import Limits, Sample

ADD_ONE = {"$inc": {"n": 1}}
FAST = Limits(batch_seconds=0.5)


class Killed(BaseException):
    """Stands for kill -9: no handler of ours may run after it."""


@dataclass
class Work:
    """A step on a collection, run under a lease of its own each time."""

    db: object
    collection: str = "numbers"
    update: object = field(default_factory=lambda: ADD_ONE)
    where: dict = field(default_factory=dict)
    digest: str = "1"
    told: list = field(default_factory=list)

    def run(self, limits=FAST, *, end=None, apply=None, clock=None, probe=None):
        step = Step("work", self.digest, self.collection, self.where)
        more = {"clock": clock} if clock else {}
        with acquire(self.db, "work", Holder("tests")) as lease:
            runner = Batches(lease, limits, self.told.append, **more)
            if probe:
                runner._probe = probe
            return runner.run(step, apply or apply_update(self.db, self.collection, self.update), end=end)

    def point(self):
        return self.db[CHECKPOINTS].find_one({"_id": "work"})


def fill(db, keys, name="numbers"):
    db[name].insert_many([{"_id": key, "n": 0} for key in keys])


def tally(db, name="numbers"):
    """How many documents have which n."""
    found = db[name].aggregate([{"$group": {"_id": "$n", "count": {"$sum": 1}}}])
    return {row["_id"]: row["count"] for row in found}


@pytest.fixture
def small(monkeypatch):
    """Begin with batches of ten, and keep to that."""
    monkeypatch.setattr(module, "FIRST_SIZE", 10)
    monkeypatch.setattr(module, "next_size", lambda size, *_: size)


# Exactly once ---------------------------------------------------------------------------------------------------------


def test_each_document_is_changed_once_and_a_second_run_changes_none(db, small):
    fill(db, range(95))
    work = Work(db)

    assert work.run() == Counts(matched=95, modified=95)
    assert work.run() == Counts(matched=95, modified=95)  # what the checkpoint says was done

    assert tally(db) == {1: 95}
    point = work.point()
    assert (point["done"], point["batches"], point["finished"], point["total"]) == (95, 10, True, 95)


KILL_POINTS: dict[str, Callable] = {
    "before the first write of a batch": lambda state, call: kill_in_body(state, call, before=True),
    "after the batch's writes": lambda state, call: kill_in_body(state, call, before=False),
    "after the checkpoint, before the commit": lambda state, call: kill_around(
        state, call, Batches, "_save", after=True
    ),
    "after the commit": lambda state, call: kill_around(state, call, Batches, "_tell", after=False),
    "before the range is cut": lambda state, call: kill_around(state, call, Batches, "_hold_back", after=False),
}


def kill_in_body(work, call, *, before):
    write, calls = apply_update(work.db, work.collection, work.update), []

    def apply(session, selected):
        calls.append(1)
        if before and len(calls) == call:
            raise Killed
        done = write(session, selected)
        if not before and len(calls) == call:
            raise Killed
        return done

    work.run(apply=apply)


def kill_around(work, call, owner, name, *, after):
    real, calls = getattr(owner, name), []

    def stop(self, *args):
        calls.append(1)
        if not after and len(calls) == call:
            raise Killed
        result = real(self, *args)
        if after and len(calls) == call:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stop)
        work.run()


@pytest.mark.parametrize("point", KILL_POINTS)
@pytest.mark.parametrize("call", [1, 2, 5])
def test_killed_at_any_point_it_goes_on_without_changing_one_twice(db, small, point, call):
    fill(db, range(45))
    work = Work(db)

    with pytest.raises(Killed):
        KILL_POINTS[point](work, call)
    between = tally(db)
    assert between.get(1, 0) == (work.point() or {"done": 0})["done"]
    assert set(between) <= {0, 1}

    assert work.run() == Counts(matched=45, modified=45)
    assert tally(db) == {1: 45}


def test_killed_in_every_batch_it_still_ends_with_each_document_changed_once(db, small):
    fill(db, range(45))
    work = Work(db)

    for _ in range(4):
        with pytest.raises(Killed):
            kill_around(work, 1, Batches, "_tell", after=False)

    assert work.run() == Counts(matched=45, modified=45)
    assert tally(db) == {1: 45}


def test_a_zombie_changes_nothing(db, small):
    fill(db, range(45))
    step, write = Step("work", "1", "numbers"), apply_update(db, "numbers", ADD_ONE)
    zombie = acquire(db, "work", Holder("first"))
    stopped = []

    def overtaken(session, selected):
        stopped.append(1)
        if len(stopped) == 3:  # wakes up here, long after the other run has finished
            session.abort_transaction()
            db["ops_leases"].update_one({"_id": "work"}, [{"$set": {"expires_at": "$$NOW"}}])
            with acquire(db, "work", Holder("second")) as lease:
                Batches(lease, FAST).run(step, write)
            session.start_transaction()
        return write(session, selected)

    with pytest.raises((LeaseLostError, Exception)) as caught:
        Batches(zombie, FAST).run(step, overtaken)

    assert not isinstance(caught.value, AssertionError)
    assert tally(db) == {1: 45}
    assert Work(db).point()["epoch"] == 2
    with pytest.raises(LeaseLostError):
        zombie.transaction(lambda session: db.numbers.update_one({"_id": 1}, ADD_ONE, session=session))


def test_a_transaction_that_the_server_asks_to_retry_counts_once(db, small):
    fill(db, range(25))
    failure = {"configureFailPoint": "failCommand", "mode": {"times": 2}}
    failure["data"] = {
        "failCommands": ["commitTransaction"],
        "errorCode": 251,
        "errorLabels": ["TransientTransactionError"],
    }
    db.client.admin.command(failure)
    try:
        assert Work(db).run() == Counts(matched=25, modified=25)
    finally:
        db.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert tally(db) == {1: 25}


def test_a_network_error_on_the_commit_counts_once(db, small):
    fill(db, range(25))
    failure = {"configureFailPoint": "failCommand", "mode": {"times": 1}}
    failure["data"] = {"failCommands": ["commitTransaction"], "closeConnection": True}
    db.client.admin.command(failure)
    try:
        assert Work(db).run() == Counts(matched=25, modified=25)
    finally:
        db.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    assert tally(db) == {1: 25}


# What it walks over ---------------------------------------------------------------------------------------------------

MIXED = [
    MinKey(), None, float("nan"), -1, 2.5, Decimal128("7"), "a", "b", {"a": 1}, {"b": [1, {"c": None}]}, b"x",
    uuid.UUID(int=7), ObjectId(), False, True, DatetimeMS(-(2**62)), datetime(2026, 1, 1, tzinfo=UTC), DatetimeMS(2**62), MaxKey(),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_keys_of_every_type_survive_a_kill_between_any_two_batches(db, monkeypatch, size):
    monkeypatch.setattr(module, "FIRST_SIZE", size)
    monkeypatch.setattr(module, "next_size", lambda size, *_: size)
    fill(db, MIXED)
    work = Work(db)

    for _ in range(len(MIXED)):
        try:
            kill_around(work, 1, Batches, "_tell", after=False)
        except Killed:
            continue
        break

    assert tally(db) == {1: len(MIXED)}
    assert work.point()["finished"]


def test_documents_inserted_meanwhile_cannot_keep_it_running(db, small):
    fill(db, range(30))
    work = Work(db)
    write = apply_update(db, "numbers", ADD_ONE)

    def and_insert(session, selected):
        newest = db.numbers.count_documents({})
        fill(db, range(newest, newest + 10))
        return write(session, selected)

    assert work.run(apply=and_insert) == Counts(matched=30, modified=30)
    assert tally(db) == {1: 30, 0: 30}


def test_documents_inserted_behind_are_left_and_ahead_are_changed_once(db, small):
    fill(db, range(0, 60, 2))
    work = Work(db)
    with pytest.raises(Killed):
        kill_around(work, 1, Batches, "_tell", after=False)  # walked 0..18
    fill(db, [1, 41])

    work.run()

    assert db.numbers.find_one({"_id": 1})["n"] == 0
    assert db.numbers.find_one({"_id": 41})["n"] == 1
    assert tally(db) == {0: 1, 1: 31}


def test_deleted_boundaries_are_no_obstacle(db, small):
    fill(db, range(50))
    work = Work(db)
    with pytest.raises(Killed):
        kill_around(work, 2, Batches, "_tell", after=False)
    db.numbers.delete_many({"_id": {"$in": [19, 20, 21, 30, 49]}})

    work.run()

    assert tally(db) == {1: 45}


def test_all_that_was_left_may_be_deleted_meanwhile(db, small):
    fill(db, range(50))
    work = Work(db)
    with pytest.raises(Killed):
        kill_around(work, 2, Batches, "_tell", after=False)
    db.numbers.delete_many({"_id": {"$gte": 20}})

    assert work.run() == Counts(matched=20, modified=20)
    assert tally(db) == {1: 20}


@pytest.mark.parametrize("made", [True, False])
def test_nothing_to_walk_is_done_at_once(db, made):
    if made:
        db.create_collection("numbers")
    work = Work(db)

    assert work.run() == Counts()
    assert work.point()["finished"]
    assert covered(db, "work") is None
    fill(db, range(5))
    assert work.run() == Counts()  # they came after it began
    assert tally(db) == {0: 5}


def test_a_filter_selects_within_the_walk(db, small):
    fill(db, range(40))
    work = Work(db, where={"_id": {"$mod": [4, 0]}})

    assert work.run() == Counts(matched=10, modified=10)
    assert work.point()["done"] == 40  # walked
    assert tally(db) == {0: 30, 1: 10}


def test_a_clustered_collection_is_walked(db, small):
    db.create_collection("numbers", clusteredIndex={"key": {"_id": 1}, "unique": True})
    fill(db, range(45))

    assert Work(db).run() == Counts(matched=45, modified=45)
    assert tally(db) == {1: 45}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"viewOn": "other", "pipeline": []}, "view"),
        ({"timeseries": {"timeField": "at"}}, "time-?series"),
        ({"capped": True, "size": 65_536}, "capped"),
    ],
)
def test_what_cannot_be_written_in_transactions_is_refused_by_name(db, options, kind):
    db.create_collection("numbers", **options)
    if "viewOn" not in options:
        db.numbers.insert_many([{"_id": i, "at": datetime.now(UTC), "n": 0} for i in range(3)])

    with pytest.raises(NotWalkableError) as caught:
        Work(db).run()
    assert re.search(f"numbers is a.* {kind}", str(caught.value))
    assert Work(db).point() is None


# Ends: undoing exactly what was done ----------------------------------------------------------------------------------


def test_covered_says_how_far_a_walk_has_come(db, small):
    fill(db, range(50))
    work = Work(db)
    assert covered(db, "work") is None
    with pytest.raises(Killed):
        kill_around(work, 2, Batches, "_tell", after=False)
    assert covered(db, "work") == End(20, inclusive=False)
    work.run()
    assert covered(db, "work") == End(49)


@pytest.mark.parametrize(
    ("end", "changed"), [(End(20, inclusive=False), 20), (End(20), 21), (End(49), 50), (End(-5), 0)]
)
def test_a_walk_ends_where_it_is_told(db, small, end, changed):
    fill(db, range(50))

    assert Work(db).run(end=end).modified == changed
    assert db.numbers.count_documents({"n": 1}) == changed


@pytest.mark.parametrize("inclusive", [True, False])
def test_an_end_before_all_documents_that_are_left_is_nothing_to_do(db, small, inclusive):
    fill(db, range(50))
    db.numbers.delete_many({"_id": {"$lt": 30}})

    assert Work(db).run(end=End(20, inclusive=inclusive)) == Counts()
    assert tally(db) == {0: 20}


# Budget, throttle, size -----------------------------------------------------------------------------------------------


def test_a_spent_budget_stops_between_batches_and_the_next_run_goes_on(db, small):
    fill(db, range(45))
    work, now = Work(db), [0.0]

    def tick():
        now[0] += 0.2
        return now[0]

    with pytest.raises(BudgetSpentError, match=r"budget of 1 s is spent after \d+ of about 45 documents") as caught:
        work.run(Limits(budget=1.0), clock=tick)
    done = work.point()["done"]
    assert 0 < done < 45
    assert tally(db) == {1: done, 0: 45 - done}
    assert f"{done:,} of about" in str(caught.value)

    work.run()
    assert tally(db) == {1: 45}


def test_a_reason_to_wait_is_shown_once_and_waited_for(db, small, monkeypatch):
    fill(db, range(25))
    work = Work(db)
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)

    class Slow:
        lags = iter([0.0, 99.0, 99.0, 99.0, 42.0])

        def sample(self):
            return Sample(next(self.lags, 0.0))

    assert work.run(Limits(max_lag=10), probe=Slow()) == Counts(matched=25, modified=25)

    waits = [progress for progress in work.told if progress.waiting]
    assert [progress.waiting for progress in waits] == [
        "replication lag 99.0 s (limit 10.0 s)",
        "replication lag 42.0 s (limit 10.0 s)",
    ]
    assert {progress.done for progress in waits} == {10}
    assert "waiting: replication lag" in str(waits[0])
    assert slept == [module.WAIT_SECONDS] * 4
    assert tally(db) == {1: 25}


def test_a_budget_ends_the_waiting_too(db, small, monkeypatch):
    fill(db, range(25))
    now = [0.0]
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    class Stuck:
        def sample(self):
            return Sample(99.0)

    with pytest.raises(BudgetSpentError):
        Work(db).run(Limits(budget=3.0), probe=Stuck(), clock=lambda: now[0])
    assert tally(db) == {0: 25}


def test_a_lease_lost_while_waiting_ends_the_run(db, small):
    fill(db, range(25))

    class Stuck:
        def sample(self):
            db["ops_leases"].update_one({"_id": "work"}, {"$inc": {"epoch": 1}})
            return Sample(99.0)

    with pytest.raises(LeaseLostError):
        Work(db).run(probe=Stuck())
    assert tally(db) == {0: 25}


def test_batches_grow_while_they_are_quick_and_shrink_when_they_are_slow(db, monkeypatch):
    monkeypatch.setattr(module, "FIRST_SIZE", 16)
    fill(db, range(400))
    work, sizes, now = Work(db), [], [0.0]
    write = apply_update(db, "numbers", ADD_ONE)

    def apply(session, selected):
        done = write(session, selected)
        sizes.append(done.matched)
        now[0] += 0.1 if sum(sizes) < 200 else 4.0
        return done

    work.run(Limits(batch_seconds=0.5), apply=apply, clock=lambda: now[0])

    assert sizes == [16, 32, 64, 128, 64, 32, 16, 10, 10, 10, 10, 8]
    assert tally(db) == {1: 400}


def test_progress_is_told_with_rate_and_time_left(db, small):
    fill(db, range(95))
    work, now = Work(db), [0.0]

    def tick():
        now[0] += 1.0
        return now[0]

    work.run(clock=tick)

    assert work.told[-1].done == work.told[-1].total == 95
    assert [progress.done for progress in work.told] == sorted({progress.done for progress in work.told})
    assert 2 <= len(work.told) <= 10  # at a human pace, not for each batch of a fast run
    assert str(work.told[-1]).startswith("work: 95 of 95 documents (100 %), ")
    middle = work.told[0]
    assert middle.seconds_left == pytest.approx((95 - middle.done) / middle.rate_per_s)


# Failure: a batch that cannot commit at its size -----------------------------------------------------------------------


@pytest.fixture
def short_transactions(db):
    """Transactions live for a second only."""
    before = db.client.admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    db.client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=1)
    yield
    limit = before["transactionLifetimeLimitSeconds"]
    db.client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=limit)


def test_a_batch_that_outlives_its_transaction_is_halved_until_it_fits(db, short_transactions, monkeypatch, caplog):
    monkeypatch.setattr(module, "FIRST_SIZE", 64)
    fill(db, range(80))
    work, tried, write = Work(db), [], apply_update(db, "numbers", ADD_ONE)

    def slowly(session, selected):
        done = write(session, selected)
        tried.append(done.matched)
        time.sleep(0.05 * done.matched)  # 64 documents: 3.2 s
        return done

    assert work.run(apply=slowly) == Counts(matched=80, modified=80)

    assert tally(db) == {1: 80}
    assert tried[:2] == [64, 32]  # not again at the same size
    assert "a batch of 64 documents did not commit" in caplog.text
    assert max(tried[3:]) < 32


def test_a_smaller_size_survives_the_run_that_found_it(db, monkeypatch):
    monkeypatch.setattr(module, "FIRST_SIZE", 64)
    fill(db, range(80))
    work = Work(db)
    fail, write = OperationFailure("too large", 334, {"codeName": "TransactionTooLargeForCache"}), []

    def refusing(session, selected):
        write.append(db.numbers.count_documents(selected, session=session))
        if write[-1] > 4:
            raise fail
        raise Killed

    with pytest.raises(Killed):
        work.run(apply=refusing)
    assert (write, work.point()["size"], work.point()["done"]) == ([64, 32, 16, 8, 4], 4, 0)

    sizes = []

    def noting(session, selected):
        done = apply_update(db, "numbers", ADD_ONE)(session, selected)
        sizes.append(done.matched)
        return done

    assert work.run(apply=noting) == Counts(matched=80, modified=80)
    assert sizes[:5] == [4, 4, 5, 6, 7]  # carefully
    assert tally(db) == {1: 80}


def test_what_fails_document_by_document_too_is_raised(db, monkeypatch):
    monkeypatch.setattr(module, "FIRST_SIZE", 8)
    fill(db, range(20))
    tried = []

    def refusing(session, selected):
        tried.append(db.numbers.count_documents(selected, session=session))
        raise OperationFailure("too large", 10334)

    with pytest.raises(OperationFailure) as caught:
        Work(db).run(apply=refusing)
    assert caught.value.code == 10334
    assert tried == [8, 4, 2, 1]
    assert tally(db) == {0: 20}


def test_a_server_that_is_gone_is_no_reason_to_shrink(db, small, monkeypatch):
    monkeypatch.setattr(client_session_shared, "_WITH_TRANSACTION_RETRY_TIME_LIMIT", 0.5)
    fill(db, range(25))
    work = Work(db)
    with pytest.raises(Killed):
        kill_around(work, 1, Batches, "_tell", after=False)

    def lost(session, selected):
        error = AutoReconnect("gone")
        error._add_error_label("TransientTransactionError")
        raise error

    with pytest.raises(ConnectionFailure):
        work.run(apply=lost)
    assert (work.point()["size"], work.point()["done"]) == (10, 10)


@pytest.mark.parametrize("call", [1, 2])
def test_a_commit_whose_answer_is_lost_is_not_done_again(db, small, call):
    """The transaction committed, yet the driver reports a failure that blames the size."""
    fill(db, range(25))
    work, real, calls = Work(db), Lease.transaction, []

    def deaf(self, body):
        result = real(self, body)
        calls.append(1)
        if len(calls) == call:
            raise OperationFailure("aborted", 251)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "transaction", deaf)
        assert work.run() == Counts(matched=25, modified=25)
    assert tally(db) == {1: 25}
    assert work.point()["done"] == 25


def test_a_walk_that_was_killed_before_its_first_batch_covers_what_came_meanwhile(db, small):
    """Nothing was changed and nothing was written about it; the walk begins, and its end is fixed, when it is run again."""
    fill(db, range(25))
    with pytest.raises(Killed):
        kill_around(Work(db), 1, Batches, "_hold_back", after=False)
    assert Work(db).point() is None
    fill(db, range(25, 30))

    assert Work(db).run() == Counts(matched=30, modified=30)
    assert tally(db) == {1: 30}


def test_the_first_batch_commits_with_its_checkpoint_or_not_at_all(db, small):
    """One transaction for each batch and none besides; whoever has not got the first one's has changed nothing."""
    fill(db, range(25))
    real, seen = Lease.transaction, []

    def counting(self, body):
        result = real(self, body)
        seen.append((Work(db).point()["done"], tally(db).get(1)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "transaction", counting)
        Work(db).run()
    assert seen == [(10, 10), (20, 20), (25, 25)]


def test_an_empty_collection_is_walked_once_whatever_comes_later(db, small):
    db.create_collection("numbers")
    assert Work(db).run() == Counts()
    assert (Work(db).point()["finished"], covered(db, "work")) == (True, None)
    fill(db, range(25))

    assert Work(db).run() == Counts()
    assert tally(db) == {0: 25}


@pytest.mark.chaos
def test_large_documents_are_walked_a_few_at_a_time_with_their_images(db):
    """60 documents of 2 to 10 MB, kept whole as before-images in each batch's transaction."""
    megabyte = "x" * 2**20
    for number in range(60):
        db.large.insert_one({"_id": number, "body": megabyte * (10 if number % 15 == 0 else 2)})
    operation = Backfill("large", [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"n": 1}]}}], revert="snapshot")
    project = Workshop(db)

    assert project.forward(operation).modified == 60

    assert db.large.count_documents({"n": 1}) == 60
    points = list(db[CHECKPOINTS].find({"largest": {"$exists": True}}))
    assert [point["largest"] for point in points] == [3]
    project.reverse(operation)
    assert db.large.count_documents({"n": {"$exists": True}}) == 0


def test_the_first_size_follows_the_documents_size(db):
    db.numbers.insert_many([{"_id": i, "n": 0, "body": "x" * 100_000} for i in range(100)])
    work = Work(db)

    work.run()

    assert 80 <= work.point()["largest"] <= 84
    assert work.point()["batches"] == 2


# Edits ----------------------------------------------------------------------------------------------------------------


def test_an_edited_step_is_refused_once_it_has_done_something(db, small):
    fill(db, range(25))
    work = Work(db)
    with pytest.raises(Killed):
        kill_around(work, 1, Batches, "_tell", after=False)

    with pytest.raises(StepChangedError, match=r"work stopped after 10 documents .* restore the file"):
        Work(db, digest="2", update={"$inc": {"n": 5}}).run()
    assert tally(db) == {1: 10, 0: 15}
    work.run()
    assert tally(db) == {1: 25}


def test_an_edited_step_that_has_done_nothing_begins_anew(db, small):
    fill(db, range(25))

    def refused(session, selected):
        if db.numbers.count_documents(selected, session=session) > 5:
            raise OperationFailure("too large", 334, {"codeName": "TransactionTooLargeForCache"})
        raise Killed

    with pytest.raises(Killed):
        Work(db).run(apply=refused)
    assert (Work(db).point()["digest"], Work(db).point()["done"]) == ("1", 0)

    Work(db, digest="2", update={"$inc": {"n": 5}}).run()

    assert Work(db).point()["digest"] == "2"
    assert tally(db) == {5: 25}


# Memory ---------------------------------------------------------------------------------------------------------------

MEMORY = """
    import sys
    from pymongo import MongoClient
    from mongo_ops.migrations.operations.base import apply_update
    from mongo_ops.mongo.batches import Batches, Step
    from mongo_ops.mongo.lease import Holder, acquire
    uri, name, collection = sys.argv[1:]
    db = MongoClient(uri).get_database(name)
    with acquire(db, collection, Holder("tests")) as lease:
        done = Batches(lease).run(Step(collection, "1", collection), apply_update(db, collection, {"$inc": {"n": 1}}))
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(done.modified, peak.split()[1])
"""


@pytest.mark.chaos
def test_memory_does_not_grow_with_the_collection(db, replica_set):
    peaks = {}
    for count in (20_000, 200_000):
        name = f"n{count}"
        spread = {"$project": {"i": {"$range": [0, count]}}}
        shape = {"$project": {"_id": "$i", "n": {"$literal": 0}}}
        db.aggregate([{"$documents": [{}]}, spread, {"$unwind": "$i"}, shape, {"$out": name}])
        command = [sys.executable, "-c", textwrap.dedent(MEMORY), replica_set.uri, db.name, name]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert result.returncode == 0, result.stderr
        modified, peaks[count] = map(int, result.stdout.split())
        assert modified == count
        assert tally(db, name) == {1: count}
    assert peaks[200_000] - peaks[20_000] < 8_000  # KiB; ten times the documents held would be tens of MB
