"""Attempts to lose, double or hide a document of a partitioned collection, and to get a value out of a sentence."""

from __future__ import annotations

import json
import os
import resource
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bson
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo.errors import AutoReconnect
from tests.mongo.partition_runner import NOW, Partitions, fill, work
from tests.mongo.test_partitions_by_time import place_hold

from mongo_ops.cli import main
from mongo_ops.errors import MongoOpsError, PlanError
from mongo_ops.partitions import engine, moving
from mongo_ops.partitions.errors import HeldError, HoldsChangedError, MoveIncompleteError, RequestError
from mongo_ops.partitions.model import PartitionRequest, Phase, Strategy
from mongo_ops.partitions.months import Month, month_in
from mongo_ops.partitions.work import PARTITIONS
from mongo_ops.storage import open_folder

BY_TIME, ARCHIVE, RESTORE = Strategy.BY_TIME, Strategy.ARCHIVE, Strategy.RESTORE
OLD = datetime(2026, 8, 10, tzinfo=UTC)
ENVIRONMENTS = "environments:\n  development: {{connection: mongo_here, database: {database}, storage: {storage}}}\n"


@pytest.fixture
def partitions(target, tmp_path):
    return Partitions(target, (tmp_path / "archive").as_uri())


@pytest.fixture
def filled(partitions):
    fill(partitions.db, 60)
    return partitions


