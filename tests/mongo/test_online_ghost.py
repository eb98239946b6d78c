"""The ghost mode: a second collection is filled, kept in step, verified and swapped in; and back again without losing a write."""

from __future__ import annotations

import pytest
from bson import Decimal128, Int64, ObjectId
from tests.mongo.online_project import GHOST, Project, spec

from mongo_ops import audit
from mongo_ops.online import fence, gate, stream
from mongo_ops.online.errors import (
    CollisionError,
    DifferencesError,
    NoFenceError,
    NotApprovedError,
    SourceChangedError,
    TokenExpiredError,
    WindowOpenError,
    WrongPhaseError,
)
from mongo_ops.online.model import FenceKind, Phase

VERSION = {"mode": '"ghost"', "transform": '[{"$set": {"v": 2}}]', "inverse": '[{"$unset": "v"}]'}
IDENTITY = {"mode": '"ghost"'}
NEW_IDS = {
    "mode": '"ghost"',
    "changes_id": "True",
    "transform": '[{"$set": {"_id": {"$concat": ["k", {"$toString": "$_id"}]}}}]',
    "inverse": '[{"$set": {"_id": {"$toInt": {"$substrCP": ["$_id", 1, 20]}}}}]',
}
NEW_IDS_BY_FUNCTION = {
    "mode": '"ghost"',
    "changes_id": "True",
    "transform": 'lambda d: {**d, "_id": f"k{d[\'_id\']}"}',
    "inverse": 'lambda d: {**d, "_id": int(d["_id"][1:])}',
}


@pytest.fixture
def project(target, tmp_path):
    return Project(target, tmp_path / "include")


def test_how_long_writes_were_refused_is_measured_and_audited(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(50)])
    project.write("001_version", spec(**VERSION))
    engine = project.to_ready("001")
    took = {"cut_over": project.cut_over(engine), "rolled_back": engine.rollback()}

    for event, result in took.items():
        assert result.fence is FenceKind.VIEW
        assert 0 < result.refused_ms < 5000
        assert result.reads_gap_ms == 0
        assert db["audit_log"].find_one({"action": f"online.{event}"})["details"]["refused_ms"] == result.refused_ms
        assert db["ops_history"].find_one({"event": event})["drained"] == 0
    assert audit.verify(db).ok


def test_the_target_has_options_indexes_and_another_collation(project, db):
    db.create_collection("tracks", validator={"ms": {"$gte": 0}}, validationLevel="moderate")
    db.tracks.create_index("title", unique=True, name="titles")
    db.tracks.create_index("at", expireAfterSeconds=3600, name="expires")
    db.tracks.insert_many([{"_id": ObjectId(), "ms": n, "title": f"T{n}"} for n in range(200)])
    project.write("001_case", spec(**IDENTITY, target='TargetOptions(collation={"locale": "en", "strength": 1})'))
    engine = project.to_ready("001")
    assert db["ops_ghost_tracks"].index_information()["expires"]["expireAfterSeconds"] == 2147483647
    project.cut_over(engine)

    assert db.tracks.find_one({"title": "t17"})["ms"] == 17
    indexes = db.tracks.index_information()
    assert indexes["titles"]["collation"]["strength"] == 1
    assert indexes["expires"]["expireAfterSeconds"] == 3600
    assert db["ops_old_tracks"].index_information()["expires"]["expireAfterSeconds"] == 2147483647
    options = next(iter(db.list_collections(filter={"name": "tracks"})))["options"]
    assert (options["validator"], options["validationLevel"]) == ({"ms": {"$gte": 0}}, "moderate")
    with pytest.raises(WindowOpenError, match="window is open until"):
        engine.contract()
    assert engine.contract(early=True).next is Phase.DONE
    assert "ops_old_tracks" not in db.list_collection_names()
    with pytest.raises(WrongPhaseError, match="is in done"):
        engine.rollback()


def test_keys_that_are_equal_in_the_new_collation_collide_and_are_said_so(project, db):
    db.tracks.insert_many([{"_id": "a", "n": 1}, {"_id": "A", "n": 2}, {"_id": "b", "n": 3}])
    project.write("001_case", spec(**IDENTITY, target='TargetOptions(collation={"locale": "en", "strength": 1})'))
    engine = project.engine("001")
    engine.start()
    with pytest.raises(CollisionError, match="want the same place"):
        engine.advance()
    engine.abort("a test")
    assert db.tracks.count_documents({}) == 3


