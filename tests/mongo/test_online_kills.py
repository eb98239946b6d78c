"""Online migrations that are killed at a boundary: the same call again goes on, and the result is as if nothing had happened.

The chaos suite kills processes at every boundary; here are those where most can go wrong.
"""

from __future__ import annotations

import pytest
from tests.mongo.online_project import GHOST, SECONDS, Project, spec
from tests.mongo.runner import slow, until

from mongo_ops import audit
from mongo_ops.mongo.lease import LeaseHeldError, LeaseLostError
from mongo_ops.online import exchange, steps
from mongo_ops.online.model import Phase

pytestmark = pytest.mark.chaos
COUNT = 900
WAY = [("ghost", one) for one in ("start.token", "start.target", "backfill.chunk", "replay.batch", "verify.range")]
WAY += [("in_place", one) for one in ("start.recorded", "backfill.chunk")]


class Killed(BaseException):
    """What ends the work at a boundary, as kill -9 would: nothing of ours runs afterwards."""


@pytest.fixture
def project(target, tmp_path):
    made = Project(target, tmp_path / "include")
    made.db.tracks.insert_many([{"_id": n, "ms": n * 500} for n in range(COUNT)])
    made.db.tracks.create_index("ms")
    return made


@pytest.fixture
def kill_at(monkeypatch):
    """Kill the work when it has reached a step for the given time; what would tidy up afterwards does not run."""
    real, dead = exchange.recover, []

    def arm(step: str, times: int = 1) -> None:
        assert step in steps.STEPS
        left = [times]

        def reached(name: str) -> None:
            if name == step:
                left[0] -= 1
                if left[0] == 0:
                    dead.append(step)
                    raise Killed(step)

        monkeypatch.setattr(steps, "reached", reached)
        monkeypatch.setattr(exchange, "recover", lambda work: None if dead else real(work))

    def disarm() -> None:
        dead.clear()
        monkeypatch.setattr(steps, "reached", lambda name: None)
        monkeypatch.setattr(exchange, "recover", real)

    arm.disarm = disarm
    return arm


def documents(db, collection="tracks"):
    return {row["_id"]: row for row in db[collection].find()}


def write_a_little(db, field, value):
    """An insert, an update and a delete of a foreground writer."""
    db.tracks.insert_one({"_id": 5000, field: value})
    db.tracks.update_one({"_id": 7}, {"$set": {field: value}})
    db.tracks.delete_one({"_id": 8})


@pytest.mark.parametrize(("mode", "step"), WAY)
def test_killed_on_the_way_to_ready(project, db, kill_at, mode, step):
    project.write("001_seconds", spec(**(GHOST if mode == "ghost" else SECONDS)))
    engine = project.engine("001")
    kill_at(step)
    with pytest.raises(Killed):
        project.to_phase(engine, Phase.READY)
    kill_at.disarm()
    write_a_little(db, "ms", 4000)

    if step == "start.token":
        assert project.state("001_seconds") is None  # nothing but a stream was opened
    project.to_phase(project.engine("001", owner="another"), Phase.READY)

    expected = {n: n * 500 for n in range(COUNT)} | {5000: 4000, 7: 4000}
    del expected[8]
    found = documents(db, "ops_ghost_tracks" if mode == "ghost" else "tracks")
    assert {key: row["seconds"] for key, row in found.items()} == {key: ms / 1000 for key, ms in expected.items()}
    assert {key: row["ms"] for key, row in documents(db).items()} == expected
    assert audit.verify(db).ok


@pytest.mark.parametrize("step", ["recorded", "fenced", "verified", "swapped"])
def test_killed_during_the_cut_over(project, db, kill_at, step):
    project.write("001_seconds", spec(**GHOST))
    engine = project.to_ready("001")
    before, approved = documents(db), engine.verification().digest
    kill_at(f"cut_over.{step}")
    with pytest.raises(Killed):
        engine.cut_over(approved)
    kill_at.disarm()

    result = project.engine("001").advance(budget=2)

    swapped = step in ("verified", "swapped", "recorded_after")
    assert result.next is (Phase.SOAK if swapped else Phase.READY)
    assert project.state("001_seconds")["fence"] is None
    write_a_little(db, "seconds" if swapped else "ms", 9)
    if not swapped:
        expected = before | {5000: {"_id": 5000, "ms": 9}, 7: {"_id": 7, "ms": 9}}
        del expected[8]
        assert documents(db) == expected
        project.engine("001").cut_over(approved)
    else:
        assert project.engine("001").cut_over(approved).refused_ms > 0  # what the killed one did, told by its retry
    assert documents(db)[5000] == {"_id": 5000, "seconds": 9 if swapped else 0.009}
    assert documents(db)[100] == {"_id": 100, "seconds": 50.0}
    assert len(documents(db)) == COUNT
    assert audit.verify(db).ok


