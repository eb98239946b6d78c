"""mongo_partition through the real scheduler: months made, filled, archived and dropped; cold documents after a second person's word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mongo_ops.partitions.months import Month, name_of

COUNT = 2_000
EPOCH = datetime.now(UTC).replace(microsecond=0)


def visits(db, name):
    """Documents of the last five months or so."""
    db[name].insert_many([{"_id": i, "seen_at": EPOCH - timedelta(minutes=108 * i)} for i in range(COUNT)])
    return Month.of(EPOCH)


@pytest.mark.chaos
def test_months_are_made_filled_archived_and_dropped_and_one_comes_back(scheduler):
    db = scheduler.db("moved")
    this = visits(db, "visits")
    asked = {"collection": "visits", "strategy": "by_time", "key": "seen_at", "move": True, "keep_months": 2}

    ended = scheduler.end(scheduler.trigger("moved", "mongo_partition", **asked))

    assert ended.state == "success"
    done = scheduler.api.xcom(ended.run, "report")["done"]
    names = db.list_collection_names(filter={"name": {"$regex": "^visits(_2|$)"}})
    left = {name: db[name].count_documents({}) for name in names}
    assert set(left) == {"visits", *(name_of("visits", this + n) for n in (-2, -1, 0, 1, 2))}
    assert done["archive"]["archived"] == done["remove"]["documents"] == COUNT - sum(left.values()) > 0
    assert db.visits_all.count_documents({}) == sum(left.values())
    skipped = {name for name, state in ended.states.items() if state == "skipped"}
    assert skipped == {"command", "restore"}
    noted = list(db.ops_partitions.find({"state": "dropped"}).sort("collection", -1))
    assert [one["collection"] for one in noted][:1] == [name_of("visits", this - 3)]
    back = {"collection": "visits", "strategy": "restore", "source": noted[0]["destination"]}
    assert scheduler.end(scheduler.trigger("moved", "mongo_partition", **back)).state == "success"
    start, end = (this - 3).start, (this - 2).start
    wanted = [one for one in range(COUNT) if start <= EPOCH - timedelta(minutes=108 * one) < end]
    assert sorted(one["_id"] for one in db[noted[0]["collection"]].find()) == wanted


def test_cold_documents_of_a_protected_environment_wait_for_a_second_person(scheduler):
    db = scheduler.db("received")
    visits(db, "calls")
    asked = {"collection": "calls", "strategy": "archive", "key": "seen_at", "keep_months": 1}
    run = scheduler.trigger("received", "mongo_partition", **asked)
    scheduler.until_asked(run)
    assert db.calls.count_documents({}) == COUNT

    scheduler.stack.api_as("olivia").answer(run, "approve", "Approve")

    assert scheduler.end(run).state == "success"
    done = scheduler.api.xcom(run, "report")["done"]
    assert done["archive"]["archived"] == done["remove"]["deleted"] == COUNT - db.calls.count_documents({}) > 0
    assert db.audit_log.count_documents({"action": "partition.deleted"}) == 1