@pytest.mark.parametrize("words", [NEW_IDS, NEW_IDS_BY_FUNCTION], ids=["pipeline", "function"])
def test_documents_get_another_id_and_get_the_old_one_back(project, db, words):
    db.tracks.insert_many([{"_id": n, "n": n} for n in range(300)])
    project.write("001_ids", spec(**words))
    engine = project.to_ready("001")
    db.tracks.insert_one({"_id": 900, "n": 900})
    db.tracks.delete_one({"_id": 5})
    db.tracks.replace_one({"_id": 6}, {"n": -6})
    engine.advance(budget=2)
    project.cut_over(engine)
    assert {row["_id"]: row["n"] for row in db.tracks.find()} == {f"k{n}": n for n in range(300) if n not in (5, 6)} | {
        "k6": -6,
        "k900": 900,
    }
    db.tracks.insert_one({"_id": "k901", "n": 901})
    db.tracks.delete_one({"_id": "k7"})
    engine.rollback()
    expected = {n: n for n in [*range(300), 900, 901] if n not in (5, 6, 7)} | {6: -6}
    assert {row["_id"]: row["n"] for row in db.tracks.find()} == expected
    assert [name for name in db.list_collection_names() if name.startswith(("ops_ids", "ops_old", "ops_ghost"))] == []


def test_a_unique_value_that_wanders_from_one_document_to_another_stops_nothing(project, db):
    db.tracks.create_index("code", unique=True)
    db.tracks.insert_many([{"_id": n, "code": n} for n in range(600)])
    project.write("001_version", spec(**VERSION))
    engine = project.engine("001")
    engine.start()
    engine.advance(budget=0.01)  # some chunks are copied
    for n in range(100):  # each code goes to a document at the other end
        db.tracks.update_one({"_id": n}, {"$set": {"code": -1}})
        db.tracks.update_one({"_id": 599 - n}, {"$set": {"code": n}})
        db.tracks.update_one({"_id": n}, {"$set": {"code": 599 - n}})
    project.to_phase(engine, Phase.READY)
    assert {row["_id"]: row["code"] for row in db["ops_ghost_tracks"].find()} == {
        n: 599 - n if n < 100 or n > 499 else n for n in range(600)
    }


SPOILED = [
    (Int64(7), 7), (7, 7.0), (Int64(7), 7.0), (7.0, Int64(7)), (Decimal128("7"), Decimal128("7.0")), ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ([{"x": [Int64(7)]}], [{"x": [7.0]}]), (0.0, -0.0), (True, 1), (None, ...), (..., None),
]  # fmt: skip
"""What is right and what somebody makes of it: equal for queries, mostly, and of equal size, often."""


def test_spoiled_copies_are_found_behind_the_fence_and_named(project, db):
    def field(value):
        return {} if value is ... else {"v": value}

    db.tracks.insert_many([{"_id": 100 + n, **field(good)} for n, (good, _) in enumerate(SPOILED)])
    db.tracks.insert_many([{"_id": n, "v": n} for n in range(40)])
    project.write("001_same", spec(**IDENTITY))
    engine = project.to_ready("001")
    for n, (_, bad) in enumerate(SPOILED):
        db["ops_ghost_tracks"].replace_one({"_id": 100 + n}, field(bad))
    assert db["ops_ghost_tracks"].count_documents({}) == db.tracks.count_documents({})

    with pytest.raises(DifferencesError) as failure:
        project.cut_over(engine)

    assert sorted(failure.value.ids) == [str(100 + n) for n in range(len(SPOILED))]
    db.tracks.insert_one({"_id": 900})  # nobody is refused
    assert db.tracks.find_one({"_id": 101}) == {"_id": 101, "v": 7}
    assert project.state("001_same")["phase"] == "ready"
    with pytest.raises(DifferencesError):
        engine.advance(budget=2)
    assert project.state("001_same")["phase"] == "verify"


def test_extra_missing_and_exchanged_documents_are_named_without_personal_keys(project, db):
    keys = ["anna@example.org", ObjectId(), 5, Int64(6)]
    db.tracks.insert_many([{"_id": key, "n": 1} for key in keys])
    project.write("001_same", spec(**IDENTITY))
    engine = project.engine("001")
    project.to_phase(engine, Phase.VERIFY)
    db["ops_ghost_tracks"].delete_one({"_id": keys[0]})
    db["ops_ghost_tracks"].insert_one({"_id": "rogue", "n": 1})
    db["ops_ghost_tracks"].update_one({"_id": keys[1]}, {"$set": {"n": 2}})

    with pytest.raises(DifferencesError) as failure:
        engine.advance(budget=5)

    assert failure.value.count == 3
    assert str(keys[1]) in failure.value.ids
    assert "anna" not in str(failure.value) + str(project.state("001_same")) + "".join(project.lines)
    assert sum(one.startswith("_id with digest ") for one in failure.value.ids) == 2


def test_a_copy_that_is_spoiled_after_the_cut_over_refuses_the_rollback(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(100)])
    project.write("001_version", spec(**VERSION))
    engine = project.to_ready("001")
    project.cut_over(engine)
    db["ops_old_tracks"].update_one({"_id": 4}, {"$set": {"ms": 5}})
    with pytest.raises(DifferencesError, match="4"):
        engine.rollback()
    assert db.tracks.find_one({"_id": 4}) == {"_id": 4, "ms": 4, "v": 2}
    db.tracks.insert_one({"_id": 500})