@pytest.mark.parametrize("step", ["fenced", "verified", "recorded_after"])
def test_killed_during_the_rollback(project, db, kill_at, step):
    project.write("001_seconds", spec(**GHOST))
    engine = project.to_ready("001")
    before = documents(db)
    project.cut_over(engine)
    write_a_little(db, "seconds", 4.0)
    kill_at(f"rollback.{step}")
    with pytest.raises(Killed):
        engine.rollback()
    kill_at.disarm()

    project.engine("001").rollback()

    expected = before | {5000: {"_id": 5000, "ms": 4000.0}, 7: {"_id": 7, "ms": 4000.0}}
    del expected[8]
    assert documents(db) == expected
    assert [name for name in db.list_collection_names() if name.startswith(("ops_ghost", "ops_old"))] == []
    assert project.state("001_seconds")["phase"] == "rolled_back"
    assert sorted(db.tracks.index_information()) == ["_id_", "ms_1"]
    assert audit.verify(db).ok


@pytest.mark.parametrize(("mode", "step"), [("in_place", "abort.cleaned"), ("ghost", "abort.recorded")])
def test_killed_during_the_abort(project, db, kill_at, mode, step):
    project.write("001_seconds", spec(**(GHOST if mode == "ghost" else SECONDS)))
    before = documents(db)
    engine = project.to_ready("001")
    kill_at(step)
    with pytest.raises(Killed):
        engine.abort("a test")
    kill_at.disarm()

    assert project.engine("001").abort("again").done

    assert documents(db) == before
    assert [name for name in db.list_collection_names() if name.startswith("ops_ghost")] == []
    assert db["ops_checkpoints"].count_documents({}) == 0


@pytest.mark.parametrize("step", ["contract.strict", "contract.recorded"])
def test_killed_during_the_contract(project, db, kill_at, step):
    strict = '{"$jsonSchema": {"required": ["seconds"]}}'
    project.write("001_seconds", spec(**SECONDS, contract=f'Contract(validator={strict}, drop=("ms",))'))
    engine = project.to_ready("001")
    kill_at(step)
    with pytest.raises(Killed):
        engine.contract()
    kill_at.disarm()

    assert project.engine("001").contract().next is Phase.DONE

    assert documents(db) == {n: {"_id": n, "seconds": n / 2} for n in range(COUNT)}
    assert (
        db.command("listCollections", filter={"name": "tracks"})["cursor"]["firstBatch"][0]["options"][
            "validationLevel"
        ]
        == "strict"
    )


@pytest.mark.parametrize("step", ["backfill.chunk", "cut_over.fenced"])
def test_kill_9_and_a_second_run(project, db, step):
    """A real process; while it lives nobody else may work, and its successor does not wait for its lease to lapse."""
    project.target = slow(project.target, lease_ttl=20.0)
    project.write("001_seconds", spec(**GHOST))
    if step.startswith("cut_over"):
        approved = project.to_ready("001").verification().digest
    action = "run" if step == "backfill.chunk" else "cut_over"
    with project.process(name="001", action=action, stop_at=step) as process:
        until(lambda: process.line()["event"] == "stopped", step)
        with pytest.raises(LeaseHeldError, match="held by tester"):
            project.engine("001", owner="another").advance()
        process.kill()
    if step == "backfill.chunk":
        project.to_ready("001")
        assert len(documents(db, "ops_ghost_tracks")) == COUNT
        return
    with pytest.raises(Exception, match="is a view"):
        db.tracks.insert_one({"_id": 5000, "ms": 1})
    assert len(documents(db)) == COUNT  # readers go on
    assert project.engine("001").advance(budget=2).next is Phase.READY
    db.tracks.insert_one({"_id": 5000, "ms": 1})
    assert project.engine("001").cut_over(approved).drained == 0
    assert db.tracks.find_one({"_id": 5000}) == {"_id": 5000, "seconds": 0.001}


@pytest.mark.parametrize("step", ["cut_over.fenced", "cut_over.verified"])
def test_a_process_that_was_overtaken_does_not_swap_any_more(project, db, monkeypatch, step):
    project.write("001_seconds", spec(**GHOST))
    engine = project.to_ready("001")
    approved = engine.verification().digest

    def overtaken(name):
        if name == step:
            monkeypatch.setattr(steps, "reached", lambda name: None)
            successor = project.engine("001")
            successor.advance(budget=2)  # ends what it finds half done
            if step == "cut_over.verified":
                successor.rollback()

    monkeypatch.setattr(steps, "reached", overtaken)
    with pytest.raises(LeaseLostError):
        engine.cut_over(approved)

    assert project.state("001_seconds")["phase"] == ("ready" if step == "cut_over.fenced" else "rolled_back")
    assert documents(db) == {n: {"_id": n, "ms": n * 500} for n in range(COUNT)}
    db.tracks.insert_one({"_id": 5000})
