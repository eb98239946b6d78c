"""What a signal or a late writer does at the worst moment: nothing twice, nothing forgotten, no dead end."""

from __future__ import annotations

import pytest

from mongo_ops.migrations import engine, history
from mongo_ops.migrations.engine import OutOfTurnError
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import State
from mongo_ops.migrations.operations.add_field import AddField
from mongo_ops.mongo.lease import Holder, Lease
from mongo_ops.storage import open_folder

HEAD = '"""A migration that tests interruptions, and says so."""\nfrom mongo_ops.migrations import *\n'
COUNT_UP = (
    HEAD
    + """
def forward(ctx):
    ctx.db.numbers.update_one({"_id": 1}, {"$inc": {"n": 1}})

def back(ctx):
    ctx.db.numbers.update_one({"_id": 1}, {"$inc": {"n": -1}})

migration = Migration(operations=[RunPython(forward, reverse=back, collections=("numbers",))], transaction="%s")
"""
)


class Desk:
    """Runs the migrations of a temporary folder on the test's database."""

    def __init__(self, target, folder):
        self.target, self.folder = target, folder
        (folder / "migrations").mkdir()

    def write(self, name, text):
        (self.folder / "migrations" / f"{name}.py").write_text(text)

    def run(self, direction="forward", version=None, owner="tests"):
        facts = engine.survey(self.target, self.folder)
        occasion = Occasion(Actor("tester", "os"), owner)
        losses = Losses(open_folder(self.target.environment.storage))
        with engine.open_run(self.target, occasion, losses, holder=Holder(owner)) as run:
            if direction == "forward":
                return list(
                    engine.apply_all(run, facts, engine.plan_forward(self.target, facts, version=version).names)
                )
            return list(engine.revert_all(run, facts, engine.plan_reverse(self.target, facts, version or "0").names))

    def state(self, name):
        record = history.load_one(self.target.db, name)
        return record.state if record else None


@pytest.fixture
def desk(target, tmp_path):
    folder = tmp_path / "include"
    folder.mkdir()
    return Desk(target, folder)


def interrupt_after_commit(monkeypatch, at: int):
    """Raise SystemExit right after the ``at``-th transaction of the run has committed, once."""
    plain, seen = Lease.transaction, {"commits": 0}

    def transaction(self, body):
        result = plain(self, body)
        seen["commits"] += 1
        if seen["commits"] == at:
            raise SystemExit("SIGTERM")
        return result

    monkeypatch.setattr(Lease, "transaction", transaction)


@pytest.mark.parametrize("mode", ["auto", "never"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_after_a_commit_does_not_apply_it_again(desk, db, monkeypatch, mode, at):
    desk.write("001_count_up", COUNT_UP % mode)
    db.numbers.insert_one({"_id": 1, "n": 0})
    interrupt_after_commit(monkeypatch, at)

    try:
        desk.run()
    except SystemExit:
        monkeypatch.undo()
        desk.run()
    monkeypatch.undo()

    assert db.numbers.find_one() == {"_id": 1, "n": 1}
    assert desk.state("001_count_up") is State.APPLIED
    desk.run("reverse")
    assert db.numbers.find_one() == {"_id": 1, "n": 0}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_after_a_commit_does_not_undo_it_again(desk, db, monkeypatch, at):
    desk.write("001_count_up", COUNT_UP % "auto")
    db.numbers.insert_one({"_id": 1, "n": 0})
    desk.run()
    interrupt_after_commit(monkeypatch, at)

    try:
        desk.run("reverse")
    except SystemExit:
        monkeypatch.undo()
        desk.run("reverse")

    assert db.numbers.find_one() == {"_id": 1, "n": 0}
    assert desk.state("001_count_up") is State.ROLLED_BACK


def test_documents_that_come_during_the_walk_are_taken_too(desk, db, monkeypatch):
    desk.write(
        "001_status",
        HEAD
        + "migration = Migration(operations=[AddField('users', 'status', value='new')],"
        + " ensures=[NoneMatch('users', {'status': {'$exists': False}})])\n",
    )
    db.users.insert_many([{"_id": n} for n in range(10)])
    plain = AddField.forward

    def forward(self, at):
        counts = plain(self, at)
        if at.db.users.count_documents({}) == 10:
            at.db.users.insert_one({"_id": 99})
        return counts

    monkeypatch.setattr(AddField, "forward", forward)

    assert [outcome.counts["modified"] for outcome in desk.run()] == [11]
    assert db.users.count_documents({"status": "new"}) == 11
    desk.run("reverse")
    assert db.users.count_documents({"status": {"$exists": True}}) == 0


def test_a_later_migration_does_not_overtake_one_that_was_undone_meanwhile(desk, target):
    for number in (1, 2):
        desk.write(f"00{number}_plans", HEAD + f"migration = Migration(operations=[CreateCollection('c{number}')])\n")
    facts = engine.survey(target, desk.folder)
    approved = engine.plan_forward(target, facts)

    facts = engine.survey(target, desk.folder)
    with pytest.raises(OutOfTurnError, match="001_plans is pending"):
        engine.insist_on_step(approved, engine.plan_forward(target, facts), facts, "002_plans")
    desk.run(version="001")
    facts = engine.survey(target, desk.folder)
    engine.insist_on_step(approved, engine.plan_forward(target, facts), facts, "002_plans")


def test_a_retry_after_the_last_commit_reports_what_the_first_try_did(desk, target, db):
    desk.write("001_plans", HEAD + "migration = Migration(operations=[InsertDocuments('plans', [{'_id': 1}])])\n")
    desk.run(owner="run 1")

    assert engine.finished_in_run(target, "run 1", "001_plans", "forward").counts == {"inserted": 1}
    assert engine.finished_in_run(target, "run 2", "001_plans", "forward") is None
    desk.run("reverse", owner="run 3")
    assert engine.finished_in_run(target, "run 1", "001_plans", "forward") is None
