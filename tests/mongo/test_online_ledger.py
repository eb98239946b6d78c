"""One migration of each mode under writers who keep a ledger: nothing is lost. And the ledger itself sees what is to be seen."""

from __future__ import annotations

import pytest
from bson import Int64
from tests.mongo.online_course import BY_FUNCTION, LONG, RENAMED, SECONDS, Course, renamed, with_longs, with_seconds
from tests.mongo.online_ledger import NEVER, compare

from mongo_ops.online.model import Phase

SMALL = {"documents": 900, "writers": 3, "pause": 0.001}


@pytest.fixture
def course(replica_set, target, tmp_path):
    return lambda words, **options: Course(target, replica_set.uri, tmp_path, words, **(SMALL | options))


@pytest.mark.parametrize("words", [SECONDS, BY_FUNCTION], ids=["pipeline", "function"])
def test_in_place_old_writers_lose_nothing_and_leave_nothing_stale(course, words):
    at = course(words)
    with at.crowd.writing() as crowd:
        engine = at.engine()
        engine.start()
        while at.phase is not Phase.READY:
            crowd.await_writes(20)
            engine.advance(budget=0.1)
        crowd.await_writes(200)
    at.level()
    at.nothing_lost(with_seconds)

    contract = at.engine().contract(at.engine().verification().digest)

    assert contract.next is Phase.DONE
    at.nothing_lost(with_seconds)


def test_a_ghost_takes_the_place_of_its_source_and_gives_it_back_without_a_loss(course):
    at = course(LONG, forget=("seconds",))
    with at.crowd.writing() as crowd:
        engine = at.engine()
        engine.start()
        while at.phase is not Phase.READY:
            crowd.await_writes(20)
            engine.advance(budget=0.1)
        done = at.cut_over(engine)
        crowd.await_writes(200)
        with crowd.at_rest():
            at.level()
            at.nothing_lost(with_longs)
        crowd.await_writes(200)
        back = engine.rollback()
        crowd.await_writes(50)

    assert at.phase is Phase.ROLLED_BACK
    assert (done.refused_ms > 0, back.refused_ms > 0) == (True, True)
    at.swapped = NEVER  # what stands now is what they wrote
    at.nothing_lost(dict)
    assert sum(map(len, crowd.ledger().refused.values())) > 0


def test_a_ghost_with_other_keys_loses_nothing(course):
    at = course(RENAMED)
    with at.crowd.writing() as crowd:
        engine = at.engine()
        engine.start()
        while at.phase is not Phase.READY:
            crowd.await_writes(20)
            engine.advance(budget=0.1)
    at.cut_over(engine)
    at.nothing_lost(renamed)
    at.live.insert_one({"_id": "n77777", "was": 77777, "v": 1})
    at.live.delete_one({"_id": renamed(at.db["ops_old_notes"].find_one())["_id"]})
    engine.rollback()
    losses = at.losses(dict)
    assert (len(losses.missing), losses.zombie, losses.stale) == (1, (77777,), ())


def test_the_ledger_tells_missing_zombie_stale_and_every_change_of_type(course, db):
    at = course(LONG)
    ledger = at.crowd.ledger()
    assert not compare(ledger, at.live)
    at.live.delete_one({"_id": 1})
    at.live.insert_one({"_id": -1})
    at.live.update_one({"_id": 2}, {"$set": {"v": Int64(0)}})
    at.live.update_one({"_id": 3}, {"$set": {"ms": 21.0}})
    at.live.update_one({"_id": 4}, {"$set": {"v": 9}})

    losses = compare(ledger, at.live)

    assert (losses.missing, losses.zombie, losses.stale) == ((1,), (-1,), (2, 3, 4))
    assert len(compare(ledger, at.live, with_longs).stale) == SMALL["documents"] - 1


def test_what_vanishes_behind_the_writers_backs_surprises_them(course):
    at = course(LONG, documents=90)
    with at.crowd.writing() as crowd:
        crowd.await_writes(20)
        at.live.delete_many({"_id": {"$lt": 90}})
        crowd.await_writes(200)

    assert {kind for _, kind in at.losses(dict).surprises} >= {"change", "read"}
