"""What an operation destroyed comes back, whatever was killed, dropped or made anew in between; or the rollback is refused."""

from __future__ import annotations

import shutil

import pytest
from tests.mongo.runner import Project, migration

from mongo_ops.audit import log
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.operations.drop_collection import DropCollection
from mongo_ops.migrations.passage import Passage
from mongo_ops.storage import open_folder

DROP = migration("DropCollection('old')")


class Killed(BaseException):
    """Stands for kill -9: nothing is recorded after it."""


@pytest.fixture
def project(target, tmp_path):
    made = Project(target, tmp_path / "include")
    made.write(n001_drop=DROP)
    return made


def fill(db, keys, text="before"):
    db.old.insert_many([{"_id": key, "text": text} for key in keys])


def kept(target):
    return list(Losses(open_folder(target.environment.storage)).names(target.database))


def found(db):
    return db.ops_migrations.find_one({"_id": "001_drop"})["operations"][0]["found"]


def killed(project, *, dropped):
    """Migrate and die before or right after the drop, with nothing recorded of it."""
    real = DropCollection.forward

    def dying(self, at):
        if dropped:
            real(self, at)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DropCollection, "forward", dying)
        patch.setattr(Passage, "stop", lambda *_: None)
        with pytest.raises(Killed):
            project.migrate()
    assert project.states() == {"001_drop": "running"}


def test_a_database_that_is_dropped_and_migrated_again_gets_its_own_snapshots(project, target):
    fill(project.db, range(5), "first life")
    project.migrate()
    target.client.drop_database(target.database)
    log._prepared.pop(target.client, None)  # as in another process
    fill(project.db, range(3), "second life")
    project.migrate()

    assert len(kept(target)) == 2
    assert [one["name"] for one in found(project.db)["snapshots"]] == [
        name for name in kept(target) if name == found(project.db)["snapshots"][0]["name"]
    ]
    project.rollback()
    assert list(project.db.old.find(sort=[("_id", 1)])) == [{"_id": i, "text": "second life"} for i in range(3)]


def test_the_snapshots_are_recorded_before_anything_is_destroyed(project, target):
    fill(project.db, range(5))
    killed(project, dropped=False)

    assert project.db.old.count_documents({}) == 5
    assert [one["name"] for one in found(project.db)["snapshots"]] == kept(target)


def test_all_that_two_tries_destroyed_comes_back(project):
    fill(project.db, range(100))
    killed(project, dropped=True)
    fill(project.db, [7], "by a live writer")
    project.migrate()
    assert "old" not in project.db.list_collection_names()

    project.rollback()

    assert project.states() == {"001_drop": "rolled_back"}
    assert project.db.old.count_documents({"text": "before"}) == 99
    assert project.db.old.find_one({"_id": 7}) == {"_id": 7, "text": "by a live writer"}  # the newest wins


def test_what_was_deleted_between_two_tries_does_not_come_back_when_nothing_was_dropped(project):
    fill(project.db, range(10))
    killed(project, dropped=False)
    project.db.old.delete_many({"_id": {"$lt": 4}})
    project.db.old.update_one({"_id": 5}, {"$set": {"text": "changed"}})
    project.migrate()

    project.rollback()

    assert sorted(project.db.old.distinct("_id")) == list(range(4, 10))
    assert project.db.old.find_one({"_id": 5})["text"] == "changed"


def test_a_collection_that_was_made_anew_after_the_kill_gets_the_old_documents_too(project):
    fill(project.db, range(10))
    killed(project, dropped=True)
    fill(project.db, [100], "by a live writer")

    project.rollback(None, failed_only=True)

    assert sorted(project.db.old.distinct("_id")) == [*range(10), 100]


def test_a_rollback_without_the_snapshot_is_refused_and_names_it(project, target, tmp_path):
    fill(project.db, range(10))
    project.migrate()
    [name] = kept(target)
    shutil.move(tmp_path / "storage", tmp_path / "elsewhere")

    with pytest.raises(MigrationRefusedError) as caught:
        project.rollback()

    assert name in str(caught.value)
    assert (tmp_path / "storage").as_posix() in str(caught.value)
    assert project.states() == {"001_drop": "applied"}
    assert "old" not in project.db.list_collection_names()

    shutil.move(tmp_path / "elsewhere", tmp_path / "storage")
    project.rollback()
    assert project.db.old.count_documents({}) == 10


def test_a_record_that_names_no_snapshot_of_destroyed_documents_is_refused(project):
    fill(project.db, range(10))
    project.migrate()
    project.db.ops_migrations.update_one({"_id": "001_drop"}, {"$unset": {"operations.0.found.snapshots": 1}})

    with pytest.raises(MigrationRefusedError, match=r"destroyed 10 documents and its record names no snapshot"):
        project.rollback()
    assert project.states() == {"001_drop": "applied"}


def test_what_was_never_there_needs_no_snapshot(project, target):
    project.migrate()
    assert found(project.db)["snapshots"] == []
    project.rollback()
    assert (kept(target), project.states()) == ([], {"001_drop": "rolled_back"})
