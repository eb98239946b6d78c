"""The control document, load, pause and leases: a run does at every chunk what it is told, and says why it waits."""

from __future__ import annotations

import threading

import pytest
from bson import Timestamp
from pymongo import MongoClient
from tests.mongo.online_project import SECONDS, Project, spec
from tests.mongo.runner import slow, until

from mongo_ops.mongo.lease import Holder, LeaseHeldError, acquire
from mongo_ops.online import pace
from mongo_ops.online.errors import CriticalLoadError, NotStartedError, PausedTooLongError
from mongo_ops.online.model import Phase
from mongo_ops.online.pace import ControlError


@pytest.fixture
def project(target, tmp_path):
    made = Project(target, tmp_path / "include")
    made.db.tracks.insert_many([{"_id": n, "ms": n} for n in range(3000)])
    made.write("001_seconds", spec(**SECONDS, limits="Limits(nice=0.0, chunk=20)"))
    return made


def done(db):
    return db.tracks.count_documents({"seconds": {"$exists": True}})


def test_a_pause_takes_effect_at_the_next_chunk_of_a_running_slice(project, db):
    engine = project.engine("001")
    engine.start()
    result = []
    slice_ = threading.Thread(target=lambda: result.append(engine.advance(budget=60)))
    slice_.start()
    until(lambda: done(db) > 100, "some chunks")
    project.engine("001", owner="somebody").pause()
    slice_.join(30)

    assert "paused" in result[0].waiting
    assert 100 < done(db) < 3000
    at = done(db)
    assert engine.advance(budget=1).waiting == result[0].waiting
    assert done(db) == at
    engine.resume()
    project.to_phase(engine, Phase.READY)
    assert done(db) == 3000


def test_an_abort_by_the_control_document_ends_the_migration(project, db):
    engine = project.engine("001")
    engine.start()
    engine.advance(budget=0.01)
    engine.control(command="abort")
    for _ in range(3):
        engine.advance(budget=20)
    assert project.state("001_seconds")["phase"] == "aborted"
    assert done(db) == 0


def test_load_holds_back_then_lets_go_then_gives_up(project, db, replica_set):
    engine = project.engine("001")
    engine.start()
    now = project.target.client.admin.command("serverStatus")["connections"]["current"]
    engine.control(max_load={"connections": now + 15}, critical_load={"connections": now + 60})
    clients = [MongoClient(replica_set.uri, minPoolSize=1) for _ in range(12)]  # each has two or more connections
    try:
        for client in clients:
            client.admin.command("ping")
        until(
            lambda: project.target.client.admin.command("serverStatus")["connections"]["current"] > now + 15, "a spike"
        )
        result = engine.advance(budget=1)
        assert "connections (limit" in result.waiting
        assert done(db) == 0
    finally:
        for client in clients:
            client.close()
    until(lambda: engine.advance(budget=0.05).waiting is None, "the spike to pass")
    assert done(db) > 0
    engine.control(critical_load={"connections": 1})
    with pytest.raises(CriticalLoadError, match="gave itself up: .* connections"):
        engine.advance(budget=1)
    assert project.state("001_seconds")["phase"] == "aborting"
    engine.control(critical_load={})
    assert engine.abort().next is Phase.ABORTED
    assert done(db) == 0


def test_a_wrong_setting_is_refused_and_nothing_changes(project):
    engine = project.engine("001")
    engine.start()
    before = engine.status()["control"]
    wrong = [{"nice": -1}, {"nice": "x"}, {"chunk": 0}, {"max_load": {"weather": 1}}, {"command": "stop"}, {"speed": 1}]
    for settings in (*wrong, {"max_lag": float("nan")}):
        with pytest.raises(ControlError):
            engine.control(**settings)
    assert engine.status()["control"] == before


def test_nothing_is_steered_that_was_not_started(project):
    for act in (lambda one: one.pause(), lambda one: one.advance(), lambda one: one.abort(), lambda one: one.status()):
        with pytest.raises(NotStartedError, match="was not started"):
            act(project.engine("001"))


def test_of_two_runs_one_refuses_until_the_other_gives_the_lease_back(project, db):
    first = project.engine("001", keep_lease=True)
    first.start()
    with pytest.raises(LeaseHeldError, match="online:tracks is held by tester"):
        project.engine("001", owner="another").advance()
    assert first.release()
    assert project.engine("001", owner="another").advance(budget=20).done


def test_a_zombie_changes_nothing(project, db, monkeypatch):
    project.target = slow(project.target, lease_ttl=30.0)
    engine = project.engine("001")
    engine.start()
    taken = []

    def look(self):
        if not taken and done(db) >= 40:  # another process of the same run takes over
            taken.append(acquire(db, "online:tracks", Holder("tester")))

    monkeypatch.setattr(pace.Pace, "look", look)
    with pytest.raises(Exception, match="no longer ours"):
        engine.advance(budget=30)
    assert done(db) == 40
    taken[0].release()


def test_a_pause_that_would_outlive_the_oplog_is_refused(project, monkeypatch):
    engine = project.engine("001")
    engine.start()
    engine.pause()
    at = project.state("001_seconds")["token_at"].time
    monkeypatch.setattr(pace, "oplog", lambda work: (Timestamp(at - 10, 1), Timestamp(at + 990, 1), 0.95))
    with pytest.raises(PausedTooLongError, match="95 % full"):
        engine.advance()
    monkeypatch.undo()
    assert "paused" in engine.advance().waiting
