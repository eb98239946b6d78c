"""Cold documents: out to object storage, verified, deleted only byte for byte; and back again."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.mongo import partition_runner
from tests.mongo.partition_runner import Job, Partitions, Point, fill
from tests.mongo.test_partitions_by_time import place_hold

from mongo_ops.mongo.batches import BudgetSpentError
from mongo_ops.partitions import engine, files
from mongo_ops.partitions.errors import HeldError, NothingToRestoreError
from mongo_ops.partitions.model import Phase, Strategy
from mongo_ops.partitions.work import PARTITIONS
from mongo_ops.storage import open_folder
from mongo_ops.transfer.manifest import ExportCorruptError

ARCHIVE = Strategy.ARCHIVE
COLD = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture
def filled(target, tmp_path):
    partitions = Partitions(target, (tmp_path / "archive").as_uri())
    fill(partitions.db)
    return partitions


def cold(db):
    return db.events.count_documents({"at": {"$lt": COLD}})


def test_cold_documents_are_archived_and_only_then_deleted(filled):
    before, number = filled.content("events"), cold(filled.db)

    done = filled.run(ARCHIVE, keep_months=2)

    assert done == {
        "archive": {"archived": number},
        "remove": {"deleted": number, "changed": 0, "gone": 0, "held": 0},
    }
    assert (cold(filled.db), filled.db.events.count_documents({})) == (0, 240 - number)
    (archive,) = filled.archives().values()
    assert archive + filled.content("events") == before
    entries = Counter(one["action"] for one in filled.db.audit_log.find({"entity_type": "partition"}))
    assert entries == {"partition.archived": 1, "partition.deleted": 1}
    assert filled.db.ops_checkpoints.count_documents({}) == 0


def test_a_document_that_changed_or_went_after_the_export_is_left_as_it_is(filled):
    plan = filled.plan(ARCHIVE, keep_months=2)
    work = partition_runner.work(filled.target, filled.folder)
    archived = engine.carry_out(work, plan, Phase.ARCHIVE)["archived"]
    filled.db.events.update_one({"_id": 3}, {"$set": {"text": "new"}})
    filled.db.command("collMod", "events", validator={})
    filled.db.events.update_one({"_id": 4}, {"$set": {"n": 4.0}})  # equal to the server, not the same bytes
    filled.db.events.delete_one({"_id": 5})

    done = engine.carry_out(work, plan, Phase.REMOVE)

    assert done == {"deleted": archived - 3, "changed": 2, "gone": 1, "held": 0}
    assert [one["_id"] for one in filled.db.events.find({"at": {"$lt": COLD}})] == [3, 4]


def test_what_was_archived_comes_back_and_what_is_there_stays(filled):
    before = filled.content("events")
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    changed = {"_id": 7, "at": COLD, "n": 7, "text": "written since"}
    filled.db.events.insert_one(changed)
    back = {"key": "", "source": noted["destination"], "folder": noted["destination"]}

    done = filled.run(Strategy.RESTORE, run="run 2", **back)

    assert done["restore"] == {"inserted": noted["documents"] - 1, "present": 1, "erased": 0}
    assert filled.db.events.find_one({"_id": 7}) == changed
    filled.db.events.delete_one({"_id": 7})
    again = filled.run(Strategy.RESTORE, run="run 3", **back)
    assert again["restore"] == {"inserted": 1, "present": noted["documents"] - 1, "erased": 0}
    assert filled.content("events") == before


def test_who_was_erased_does_not_come_back(filled):
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    filled.options["refusal"] = lambda name: (
        lambda document: name == "events" and b"\x10n\x00\x03\x00\x00\x00" in document
    )

    done = filled.run(Strategy.RESTORE, run="run 2", key="", source=noted["destination"], folder=noted["destination"])

    assert done["restore"]["erased"] == 1
    assert filled.db.events.find_one({"n": 3}) is None


def test_held_documents_are_archived_and_not_deleted(filled):
    place_hold(filled.db, "events", '{"n": {"$in": [1, 2]}}')
    plan = filled.plan(ARCHIVE, keep_months=2)

    done = filled.carry_out(plan)

    assert any(note.startswith("2 of them are under a legal hold") for note in plan.notes)
    assert done["remove"]["held"] == 2
    assert [one["n"] for one in filled.db.events.find({"at": {"$lt": COLD}})] == [1, 2]


def test_held_people_without_a_data_map_stop_everything(filled):
    hold = {"_id": "eh_1", "active": True, "scope": {"references": ["r"]}, "reason_code": "x", "authority": "y"}
    when = datetime(2027, 1, 1, tzinfo=UTC)
    filled.db.ops_legal_holds.insert_one({**hold, "placed_at": COLD, "review_at": when, "released_at": None})

    with pytest.raises(HeldError, match="nobody can say which documents are theirs"):
        filled.run(ARCHIVE, keep_months=2)

    assert filled.db.events.count_documents({}) == 240


def test_a_damaged_archive_deletes_nothing(filled):
    plan = filled.plan(ARCHIVE, keep_months=2)
    work = partition_runner.work(filled.target, filled.folder)
    engine.carry_out(work, plan, Phase.ARCHIVE)
    (part,) = Path(open_folder(filled.folder).path).glob("*/events/*.zst")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))

    with pytest.raises(ExportCorruptError):
        engine.carry_out(work, plan, Phase.REMOVE)

    assert filled.db.events.count_documents({}) == 240


def test_an_archive_of_other_things_is_not_restored(filled):
    from tests.mongo.transfers import Transfers

    folder = open_folder(f"{filled.folder}/parquet")
    Transfers(filled.target, folder).export("events", format="parquet")

    with pytest.raises(NothingToRestoreError, match="mongo-ops import"):
        filled.plan(Strategy.RESTORE, key="", source=str(folder), folder=str(folder))


def test_a_spent_budget_stops_cleanly_and_the_next_try_goes_on(filled, monkeypatch):
    monkeypatch.setattr(files, "PIECE", 20)
    monkeypatch.setattr("mongo_ops.transfer.formats.base.CHUNK_COUNT", 20)
    plan, ticks = filled.plan(ARCHIVE, keep_months=2), iter(range(1000))
    number = cold(filled.db)
    work = partition_runner.work(filled.target, filled.folder, clock=lambda: next(ticks))
    engine.carry_out(work, plan, Phase.ARCHIVE)
    object.__setattr__(filled.target.environment, "budget", 5.0)

    with pytest.raises(BudgetSpentError, match="Run again to go on"):
        engine.carry_out(work, plan, Phase.REMOVE)
    left = cold(filled.db)
    object.__setattr__(filled.target.environment, "budget", None)

    assert 0 < left < number
    assert engine.carry_out(work, plan, Phase.REMOVE) == {"deleted": number, "changed": 0, "gone": 0, "held": 0}


@pytest.mark.parametrize(
    "point",
    [
        Point("commitTransaction", 2),
        Point("commitTransaction", 4),
        pytest.param(Point("commitTransaction", 1), marks=pytest.mark.chaos),
        pytest.param(Point("delete", 2, "before"), marks=pytest.mark.chaos),
        pytest.param(Point("commitTransaction", 8, "before"), marks=pytest.mark.chaos),
    ],
    ids=str,
)
def test_an_archiving_that_is_killed_deletes_each_document_once(filled, replica_set, point):
    number, before = cold(filled.db), filled.content("events")
    plan = filled.plan(ARCHIVE, keep_months=2)
    job = Job(replica_set.uri, filled.target.database, filled.folder, plan.as_value())

    assert partition_runner.run(job, point), "the point was never reached"
    assert not partition_runner.run(job)

    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    assert {name: noted[name] for name in ("deleted", "changed", "gone", "held")} == {
        "deleted": number, "changed": 0, "gone": 0, "held": 0,
    }  # fmt: skip
    assert filled.everywhere() == before
    assert filled.db.ops_checkpoints.count_documents({}) == 0


@pytest.mark.parametrize("nth", [1, 3])
def test_a_restore_that_is_killed_inserts_each_document_once(filled, replica_set, nth):
    before = filled.content("events")
    filled.run(ARCHIVE, keep_months=2)
    (noted,) = filled.db[PARTITIONS].find({"state": "deleted"})
    plan = filled.plan(Strategy.RESTORE, run="run 2", key="", source=noted["destination"], folder=noted["destination"])
    job = Job(replica_set.uri, filled.target.database, noted["destination"], plan.as_value(), "run 2")

    assert partition_runner.run(job, Point("commitTransaction", nth))
    assert not partition_runner.run(job)

    assert filled.content("events") == before
    restored = filled.db[PARTITIONS].find_one({"state": "restored"})
    assert (restored["inserted"], restored["present"]) == (noted["documents"], 0)


def test_a_retry_of_another_run_does_not_delete_what_came_since(filled):
    filled.run(ARCHIVE, keep_months=2)
    late = {"_id": "late", "at": datetime(2026, 1, 5, tzinfo=UTC), "n": 900}
    filled.db.events.insert_one(late)

    assert filled.carry_out(filled.plan(ARCHIVE, run="run 2", keep_months=2), "run 2")["remove"]["deleted"] == 1
    assert len(filled.archives()) == 2