def test_what_is_approved_must_be_the_last_clean_verification(project, db):
    db.tracks.insert_many([{"_id": n} for n in range(10)])
    project.write("001_version", spec(**VERSION))
    engine = project.engine("001")
    engine.start()
    with pytest.raises(WrongPhaseError, match="is in backfill"):
        engine.cut_over("x")
    project.to_phase(engine, Phase.READY)
    with pytest.raises(NotApprovedError):
        engine.cut_over("x")
    db.tracks.create_index("late")
    with pytest.raises(SourceChangedError, match="options or indexes"):
        project.cut_over(engine)
    db.tracks.drop_index("late_1")
    engine.pause()
    with pytest.raises(WrongPhaseError, match="not now: paused"):
        project.cut_over(engine)
    engine.resume()
    assert project.cut_over(engine).drained == 0


def test_somebody_drops_the_source_and_the_migration_stops(project, db):
    db.tracks.insert_many([{"_id": n} for n in range(10)])
    project.write("001_version", spec(**VERSION))
    engine = project.to_ready("001")
    db.drop_collection("tracks")
    db.tracks.insert_one({"_id": 1})
    with pytest.raises(SourceChangedError, match="made anew by somebody else"):
        engine.advance(budget=2)
    engine.abort("a test")
    assert db.tracks.count_documents({}) == 1


def test_a_lost_place_in_the_oplog_stops_with_a_sentence(project, db, monkeypatch):
    db.tracks.insert_many([{"_id": n} for n in range(10)])
    project.write("001_version", spec(**VERSION))
    engine = project.to_ready("001")
    point = {
        "mode": {"times": 1},
        "data": {"failCommands": ["aggregate"], "errorCode": 286, "errorLabels": ["NonResumableChangeStreamError"]},
    }
    reached, real = [], stream.Stream._open

    def opened(self):
        if not reached:
            reached.append(True)
            project.target.client.admin.command({"configureFailPoint": "failCommand", **point})
        return real(self)

    monkeypatch.setattr(stream.Stream, "_open", opened)
    with pytest.raises(TokenExpiredError, match="Nothing was skipped"):
        engine.advance(budget=2)
    assert engine.abort("a test").next is Phase.ABORTED


def test_a_capped_collection_becomes_an_ordinary_one(project, db):
    db.create_collection("tracks", capped=True, size=1_000_000)
    db.tracks.insert_many([{"_id": n, "n": n} for n in range(300)])
    project.write("001_uncapped", spec(**IDENTITY))
    engine = project.to_ready("001")
    db.tracks.insert_one({"_id": 900, "n": 900})
    project.cut_over(engine)
    assert not next(iter(db.list_collections(filter={"name": "tracks"})))["options"].get("capped")
    assert db.tracks.count_documents({}) == 301
    db.tracks.delete_one({"_id": 900})  # which a capped collection had refused


def test_views_show_both_shapes_at_every_moment(project, db):
    db.tracks.insert_many([{"_id": n, "ms": n * 1000} for n in range(50)])
    project.write("001_seconds", spec(**GHOST, views='Views(old="tracks_v1", new="tracks_v2")'))
    engine = project.to_ready("001")
    shapes = {"tracks_v1": {"_id": 3, "ms": 3000}, "tracks_v2": {"_id": 3, "seconds": 3.0}}

    def shown():
        return {name: db[name].find_one({"_id": 3}) for name in shapes}

    assert shown() == shapes
    project.cut_over(engine)
    assert shown() == shapes
    engine.contract(early=True)
    assert shown() == {"tracks_v1": None, "tracks_v2": shapes["tracks_v2"]}


def test_the_gate_refuses_those_who_ask_it(project, db, monkeypatch):
    db.tracks.insert_many([{"_id": n, "ms": n} for n in range(50)])
    project.write("001_version", spec(**VERSION, fence='Fence(kind="gate", settle_seconds=0)'))
    engine = project.to_ready("001")
    refused, real = [], fence.close

    def close(work, kind):
        real(work, kind)
        with pytest.raises(gate.GateClosedError):
            gate.insist_open(db, "tracks")
        refused.append(kind)

    monkeypatch.setattr(fence, "close", close)
    assert project.cut_over(engine).fence is FenceKind.GATE
    assert refused == [FenceKind.GATE]
    gate.insist_open(db, "tracks")


def test_without_any_fence_nothing_begins(project, db):
    db.tracks.insert_many([{"_id": n} for n in range(5)])
    project.write("001_version", spec(**VERSION, fence='Fence(kind="user_write_block")'))
    assert "needs log-ins" in project.engine("001").plan().stops[0]
    with pytest.raises(NoFenceError):
        fence.preflight(db, project.engine("001").file.migration).insist()