@pytest.fixture
def cli(target, tmp_path, monkeypatch, capsys):
    include = tmp_path / "include"
    include.mkdir()
    words = {"database": target.database, "storage": (tmp_path / "storage").as_uri()}
    (include / "environments.yaml").write_text(ENVIRONMENTS.format(**words))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(include))
    host, port = target.client.address
    monkeypatch.setenv(
        "AIRFLOW_CONN_MONGO_HERE", json.dumps({"conn_type": "mongo", "host": host, "port": port, "extra": '{"replicaSet": "rs0"}'})
    )  # fmt: skip

    def run(*words):
        code = main(["partition", *words, "--env", "development"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# The same key of another type -------------------------------------------------------------------------------------------


def test_namesakes_of_other_number_types_stay_where_they_are_and_the_others_move(filled):
    twins = {1: 1.0, 2: Int64(2), 3: Decimal128("3")}
    inside = ({"_id": {"a": 1}, "at": OLD, "n": 1000}, {"_id": {"a": 1.0}, "at": OLD, "n": 2000})
    filled.db.events.delete_many({"_id": {"$in": list(twins)}})
    filled.db.events.insert_many([inside[0], *({"_id": one, "at": OLD, "n": 1000 + one} for one in twins)])
    filled.db.events_2026_08.insert_many(
        [inside[1], *({"_id": two, "at": OLD, "n": 2000 + one} for one, two in twins.items())]
    )
    before = filled.everywhere()

    with pytest.raises(MoveIncompleteError, match="4 have a namesake"):
        filled.run(BY_TIME, move=True)

    assert filled.everywhere() == before
    assert filled.db.events.count_documents({"at": {"$lt": datetime(2026, 11, 1, tzinfo=UTC)}}) == len(twins) + 1


def test_a_restore_beside_a_namesake_of_another_number_type_brings_the_others_back(filled):
    number = filled.db.events.count_documents({"at": {"$lt": datetime(2026, 9, 1, tzinfo=UTC)}})
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    filled.db.events.insert_one({"_id": 2.0, "at": NOW, "n": 3002})

    done = filled.run(RESTORE, run="run 2", key="", source=noted["destination"], folder=noted["destination"])

    assert done["restore"] == {"inserted": number - 1, "present": 1, "erased": 0}


# Unique indexes -----------------------------------------------------------------------------------------------------------


def test_a_unique_value_that_is_taken_in_the_month_is_told_without_the_value(cli, db, caplog):
    db.plays.create_index("mail", unique=True)
    db.plays.insert_many([{"_id": i, "at": OLD.replace(year=2025), "mail": f"secret{i}@x"} for i in range(5)])
    db.plays_2025_08.create_index("mail", unique=True)
    db.plays_2025_08.insert_one({"_id": "other", "mail": "secret3@x"})

    code, out, err = cli("plays", "--strategy", "by_time", "--key", "at", "--move")

    assert code in (1, 3)
    assert "a document with the same mail exists already" in err
    assert "secret" not in out + err + caplog.text
    assert "Traceback" not in err + caplog.text
    assert db.plays_all.count_documents({}) == 6


def test_a_unique_value_that_is_taken_since_is_told_by_a_restore(cli, db):
    db.plays.create_index("mail", unique=True)
    db.plays.insert_many([{"_id": i, "at": OLD.replace(year=2025), "mail": f"secret{i}@x"} for i in range(5)])
    assert cli("plays", "--strategy", "archive", "--key", "at", "--keep-months", "1")[0] == 0
    (noted,) = db[PARTITIONS].find({"state": "deleted"})
    db.plays.insert_one({"_id": "new", "mail": "secret3@x"})

    code, out, err = cli("plays", "--strategy", "restore", "--source", noted["destination"])

    assert code in (1, 3)
    assert "a document with the same mail exists already" in err
    assert "secret" not in out + err


# Months that the plan did not know ----------------------------------------------------------------------------------------


def test_a_document_of_a_month_that_came_after_the_plan_does_not_leave_the_view(filled):
    plan = filled.plan(BY_TIME, move=True)
    filled.db.events.insert_one({"_id": "ancient", "at": datetime(2019, 3, 3, tzinfo=UTC), "n": 700})

    with pytest.raises(MoveIncompleteError):
        filled.carry_out(plan)

    assert filled.db.events_all.count_documents({"_id": "ancient"}) == 1
    assert filled.db.events_all.count_documents({}) == 61
    filled.run(BY_TIME, run="run 2", move=True)
    assert filled.db.events_2019_03.count_documents({}) == 1
    assert "numbers" in filled.db.events_2019_03.index_information()
    assert filled.db.events_all.count_documents({}) == 61


def test_who_was_erased_does_not_come_back_under_another_name(filled):
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    filled.options["refusal"] = lambda name: (
        (lambda document: b"\x10n\x00\x03\x00\x00\x00" in document) if name == "events" else None
    )

    back = {"key": "", "source": noted["destination"], "folder": noted["destination"], "into": "scratch"}
    done = filled.run(RESTORE, run="run 2", **back)

    assert done["restore"]["erased"] == 1
    assert filled.db.scratch.find_one({"n": 3}) is None


# Holds ----------------------------------------------------------------------------------------------------------------------


def test_a_hold_that_is_placed_during_a_move_ends_the_batch(filled, monkeypatch):
    original, placed = moving._Passage.treat, []

    def treat(self, session, selected):
        if not placed:
            placed.append(place_hold(filled.db, "events", '{"n": {"$lt": 3}}'))
        return original(self, session, selected)

    monkeypatch.setattr(moving._Passage, "treat", treat)
    plan = filled.plan(BY_TIME, move=True)

    with pytest.raises(HoldsChangedError):
        filled.carry_out(plan)
    filled.carry_out(plan)

    assert sorted(one["n"] for one in filled.db.events.find({"n": {"$lt": 20}})) == [0, 1, 2]


def test_a_retired_month_that_is_held_stays_and_does_not_stop_the_monthly_run(filled):
    filled.run(BY_TIME, move=True)
    plan = filled.plan(BY_TIME, run="run 2", keep_months=4)
    going = work(filled.target, filled.folder, "run 2")
    for phase in (Phase.CREATE, Phase.ARCHIVE):
        engine.carry_out(going, plan, phase)
    place_hold(filled.db, "events", '{"n": 1}')

    with pytest.raises(HeldError, match="1 documents of events_2026_05_retired"):
        engine.carry_out(going, plan, Phase.REMOVE)
    monthly = filled.plan(BY_TIME, run="run 3")
    filled.carry_out(monthly, "run 3")

    assert any(one.startswith("events_2026_05_retired stays") for one in monthly.notes)
    assert filled.db.events_2026_05_retired.count_documents({"n": 1}) == 1
    assert "events_2026_06_retired" not in filled.names()


# What is asked ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["$$NOW", "$NOW", "$at", "a..b", ".at", "at.", "at\0b"])
def test_a_key_that_is_no_path_is_refused(key):
    for strategy in (BY_TIME, ARCHIVE):
        with pytest.raises(RequestError):
            PartitionRequest(collection="events", strategy=strategy, key=key, keep_months=1)


@pytest.mark.parametrize("name", ["audit_log", "ops_leases", "system.users", "a$b"])
def test_what_is_the_projects_own_is_never_split_nor_written_to(name):
    with pytest.raises(RequestError):
        PartitionRequest(collection=name, strategy=ARCHIVE, key="at", keep_months=1)
    with pytest.raises(RequestError):
        PartitionRequest(collection="events", strategy=RESTORE, source="x", into=name)
    with pytest.raises(RequestError):
        PartitionRequest(collection="events", strategy=BY_TIME, key="at", view=name)


@pytest.mark.parametrize("view", ["events", "events_2026_12", "events_2026_05_retired"])
def test_a_view_that_would_be_in_the_way_of_the_months_is_refused(view):
    with pytest.raises(RequestError):
        PartitionRequest(collection="events", strategy=BY_TIME, key="at", view=view)


def test_a_name_that_leaves_no_room_for_the_months_is_refused_before_anything_is_written(partitions):
    room = 255 - len(partitions.target.database) - 1
    name = "n" * (room - len("_2026_11_retired") + 1)
    partitions.db[name].insert_one({"at": OLD})

    with pytest.raises(PlanError):
        engine.insist_on_possible(partitions.plan(BY_TIME, collection=name))
    name = name[:-1]
    partitions.db[name].insert_one({"at": OLD})
    partitions.run(BY_TIME, run="run 2", collection=name, move=True, keep_months=0)
    assert [one.count for one in partitions.archives().values()] == [1]


def test_digits_of_other_scripts_name_no_month():
    year = "\uff12\uff10\uff12\uff16"
    assert month_in("events", f"events_{year}_11") is None
    assert Month.parse(f"{year}_11") is None


CHAOS = pytest.mark.chaos


@pytest.mark.parametrize(
    "name", ["a.b c/d?#%20", pytest.param("q*[x]", marks=CHAOS), pytest.param("ümlaut", marks=CHAOS)]
)
def test_odd_names_go_out_and_come_back(partitions, name, tmp_path):
    partitions.db[name].insert_many([{"_id": i, "at": OLD} for i in range(3)])
    partitions.run(BY_TIME, collection=name, move=True, keep_months=1)
    (noted,) = partitions.db[PARTITIONS].find({"state": "dropped"})
    archives = list(tmp_path.rglob("manifest.json"))
    assert len(archives) == 1
    assert archives[0].is_relative_to(tmp_path / "archive")
    (archived,) = partitions.db[PARTITIONS].find({"destination": {"$exists": True}})

    partitions.run(
        RESTORE, run="run 2", collection=name, key="", source=archived["destination"], folder=archived["destination"]
    )

    assert partitions.db[noted["collection"]].count_documents({}) == 3


# Dates and keys of every kind -------------------------------------------------------------------------------------------


def test_every_kind_of_date_and_key_is_somewhere_exactly_once(partitions):
    def at(number, millis):
        return {"_id": number, "at": bson.datetime_ms.DatetimeMS(millis)}

    border = datetime(2026, 10, 31, 23, 59, 59, 999000, tzinfo=UTC)
    some = [
        {"_id": None, "at": OLD}, {"_id": float("nan"), "at": OLD}, {"_id": {"a": [1]}, "at": OLD}, {"_id": b"x", "at": OLD},
        {"_id": True, "at": OLD}, {"_id": bson.ObjectId(), "at": OLD}, {"_id": bson.Timestamp(1, 1), "at": OLD}, {"_id": "", "at": OLD},
        {"_id": OLD, "at": OLD}, {"_id": bson.MinKey(), "at": OLD}, {"_id": bson.MaxKey(), "at": OLD}, {"_id": -0.0, "at": OLD},
        {"_id": bson.Code("x"), "at": OLD}, {"_id": bson.Binary(b"0" * 16, 3), "at": OLD}, {"_id": bson.Binary(b"0" * 16, 4), "at": OLD},
        at("far", 2**62), at("before", -(2**62)), at("y10k", 253402300800000), at("y0", -62135596800001), at("y1", -62135596800000),
        at("9999", 253402300799999), {"_id": "1900", "at": datetime(1900, 1, 1, tzinfo=UTC)},
        {"_id": "border", "at": border}, {"_id": "over", "at": border + timedelta(milliseconds=1)},
        {"_id": "ts", "at": bson.Timestamp(1, 1)}, {"_id": "s", "at": "2026-01-01"}, {"_id": "a", "at": [OLD, OLD]}, {"_id": "e", "at": []},
        {"_id": "n", "at": None}, {"_id": "m"}, {"_id": "o", "at": {"at": OLD}}, {"_id": "min", "at": bson.MinKey()},
    ]  # fmt: skip
    partitions.db.events.insert_many(some)
    before = partitions.everywhere()

    partitions.run(BY_TIME, move=True)

    assert partitions.everywhere() == before
    assert partitions.db.events_all.count_documents({}) == len(some)
    assert {one["_id"] for one in partitions.db.events_2026_10.find()} == {"border"}
    assert partitions.db.events_2026_08.count_documents({}) == 15
    assert partitions.db.events_1900_01.count_documents({}) == 1
    assert partitions.db.events_0001_01.count_documents({}) == 1
    partitions.run(BY_TIME, run="run 2", keep_months=0)
    assert partitions.everywhere() == before
    for noted in list(partitions.db[PARTITIONS].find({"destination": {"$exists": True}})):
        place = noted["destination"]
        partitions.run(RESTORE, run=f"back {place}", key="", source=place, folder=place)
    assert sum(partitions.db[name].count_documents({}) for name in partitions.names() if name != "events_all") == len(
        some
    )


@pytest.fixture
def roomy(partitions):
    """A server whose cache takes a transaction of such documents; the tests' has a quarter of a gigabyte."""
    admin = partitions.target.client.admin
    admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=1G"})
    yield partitions
    admin.command({"setParameter": 1, "wiredTigerEngineRuntimeConfig": "cache_size=256M"})


@pytest.mark.chaos
def test_documents_of_sixteen_megabytes_move_and_go_and_come_back(roomy):
    month = {"run": "run 2", "collection": "events_2026_08"}
    roomy.db.events.insert_many([{"_id": i, "at": OLD, "x": bytes(16 * 1024 * 1024 - 60)} for i in range(2)])
    before = roomy.content("events")

    assert roomy.run(BY_TIME, move=True)["move"] == {"moved": 2}
    assert roomy.content("events_2026_08") == before
    assert roomy.run(ARCHIVE, **month, keep_months=0)["remove"]["deleted"] == 2
    (noted,) = roomy.db[PARTITIONS].find({"state": "deleted"})
    roomy.run(RESTORE, **month, key="", source=noted["destination"], folder=noted["destination"])
    assert roomy.content("events_2026_08") == before


def test_a_view_and_an_empty_collection_and_none_at_all(partitions):
    partitions.db.create_collection("empty")
    partitions.db.command({"create": "shown", "viewOn": "empty", "pipeline": []})

    assert partitions.plan(ARCHIVE, collection="empty", keep_months=1).steps == ()
    assert partitions.plan(ARCHIVE, collection="none", keep_months=1).blockers
    assert partitions.plan(ARCHIVE, collection="shown", keep_months=1).blockers
    assert partitions.plan(BY_TIME, collection="shown").blockers
    partitions.run(BY_TIME, collection="empty", move=True, keep_months=1)
    partitions.run(BY_TIME, run="run 2", collection="none", move=True, keep_months=1)
    assert partitions.db.none_all.count_documents({}) == 0


def test_a_month_whose_name_is_taken_by_something_else_is_refused(filled):
    filled.db.command({"create": "events_2026_12", "viewOn": "events", "pipeline": []})
    filled.db.create_collection("events_2026_05", capped=True, size=4096)

    refused = filled.plan(BY_TIME, move=True).blockers

    assert [one.split(".")[0] for one in refused] == [
        "events_2026_05 is a capped and cannot be a month of events",
        "events_2026_12 is a view and cannot be a month of events",
    ]


def test_wrong_credentials_are_told_in_a_sentence(cli, monkeypatch, target):
    host, port = target.client.address
    uri = f"mongo://nobody:hunter2@{host}:{port}/?replicaSet=rs0"
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_HERE", uri)

    code, out, err = cli("plays", "--strategy", "by_time", "--key", "at")

    assert code in (1, 3)
    assert "Traceback" not in err
    assert "hunter2" not in out + err
    assert "mongo-ops partition: " in err


def test_a_source_that_is_no_archive_is_told_in_a_sentence(cli, tmp_path):
    for place in (tmp_path / "nowhere", "s3nope://x/y", ""):
        code, _, err = cli("plays", "--strategy", "restore", "--source", str(place))
        assert (code, err.count("\n")) == (3, 1)


def test_many_months_are_shown_by_year(partitions):
    born = [datetime(1900 + i // 12, 1 + i % 12, 5, tzinfo=UTC) for i in range(1200)]
    partitions.db.events.insert_many([{"at": one} for one in born])

    (shown,) = partitions.plan(ARCHIVE, keep_months=1).pictures

    assert shown.title == "Documents of events by year of at"
    assert shown.bars[0] == ("1900", 12)
    assert len(shown.bars) == 100


# The run and its plan -----------------------------------------------------------------------------------------------------


def test_a_plan_is_not_carried_out_to_another_place_than_it_names(filled, tmp_path):
    plan = filled.plan(ARCHIVE, keep_months=2)

    with pytest.raises(PlanError, match="destination"):
        filled.carry_out(plan, folder=(tmp_path / "elsewhere").as_uri())

    assert filled.db.events.count_documents({}) == 60
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_that_is_resumed_with_other_words_is_refused(cli, db, monkeypatch, tmp_path):
    db.plays.insert_many([{"_id": i, "at": OLD.replace(year=2025)} for i in range(5)])
    words = ("--strategy", "archive", "--key", "at", "--keep-months", "3")

    def fails(*_):
        raise AutoReconnect("secret")

    with monkeypatch.context() as patch:
        patch.setattr("mongo_ops.partitions.archiving.export", fails)
        code, _, err = cli("plays", *words)
    assert (code, "secret" in err) == (1, False)
    (kept,) = db[PARTITIONS].find({"plan": {"$exists": True}})
    run = kept["_id"].removeprefix("plan/")

    for wrong in (("songs", *words), ("plays", *words, "--destination", str(tmp_path / "elsewhere"))):
        code, _, err = cli(*wrong, "--resume", run)
        assert (code, "make a new plan" in err) == (3, True)
    assert db.plays.count_documents({}) == 5
    assert cli("plays", *words, "--resume", run)[0] == 0
    assert db.plays.count_documents({}) == 0


# Storage ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files():
    """A file system that takes no file of more than 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_store_that_is_full_is_told_and_nothing_is_deleted(filled, request):
    filled.db.events.insert_one({"_id": "large", "at": OLD, "n": 800, "x": os.urandom(200_000)})
    plan, before = filled.plan(ARCHIVE, keep_months=2), filled.everywhere()
    request.getfixturevalue("small_files")

    with pytest.raises(MongoOpsError, match="could not be"):
        filled.carry_out(plan)

    assert filled.everywhere() == before


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 9'),
        lambda text: text.replace("events", "audit_log"),
    ],
)
def test_a_hostile_manifest_restores_nothing(filled, harm):
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    path = Path(open_folder(noted["destination"]).path) / "manifest.json"
    path.write_text(harm(path.read_text()))

    with pytest.raises(MongoOpsError):
        filled.plan(RESTORE, run="run 2", key="", source=noted["destination"], folder=noted["destination"])


def test_a_sealed_manifest_that_names_the_projects_own_collections_restores_nothing(filled):
    from mongo_ops.transfer import manifest

    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    folder = open_folder(noted["destination"])
    path = Path(folder.path) / "manifest.json"
    told = json.loads(path.read_text())
    told.pop("manifest_sha256")
    for name in ("ops_legal_holds", "audit_log", "system.users"):
        told["collections"][0]["name"] = name
        manifest.replace(folder, manifest.sealed(told))
        with pytest.raises(PlanError):
            filled.plan(RESTORE, run="run 2", key="", source=noted["destination"], folder=noted["destination"])


# Writers -------------------------------------------------------------------------------------------------------------------


def test_writers_of_the_source_lose_nothing_acknowledged_while_it_is_moved_and_archived(partitions, monkeypatch):
    monkeypatch.setattr("mongo_ops.mongo.batches.FIRST_SIZE", 20)
    db = partitions.db
    db.events.insert_many([{"_id": i, "at": OLD + timedelta(minutes=i), "v": 0} for i in range(600)])
    alive, over, ready = dict.fromkeys(range(600), 0), threading.Event(), threading.Event()

    def write():
        number = 0
        while not over.is_set():
            number += 1
            key = (number * 7) % 600
            if number % 5 == 0 and db.events.delete_one({"_id": key}).deleted_count:
                alive.pop(key)
            elif db.events.update_one({"_id": key}, {"$set": {"v": number}}).matched_count:
                alive[key] = number
            db.events.insert_one({"_id": f"w{number}", "at": OLD, "v": number})
            alive[f"w{number}"] = number
            if number == 20:
                ready.set()

    thread = threading.Thread(target=write)
    thread.start()
    ready.wait()
    try:
        with pytest.raises(MoveIncompleteError):
            partitions.run(BY_TIME, move=True)
    finally:
        over.set()
        thread.join()
    partitions.run(BY_TIME, run="run 2", move=True)
    partitions.run(ARCHIVE, run="run 3", collection="events_2026_08", keep_months=0)
    (noted,) = db[PARTITIONS].find({"state": "deleted"})
    partitions.run(
        RESTORE,
        run="run 4",
        collection="events_2026_08",
        key="",
        source=noted["destination"],
        folder=noted["destination"],
    )

    assert {one["_id"]: one["v"] for one in db.events_all.find()} == alive
