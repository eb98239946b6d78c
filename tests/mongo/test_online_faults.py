"""What once was wrong in online migrations: each test here failed before its fault was mended."""

from __future__ import annotations

import pytest
from tests.mongo.online_course import LONG, SECONDS, Course, with_longs, with_seconds
from tests.mongo.online_ledger import NEVER

from mongo_ops.online import gate, slices, steps, verify
from mongo_ops.online.model import Phase
from mongo_ops.online.stream import Stream


@pytest.fixture
def course(replica_set, target, tmp_path):
    return lambda words, **options: Course(target, replica_set.uri, tmp_path, words, **({"documents": 300} | options))


def test_a_rollback_killed_after_its_last_step_does_not_leave_the_fence_closed(course):
    at = course(LONG | {"fence": 'Fence(kind="gate", settle_seconds=0.0)'}, forget=("seconds",))
    at.cut_over(at.project.to_ready("001_notes"))

    assert at.killed_at("rollback.recorded_after", "rollback") == "stopped"
    at.engine().rollback()

    gate.insist_open(at.db, "notes")
    assert at.project.state("001_notes")["fence"] is None


def test_an_abort_after_a_killed_contract_gives_old_writers_their_validator_back(course):
    at = course(SECONDS)
    at.project.to_ready("001_notes")

    assert at.killed_at("contract.strict", "contract") == "stopped"
    at.engine().abort()

    at.live.insert_one({"_id": -1, "ms": 5})  # as an old writer does
    assert at.live.count_documents({"seconds": {"$exists": True}}) == 0
    assert at.phase is Phase.ABORTED


@pytest.fixture
def few_at_once(monkeypatch):
    """No more than this many changes are compared at once, and fewer read."""
    monkeypatch.setattr(verify, "MOST_TOUCHED", 50)
    monkeypatch.setitem(Stream.read.__kwdefaults__, "most", 20)


def many_written(at, transform):
    for key in range(200):
        at.live.update_one({"_id": key}, {"$set": {"pad": "written"}, **transform})


def test_many_changes_while_waiting_for_approval_do_not_bar_the_cut_over(course, few_at_once):
    at = course(LONG)
    at.project.to_ready("001_notes")
    many_written(at, {})

    at.project.to_ready("001_notes").advance(budget=5.0)
    at.cut_over(at.project.to_ready("001_notes"))

    assert at.live.count_documents({"pad": "written", "ms": {"$type": "long"}}) == 200


def test_many_changes_in_the_rollback_window_do_not_bar_the_rollback(course, few_at_once):
    at = course(LONG)
    at.cut_over(at.project.to_ready("001_notes"))
    many_written(at, {})

    at.engine().rollback()

    assert at.live.count_documents({"pad": "written", "ms": {"$type": "int"}, "seconds": {"$exists": False}}) == 200


def test_a_ghost_is_whole_after_a_second_attempt(course):
    """An attempt that was aborted leaves nothing behind that the next one could mistake for its own."""
    at = course(LONG)
    at.project.to_ready("001_notes").abort()
    at.live.delete_many({"_id": {"$lt": 100}})

    at.cut_over(at.project.to_ready("001_notes"))

    at.swapped = NEVER
    losses = at.losses(with_longs)
    assert (len(losses.missing), losses.zombie, losses.stale) == (100, (), ())


def test_the_streams_place_moves_on_inside_a_long_slice_of_a_backfill(course, monkeypatch):
    """The copy's own inserts fill the oplog: what waits for the end of the slice may find its place gone."""
    at, places = course(LONG | {"limits": "Limits(chunk=50, nice=0.0)"}, documents=3_000), set()
    monkeypatch.setattr(slices, "PUMP_EVERY", 0.02)
    at.engine().start()
    monkeypatch.setattr(steps, "reached", lambda name: places.add(str(at.project.state("001_notes")["token"])))

    at.engine().advance(budget=60.0)

    assert len(places) >= 3


@pytest.mark.parametrize(
    ("words", "transform"), [(LONG, with_longs), (SECONDS, with_seconds)], ids=["ghost", "in place"]
)
@pytest.mark.chaos
def test_the_streams_place_moves_on_while_parts_are_filled_and_nothing_is_lost(course, words, transform, monkeypatch):
    at = course(
        words | {"limits": "Limits(chunk=50, nice=0.0)"}, documents=3_000, forget=("seconds",) if words is LONG else ()
    )
    monkeypatch.setattr(slices, "PUMP_EVERY", 0.02)
    engine = at.engine()
    engine.start(parts=2)
    places = []
    with at.crowd.writing() as crowd:
        for part in (1, 0):
            done = False
            while not done:
                crowd.await_writes(30)
                done = engine.advance(budget=0.02, part=part).done
                places.append(at.project.state("001_notes")["token"]["_data"])
        crowd.await_writes(30)

    assert places == sorted(places)
    assert len(set(places)) >= 3
    if words is LONG:
        assert at.db["ops_keys_notes"].estimated_document_count() > 0
    assert engine.advance(Phase.CATCH_UP).next is Phase.VERIFY
    at.nothing_lost(transform, "ops_ghost_notes" if words is LONG else "notes")
    assert at.db["ops_keys_notes"].count_documents({}) == 0
