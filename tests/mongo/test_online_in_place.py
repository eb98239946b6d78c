"""The in-place mode: documents change where they are, under old writers that go on."""

from __future__ import annotations

import threading
import time

import pytest
from pymongo import MongoClient
from tests.mongo.online_project import SECONDS, Project, spec

from mongo_ops import audit
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.online import backfill
from mongo_ops.online.errors import (
    ChecksumChangedError,
    DifferencesError,
    NotApprovedError,
    SpecError,
    WrongPhaseError,
)
from mongo_ops.online.model import Phase

STALE = {"$expr": {"$ne": ["$seconds", {"$divide": ["$ms", 1000]}]}}
BY_FUNCTION = {"transform": 'lambda d: {**d, "seconds": d["ms"] / 1000}', "fields": '("seconds",)'}


@pytest.fixture
def project(target, tmp_path):
    return Project(target, tmp_path / "include")


@pytest.mark.parametrize("words", [SECONDS, BY_FUNCTION], ids=["pipeline", "function"])
def test_the_replay_passes_over_its_own_writes_and_over_nobody_elses(project, db, words):
    db.tracks.insert_many([{"_id": n, "ms": n * 1000} for n in range(800)])
    project.write("001_seconds", spec(**words))
    engine = project.engine("001")
    engine.start()
    assert engine.advance(Phase.BACKFILL, budget=20).done
    with project.target.client.start_session() as session, session.start_transaction():  # of the same client
        db.tracks.update_many({"_id": {"$lt": 30}}, {"$set": {"ms": 5500}}, session=session)
    db.tracks.update_one({"_id": 40}, {"$set": {"ms": 5500}})

    assert engine.advance(Phase.CATCH_UP).progress == {"changes": 31}
    assert db.tracks.count_documents({"seconds": 5.5}) == 31
    assert db.tracks.count_documents(STALE) == 0

    db.tracks.update_one({"_id": 50}, {"$set": {"ms": 5000}})
    project.to_phase(project.engine("001"), Phase.READY)  # another process knows of none of them
    assert db.tracks.count_documents(STALE) == 0


def test_documents_that_are_written_all_the_time_do_not_hold_it_up(project, db, replica_set):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(400)])
    project.write("001_seconds", spec(**SECONDS))
    stop = threading.Event()

    def heat(key):
        with MongoClient(replica_set.uri) as client:
            while not stop.is_set():
                client[db.name].tracks.update_one({"_id": key}, {"$inc": {"ms": 1}})

    threads = [threading.Thread(target=heat, args=(key,), daemon=True) for key in (10, 200, 390)]
    for thread in threads:
        thread.start()
    try:
        began = time.monotonic()
        engine = project.to_ready("001")
        assert time.monotonic() - began < 30
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    engine.advance(budget=5)
    assert db.tracks.count_documents(STALE) == 0


def test_contract_demands_the_new_shape_and_drops_the_old_field(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n * 1000} for n in range(700)])
    strict = '{"$jsonSchema": {"required": ["seconds"]}}'
    contract = f'Contract(validator={strict}, drop=("ms",))'
    project.write("001_seconds", spec(**SECONDS, contract=contract, views='Views(new="tracks_v2")'))
    engine = project.to_ready("001")
    assert db["tracks_v2"].find_one({"_id": 7}) == {"_id": 7, "ms": 7000, "seconds": 7.0}
    with pytest.raises(NotApprovedError, match="not the last clean one"):
        engine.contract("another digest")

    assert engine.contract(engine.verification().digest).next is Phase.DONE

    assert list(db.tracks.find({}, sort=[("_id", 1)])) == [{"_id": n, "seconds": float(n)} for n in range(700)]
    with pytest.raises(Exception, match="failed validation"):
        db.tracks.insert_one({"ms": 5})
    assert db["tracks_v2"].find_one({"_id": 7}) == {"_id": 7, "seconds": 7.0}
    assert engine.contract().done  # a retry
    assert [row["event"] for row in db["ops_history"].find({"migration": "online/001_seconds"}, sort=[("_id", 1)])] == [
        "started", "filled", "caught_up", "verified", "ready", "contracting", "done",
    ]  # fmt: skip
    assert db["ops_checkpoints"].count_documents({}) == 0
    assert audit.verify(db).ok
    with pytest.raises(SpecError, match="is done on this database"):
        engine.start()


def test_the_loose_validator_stands_meanwhile_and_an_abort_takes_all_back(project, db):
    before = {"$jsonSchema": {"required": ["ms"]}}
    db.create_collection("tracks", validator=before)
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(500)])
    loose = '{"$jsonSchema": {"properties": {"seconds": {"bsonType": "double"}}}}'
    project.write(
        "001_seconds",
        spec(**SECONDS, validator=loose, views='Views(new="v2", old="v1")', inverse='[{"$unset": "seconds"}]'),
    )
    engine = project.to_ready("001")
    assert db["v1"].find_one({"_id": 3}) == {"_id": 3, "ms": 3, "seconds": 0.003}
    db.tracks.insert_one({"_id": 600})  # the loose validator lets it in
    db.tracks.delete_one({"_id": 600})

    assert engine.abort("a test").next is Phase.ABORTED

    options = next(iter(db.list_collections(filter={"name": "tracks"})))["options"]
    assert (options["validator"], options["validationLevel"]) == (before, "strict")
    assert list(db.tracks.find({}, sort=[("_id", 1)])) == [{"_id": n, "ms": n} for n in range(500)]
    assert [name for name in db.list_collection_names() if name.startswith("v")] == []
    assert engine.abort("again").done
    project.to_ready("001")  # and it may begin anew
    assert project.state("001_seconds")["attempt"] == 2


