"""Month collections: made alike, shown by one view, filled without losing a document, and let go when their archive is whole."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from tests.mongo import partition_runner
from tests.mongo.partition_runner import NOW, Job, Partitions, fill, points

from mongo_ops.erasure import holds
from mongo_ops.migrations.history import Actor
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.guard import ReadOnlyGuard
from mongo_ops.mongo.lease import Holder, LeaseHeldError, acquire
from mongo_ops.partitions import engine
from mongo_ops.partitions.errors import ArchiveDiffersError, HeldError, MoveIncompleteError, RefusedError
from mongo_ops.partitions.model import Phase, Strategy
from mongo_ops.partitions.months import collection_for
from mongo_ops.partitions.work import PARTITIONS, resource_of
from mongo_ops.settings import Environment

BY_TIME = Strategy.BY_TIME


@pytest.fixture
def partitions(target, tmp_path):
    return Partitions(target, (tmp_path / "archive").as_uri())


@pytest.fixture
def filled(partitions):
    fill(partitions.db)
    return partitions


def test_coming_months_are_made_like_the_source_with_validator_and_indexes(filled):
    done = filled.run(BY_TIME, months_ahead=2)

    assert done["create"] == {"made": 3, "brought_alike": 0, "led": 1}
    months = [f"events_2026_{month}" for month in (11, 12)] + ["events_2027_01"]
    assert filled.names() == sorted(["events", "events_all", *months])
    for name in months:
        (info,) = filled.db.list_collections(filter={"name": name})
        assert (info["options"]["validator"], info["options"]["validationLevel"]) == (
            {"n": {"$type": "int"}},
            "moderate",
        )
        kept = {
            index["name"]: (list(index["key"].items()), index.get("unique")) for index in filled.db[name].list_indexes()
        }
        assert kept == {
            "_id_": ([("_id", 1)], None),
            "by_time": ([("at", 1), ("n", -1)], None),
            "numbers": ([("n", 1)], True),
        }


def test_a_second_run_has_nothing_to_do_and_the_next_month_makes_one_more(filled):
    filled.run(BY_TIME)
    assert filled.plan(BY_TIME, run="run 2").steps == ()

    later = engine.plan(
        partition_runner.work(filled.target, filled.folder, "run 3"),
        filled.plan(BY_TIME).request,
        NOW + timedelta(days=30),
    )

    assert [(one.phase, one.subject) for one in later.steps] == [("create", "events_2027_02"), ("create", "events_all")]


def test_a_changed_validator_reaches_the_months_that_are_written_to_and_no_others(filled):
    filled.run(BY_TIME, move=True)
    filled.db.command("collMod", "events", validator={"n": {"$type": "number"}})
    filled.db.events.create_index("text")

    done = filled.run(BY_TIME, run="run 2")

    rules = {
        info["name"]: info["options"].get("validator")
        for info in filled.db.list_collections()
        if "2026" in info["name"]
    }
    assert done["create"]["brought_alike"] == 3
    assert (rules["events_2026_11"], rules["events_2026_10"]) == ({"n": {"$type": "number"}}, {"n": {"$type": "int"}})
    assert "text_1" in filled.db.events_2026_12.index_information()


def test_roles_that_name_the_collection_get_the_same_on_months_and_reading_on_the_view(filled):
    db = filled.db
    on = {"db": db.name, "collection": "events"}
    db.command("createRole", "writer", privileges=[{"resource": on, "actions": ["find", "insert"]}], roles=[])
    try:
        filled.run(BY_TIME, months_ahead=0)
        (role,) = db.command({"rolesInfo": "writer", "showPrivileges": True})["roles"]
    finally:
        db.command("dropRole", "writer")

    given = {one["resource"]["collection"]: sorted(one["actions"]) for one in role["privileges"]}
    assert given == {"events": ["find", "insert"], "events_2026_11": ["find", "insert"], "events_all": ["find"]}


def test_closed_months_are_moved_whole_and_the_view_shows_every_document_once(filled):
    before = filled.content("events")
    plan = filled.plan(BY_TIME, move=True)

    done = filled.carry_out(plan)

    assert filled.db.events.count_documents({"at": {"$lt": datetime(2026, 11, 1, tzinfo=UTC)}}) == 0
    assert done["move"]["moved"] == 240 - filled.db.events.count_documents({})
    assert filled.everywhere() == before
    for document in filled.db.events_2026_05.find():
        assert collection_for("events", document["at"]) == "events_2026_05"
    assert sorted(one["_id"] for one in filled.db.events_all.find({}, {"_id": 1})) == list(range(240))


def test_undated_and_array_dated_documents_stay_in_the_source_and_are_told(filled):
    old = datetime(2026, 2, 1, tzinfo=UTC)
    filled.db.events.insert_many(
        [
            {"_id": "none", "n": 1001},
            {"_id": "text", "at": "2026-02-01", "n": 1002},
            {"_id": "many", "at": [old, old], "n": 1003},
        ],
        bypass_document_validation=True,
    )
    plan = filled.plan(BY_TIME, move=True)

    filled.carry_out(plan)

    assert any(note.startswith("3 documents of events have no single date") for note in plan.notes)
    assert {one["_id"] for one in filled.db.events.find({"n": {"$gt": 1000}})} == {"none", "text", "many"}


def test_a_namesake_with_other_content_is_not_overwritten_and_nothing_is_lost(filled):
    old = filled.db.events.find_one({"_id": 5})
    filled.db.events_2026_05.insert_one({**old, "text": "another"})
    before = filled.everywhere()

    with pytest.raises(MoveIncompleteError, match="1 of closed months are still in events: 1 have a namesake"):
        filled.run(BY_TIME, move=True)

    assert filled.everywhere() == before
    assert filled.db.events.find_one({"_id": 5}) == old
    filled.db.events_2026_05.delete_one({"_id": 5})
    filled.run(BY_TIME, move=True)  # the same run, cleared
    assert filled.db.events_2026_05.find_one({"_id": 5}) == old


def test_writers_that_use_the_helper_lose_nothing_while_months_are_moved(filled, monkeypatch):
    monkeypatch.setattr("mongo_ops.mongo.batches.FIRST_SIZE", 20)
    filled.run(BY_TIME, run="run 0")
    ledger, over = {}, threading.Event()

    def write():
        db, number = filled.db, 10_000
        while not over.is_set() or number < 10_050:
            document = {"_id": number, "at": NOW, "n": number}
            db[collection_for("events", NOW)].insert_one(document)
            ledger[number] = 0
            if number % 3 == 0:
                db[collection_for("events", NOW)].update_one({"_id": number}, {"$inc": {"n": 1_000_000}})
                ledger[number] = 1
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        filled.run(BY_TIME, run="run 1", move=True)
    finally:
        over.set()
        thread.join()

    found = {one["_id"]: one["n"] > 1_000_000 for one in filled.db.events_all.find({"_id": {"$gte": 10_000}})}
    assert found == {number: bool(changed) for number, changed in ledger.items()}
    assert filled.db.events_all.count_documents({"_id": {"$lt": 10_000}}) == 240


def test_old_months_go_to_object_storage_verified_and_then_away(filled):
    filled.run(BY_TIME, move=True)
    before, gone = filled.everywhere(), [filled.content(f"events_2026_0{month}") for month in range(5, 9)]

    done = filled.run(BY_TIME, run="run 2", keep_months=2)

    assert (done["archive"]["archived"], done["remove"]["dropped"]) == (sum(one.count for one in gone), 4)
    assert [name for name in filled.names() if name.startswith("events_2026_0")] == ["events_2026_09"]
    assert filled.everywhere() == before
    assert sorted(one.digest for one in filled.archives().values()) == sorted(one.digest for one in gone)
    (options,) = [one["options"] for one in filled.db.list_collections(filter={"name": "events_all"})]
    assert options["viewOn"] == "events"
    assert [stage["$unionWith"] for stage in options["pipeline"]][:2] == ["events_2026_09", "events_2026_10"]
    assert filled.db[PARTITIONS].count_documents({"state": "dropped"}) == 4
    assert filled.db.audit_log.count_documents({"action": "partition.dropped"}) == 4


def test_a_dropped_month_comes_back_from_its_archive(filled):
    filled.run(BY_TIME, move=True)
    before = filled.content("events_2026_08")
    filled.run(BY_TIME, run="run 2", keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"collection": "events_2026_08", "state": "dropped"})

    done = filled.run(Strategy.RESTORE, run="run 3", folder=noted["destination"], key="", source=noted["destination"])

    assert done["restore"] == {"inserted": before.count, "present": 0, "erased": 0}
    assert filled.content("events_2026_08") == before
    assert "numbers" in filled.db.events_2026_08.index_information()


def test_without_an_archive_months_are_dropped_only_when_that_is_asked_for(filled):
    filled.run(BY_TIME, move=True)
    plan = filled.plan(BY_TIME, run="run 2", keep_months=2, archive=False)

    filled.carry_out(plan, run="run 2")

    assert all("WITHOUT an archive" in one.sentence for one in plan.of_phase(Phase.REMOVE))
    assert (filled.archives(), filled.db.list_collection_names(filter={"name": "events_2026_05"})) == ({}, [])


def test_a_month_that_differs_from_its_archive_is_not_dropped(filled, monkeypatch):
    filled.run(BY_TIME, move=True)
    plan = filled.plan(BY_TIME, run="run 2", keep_months=2)
    work = partition_runner.work(filled.target, filled.folder, "run 2")
    engine.carry_out(work, plan, Phase.CREATE)
    engine.carry_out(work, plan, Phase.ARCHIVE)
    filled.db.events_2026_05_retired.update_one({}, {"$set": {"text": "late"}})

    with pytest.raises(ArchiveDiffersError, match="or other ones"):
        engine.carry_out(work, plan, Phase.REMOVE)

    assert filled.db.events_2026_05_retired.count_documents({"text": "late"}) == 1


def test_a_late_writer_cannot_reach_a_month_on_its_way_out(filled):
    filled.run(BY_TIME, move=True)
    plan = filled.plan(BY_TIME, run="run 2", keep_months=2)
    work = partition_runner.work(filled.target, filled.folder, "run 2")
    engine.carry_out(work, plan, Phase.CREATE)
    engine.carry_out(work, plan, Phase.ARCHIVE)
    filled.db.events_2026_05.insert_one({"_id": "late", "at": datetime(2026, 5, 20, tzinfo=UTC), "n": 77})

    engine.carry_out(work, plan, Phase.REMOVE)
    assert filled.db.events_2026_05.find_one()["_id"] == "late"

    filled.run(BY_TIME, run="run 3", keep_months=2)
    archived = filled.archives()
    assert len([name for name in archived if name.startswith("events_2026_05-")]) == 2
    assert filled.db.list_collection_names(filter={"name": {"$regex": "^events_2026_05"}}) == []


# Legal holds ----------------------------------------------------------------------------------------------------------


def place_hold(db, collection, text):
    scope = holds.of_documents(db, collection, text)
    actor, now = Actor("counsel", "os"), datetime.now(UTC)
    return holds.place(
        db, "development", scope, reason_code="litigation", authority="court 1", review_at=now + timedelta(days=9), actor=actor, now=now
    )  # fmt: skip


@pytest.mark.parametrize("named", ["events", "events_2026_06"])
def test_a_month_with_a_held_document_stays_and_the_plan_says_so(filled, named):
    filled.run(BY_TIME, move=True)
    held = filled.db.events_2026_06.find_one()
    place_hold(filled.db, named, f'{{"n": {held["n"]}}}')

    plan = filled.plan(BY_TIME, run="run 2", keep_months=2)
    filled.carry_out(plan, run="run 2")

    assert any(
        note.startswith("events_2026_06 stays: 1 of its documents are under a legal hold") for note in plan.notes
    )
    assert filled.db.events_2026_06.find_one({"n": held["n"]}) == held
    assert filled.db.list_collection_names(filter={"name": "events_2026_07"}) == []
    assert filled.db.events_all.count_documents({"n": held["n"]}) == 1


def test_a_hold_that_comes_after_the_plan_keeps_the_month(filled):
    filled.run(BY_TIME, move=True)
    plan = filled.plan(BY_TIME, run="run 2", keep_months=2)
    place_hold(filled.db, "events", '{"n": 3}')

    with pytest.raises(HeldError, match="1 documents of events_2026_05 are under a legal hold"):
        filled.carry_out(plan, run="run 2")

    assert filled.db.events_2026_05.count_documents({"n": 3}) == 1


def test_held_documents_of_the_source_are_not_moved_away_from_their_hold(filled):
    place_hold(filled.db, "events", '{"n": {"$lt": 3}}')

    filled.run(BY_TIME, move=True)

    assert sorted(one["n"] for one in filled.db.events.find({"at": {"$lt": datetime(2026, 11, 1, tzinfo=UTC)}})) == [
        0,
        1,
        2,
    ]


# Plan, refusals, kills --------------------------------------------------------------------------------------------------


def test_a_plan_writes_nothing_and_shows_the_months(filled, replica_set):
    database = filled.target.database
    spec = ConnectionSpec("c", replica_set.uri, "here", database)
    before = sorted(filled.db.list_collection_names())
    with connect(spec, Environment("development", "c", database=database), listeners=(ReadOnlyGuard(),)) as reading:
        plan = Partitions(reading, filled.folder).plan(BY_TIME, move=True, keep_months=2)

    assert sorted(filled.db.list_collection_names()) == before
    assert sum(count for _, count in plan.pictures[0].bars) == 240
    assert plan.pictures[0].bars[0][0] == "2026-05"
    assert any("numbers are unique within each month collection only" in note for note in plan.notes)
    assert {one.phase for one in plan.steps} == {Phase.CREATE, Phase.MOVE, Phase.ARCHIVE, Phase.REMOVE}


def test_two_runs_at_once_one_refuses(filled):
    plan = filled.plan(BY_TIME)
    with acquire(filled.db, resource_of("events"), Holder("another run")), pytest.raises(LeaseHeldError):
        filled.carry_out(plan)
    assert filled.names() == ["events"]


def test_what_is_no_collection_or_stands_in_the_views_place_is_refused(partitions):
    partitions.db.create_collection("events", capped=True, size=4096)
    partitions.db.create_collection("events_all")
    plan = partitions.plan(BY_TIME)

    with pytest.raises(RefusedError, match="events is a capped"):
        partitions.carry_out(plan)

    assert len(plan.blockers) == 2


def test_months_that_an_erasure_would_not_visit_are_refused(partitions):
    partitions.db.create_collection("analytics")

    plan = partitions.plan(BY_TIME, collection="analytics", key="ts")

    (sentence,) = plan.blockers
    assert (
        "no analytics_2026_11: an erasure would not find people there. Name it analytics* in the data map" in sentence
    )


@pytest.fixture(scope="module")
def unharmed(replica_set, tmp_path_factory):
    """What a run that nobody kills leaves behind."""
    with _connected(replica_set, f"test_{uuid.uuid4().hex[:12]}") as target:
        partitions = Partitions(target, (tmp_path_factory.mktemp("whole") / "archive").as_uri())
        fill(partitions.db, 120)
        assert not partition_runner.run(_job(partitions, replica_set))
        outcome = partitions.outcome()
        target.client.drop_database(target.database)
    return outcome


@pytest.mark.parametrize("point", list(points()), ids=str)
def test_a_run_that_is_killed_anywhere_and_repeated_leaves_what_an_unharmed_one_leaves(
    filled_small, replica_set, unharmed, point
):
    before, job = filled_small.everywhere(), _job(filled_small, replica_set)

    assert partition_runner.run(job, point), "the point was never reached"
    assert not partition_runner.run(job)

    assert filled_small.everywhere() == before
    assert filled_small.outcome() == unharmed


@pytest.fixture
def filled_small(partitions):
    fill(partitions.db, 120)
    return partitions


def _connected(replica_set, name):
    spec = ConnectionSpec("c", replica_set.uri, "here", name)
    return connect(spec, Environment("development", "c", database=name))


def _job(partitions, replica_set):
    plan = partitions.plan(BY_TIME, move=True, keep_months=2)
    return Job(replica_set.uri, partitions.target.database, partitions.folder, plan.as_value())