def test_a_transform_that_fails_says_where_and_not_with_what(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n * 1000} for n in range(300)])
    project.write("001_seconds", spec(**BY_FUNCTION, contract='Contract(drop=("ms",))'))
    engine = project.to_ready("001")
    db.tracks.insert_one({"_id": 900, "title": "a name"})

    with pytest.raises(
        MigrationRefusedError, match=r"The transform: KeyError at 001_seconds.py:\d+ \(its text is withheld"
    ):
        engine.contract()
    assert project.state("001_seconds")["phase"] == "ready"
    db.tracks.update_one({"_id": 900}, {"$set": {"ms": 900_000}})
    assert engine.contract().next is Phase.DONE
    assert db.tracks.find_one({"_id": 900}) == {"_id": 900, "title": "a name", "seconds": 900.0}
    assert "a name" not in str(list(db["ops_online"].find())) + str(list(db["ops_history"].find()))


def test_what_speaks_against_a_start_is_said_before_anything_is_written(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(50)])
    project.write("001_adds", spec(transform='[{"$set": {"ms": {"$add": ["$ms", 1]}}}]', fields='("ms",)'))
    project.write("002_other", spec("nowhere", **SECONDS))
    project.write("003_seconds", spec(**SECONDS))
    project.write("004_seconds", spec(**SECONDS))

    assert "is not idempotent" in project.engine("001").plan().stops[0]
    with pytest.raises(SpecError, match="nowhere is not there"):
        project.engine("002").start()
    assert "ops_online" not in db.list_collection_names()

    project.to_ready("003")
    with pytest.raises(SpecError, match="003_seconds is under way on tracks"):
        project.engine("004").start()
    with pytest.raises(WrongPhaseError, match="is in ready"):
        project.engine("003").rollback()


def test_an_edited_spec_stops_everything_but_the_abort(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(50)])
    project.write("001_seconds", spec(**SECONDS))
    project.to_ready("001")
    other = {"transform": '[{"$set": {"s": "$ms"}}]', "fields": '("s",)'}
    project.write("001_seconds", spec(**other))
    engine = project.engine("001")

    assert "another checksum" in engine.plan().stops[0]
    with pytest.raises(ChecksumChangedError, match="was edited"):
        engine.advance()
    project.write("001_seconds", spec("albums", **other))
    with pytest.raises(ChecksumChangedError):
        project.engine("001").abort("a test")
    assert engine.abort("a test").next is Phase.ABORTED
    assert db.tracks.count_documents({"seconds": {"$exists": True}}) == 0  # what the edited spec does not name


def test_parts_of_a_backfill_are_worked_on_one_by_one_and_the_replay_waits_for_all(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(900)] + [{"_id": f"k{n}", "ms": n} for n in range(300)])
    project.write("001_seconds", spec(**SECONDS))
    engine = project.engine("001")
    engine.start(parts=3)
    assert engine.parts() == 3
    first = engine.advance(Phase.BACKFILL, budget=20, part=1)
    assert (first.done, first.next) == (True, Phase.BACKFILL)
    assert 0 < db.tracks.count_documents({"seconds": {"$exists": True}}) < 1200
    assert "2 parts" in engine.advance(Phase.CATCH_UP).waiting
    for part in (0, 2):
        assert engine.advance(Phase.BACKFILL, budget=20, part=part).done
    assert engine.advance(Phase.CATCH_UP).done
    assert db.tracks.count_documents({"seconds": {"$exists": True}}) == 1200
    assert engine.advance(Phase.BACKFILL, part=2).done  # long past


def test_differences_are_named_and_the_next_verification_is_a_new_one(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n * 1000} for n in range(300)])
    project.write("001_same", spec(mode='"ghost"', transform='[{"$set": {"v": 2}}]', inverse='[{"$unset": "v"}]'))
    engine = project.engine("001")
    project.to_phase(engine, Phase.VERIFY)
    db["ops_ghost_tracks"].update_one({"_id": 17}, {"$set": {"ms": 17000.0}})  # an int became a double
    with pytest.raises(DifferencesError) as failure:
        for _ in range(3):
            engine.advance()
    assert (failure.value.ids, failure.value.count) == (("17",), 1)
    found = engine.verification()
    assert (found.clean, found.number, found.documents) == (False, 1, 300)
    with pytest.raises(WrongPhaseError):
        engine.cut_over(found.digest)
    db["ops_ghost_tracks"].update_one({"_id": 17}, {"$set": {"ms": 17000}})
    assert engine.advance(budget=5).next is Phase.READY
    assert (engine.verification().clean, engine.verification().number) == (True, 2)
    assert engine.verification().digest != found.digest


def test_chunks_of_large_documents_hold_few_of_them(project, db, monkeypatch):
    db.tracks.insert_many([{"_id": n, "ms": n, "text": "x" * 500_000} for n in range(60)])
    project.write("001_seconds", spec(**SECONDS))
    sizes, real = [], backfill.replay.commit

    def commit(work, apply, save, *, divisible):
        counts = real(work, apply, save, divisible=divisible)
        sizes.append(counts.matched)
        return counts

    monkeypatch.setattr(backfill.replay, "commit", commit)
    engine = project.engine("001")
    engine.start()
    engine.advance(budget=30)
    assert 0 < max(sizes) <= 17  # 8 MiB
    assert db.tracks.count_documents(STALE) == 0
