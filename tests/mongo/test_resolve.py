"""The ways out of every state, on a real server: what is allowed, what is refused, and what is written when it is."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager

import pytest

from mongo_ops import audit
from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import engine, history, resolve
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import State
from mongo_ops.migrations.plan import ChecksumDriftError, IrreversibleError, UnknownVersionError
from mongo_ops.migrations.resolve import NotResolvableError, ReasonMissingError
from mongo_ops.mongo.lease import Holder, LeaseHeldError, LeaseLostError, unlock
from mongo_ops.storage import open_folder

OCCASION = Occasion(Actor("ada", "os"), "run 1")
WHY = "repaired by hand"
FILES = {
    "001_people": 'AddField("people", "status", value="active")',
    "002_plays": 'Backfill("people", {"$inc": {"plays": 1}}, revert={"$inc": {"plays": -1}})',
    "003_drop_plays": 'Backfill("people", {"$unset": {"plays": ""}}), irreversible="plays are gone"',
}
STOPS_HALF_WAY = 'AddField("people", "half", value=1), ConvertField("people", "name", to="int")'


@pytest.fixture
def include(tmp_path):
    """An include folder with three migrations."""
    (tmp_path / "migrations").mkdir()
    for name, operations in FILES.items():
        write(tmp_path, name, operations)
    return tmp_path


@pytest.fixture
def people(db):
    db.people.insert_many([{"_id": i, "name": f"p{i}", "plays": i} for i in range(30)])
    return db.people


def write(include, name, operations):
    operations, _, rest = operations.partition(", irreversible")
    rest = f"irreversible{rest}" if rest else ""
    text = f'''
    """About {name}."""
    from mongo_ops.migrations import AddField, Backfill, ConvertField, Migration, NoneMatch, RunPython

    migration = Migration(operations=[{operations}], {rest})
    '''
    (include / "migrations" / f"{name}.py").write_text(textwrap.dedent(text))


@contextmanager
def running(target, tmp_path, owner="ada"):
    losses = Losses(open_folder((tmp_path / "losses").as_uri()))
    with engine.open_run(target, OCCASION, losses, holder=Holder(owner)) as run:
        yield run


def migrate(target, include, version=None):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        return list(engine.apply_all(run, facts, engine.plan_forward(target, facts, version=version).names))


def roll_back(target, include, version):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        return list(engine.revert_all(run, facts, engine.plan_reverse(target, facts, version).names))


def mark(target, include, name, state, reason=WHY):
    facts = engine.survey(target, include)
    file = next((file for file in facts.files if file.name == name), name)
    with running(target, include) as run:
        return resolve.mark(run, file, state, reason)


def put(db, name, **fields):
    """Set the state as a killed process would have left it."""
    db.ops_migrations.update_one({"_id": name}, {"$set": fields})


def events(db, name):
    return [event["event"] for event in db.ops_history.find({"migration": name}).sort("at", 1)]


def audited(db, name):
    return [(entry["action"], entry["details"].get("reason")) for entry in db.audit_log.find({"entity_id": name})]


def fail_half_way(target, include):
    """Leave 002 failed after its first operation."""
    write(include, "002_plays", STOPS_HALF_WAY)
    with pytest.raises(MongoOpsError):
        migrate(target, include, "002")
    assert history.load_one(target.db, "002_plays").state is State.FAILED


def test_a_baseline_records_the_pending_ones_and_runs_none(target, db, people, include):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        made = resolve.baseline(run, facts.files, "002", "this database is older than the tool")

    assert [(m.name, m.was, m.now) for m in made] == [(n, "pending", "applied") for n in ("001_people", "002_plays")]
    assert people.count_documents({"status": {"$exists": True}}) == 0
    assert people.find_one({"_id": 7})["plays"] == 7
    records = {record.name: record for record in history.load_all(db)}
    assert [(r.baseline, r.order, r.state) for r in records.values()] == [(True, 1, "applied"), (True, 2, "applied")]
    assert records["001_people"].applied_at is not None
    assert events(db, "001_people") == ["baselined"]
    assert audited(db, "002_plays") == [("migration.baselined", "this database is older than the tool")]
    assert engine.plan_forward(target, engine.survey(target, include)).names == ("003_drop_plays",)
    assert audit.verify(db).faults == ()


def test_a_baseline_is_never_rolled_back_but_can_be_marked_pending(target, db, people, include):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        resolve.baseline(run, facts.files, "1", WHY)
    with pytest.raises(IrreversibleError, match="baseline"):
        roll_back(target, include, "0")

    mark(target, include, "001_people", "pending")

    assert history.load_one(db, "001_people").baseline is False
    assert [o.name for o in migrate(target, include, "001")] == ["001_people"]
    assert people.count_documents({"status": "active"}) == 30
    roll_back(target, include, "0")
    assert people.count_documents({"status": {"$exists": True}}) == 0


def test_a_baseline_twice_records_nothing_new(target, db, include):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        resolve.baseline(run, facts.files, "003", WHY)
        assert resolve.baseline(run, facts.files, "003", WHY) == ()
    assert db.ops_history.count_documents({}) == 3


def test_a_baseline_refuses_a_wrong_version_and_a_half_done_migration_and_writes_nothing(target, db, people, include):
    fail_half_way(target, include)
    facts, before = engine.survey(target, include), db.ops_history.count_documents({})
    with running(target, include) as run:
        with pytest.raises(UnknownVersionError):
            resolve.baseline(run, facts.files, "009", WHY)
        with pytest.raises(NotResolvableError, match="002_plays is failed"):
            resolve.baseline(run, facts.files, "003", WHY)
    assert db.ops_history.count_documents({}) == before
    assert history.load_one(db, "003_drop_plays") is None


@pytest.mark.parametrize("reason", ["", "ok", "    .    "])
def test_a_correction_without_a_reason_is_refused(target, db, include, reason):
    with pytest.raises(ReasonMissingError):
        mark(target, include, "001_people", "applied", reason)
    assert db.ops_migrations.count_documents({}) == 0


def test_pending_is_marked_applied_as_a_baseline(target, db, include):
    done = mark(target, include, "001_people", "applied")

    assert (done.was, done.now, done.baseline) == ("pending", "applied", True)
    assert events(db, "001_people") == ["marked"]
    assert audited(db, "001_people") == [("migration.marked", WHY)]
    with pytest.raises(NotResolvableError, match="applied already"):
        mark(target, include, "001_people", "applied")


def test_pending_and_rolled_back_cannot_be_marked_pending(target, db, people, include):
    with pytest.raises(NotResolvableError, match="is pending already"):
        mark(target, include, "001_people", "pending")
    migrate(target, include, "001")
    roll_back(target, include, "0")
    with pytest.raises(NotResolvableError, match="is pending already"):
        mark(target, include, "001_people", "pending")
    assert mark(target, include, "001_people", "applied").was == "rolled_back"
    assert history.load_one(db, "001_people").application == 1


@pytest.mark.parametrize("state", ["failed", "interrupted", "running"])
def test_a_half_done_migration_can_be_marked_either_way(target, db, people, include, state):
    fail_half_way(target, include)
    put(db, "002_plays", state=state)

    done = mark(target, include, "002_plays", "pending")

    assert (done.was, done.now) == (state, "pending")
    assert done.images == ("ops_before_002_plays.1.0",)
    assert db["ops_before_002_plays.1.0"].count_documents({}) == 30
    assert db.ops_checkpoints.count_documents({"_id": {"$regex": "^002"}}) == 0
    assert engine.plan_forward(target, engine.survey(target, include)).names == ("002_plays", "003_drop_plays")

    put(db, "002_plays", state=state)
    done = mark(target, include, "002_plays", "applied")
    assert (done.was, done.now, done.baseline) == (state, "applied", True)
    assert engine.plan_forward(target, engine.survey(target, include)).names == ("003_drop_plays",)
    with pytest.raises(IrreversibleError):
        roll_back(target, include, "001")


def test_after_marking_pending_the_migration_runs_anew_from_its_first_document(target, db, people, include):
    fail_half_way(target, include)
    mark(target, include, "002_plays", "pending")
    write(include, "002_plays", FILES["002_plays"])

    migrate(target, include, "002")

    assert [p["plays"] for p in people.find().sort("_id", 1)] == [i + 1 for i in range(30)]
    assert history.load_one(db, "002_plays").application == 2


def test_what_failed_only_in_its_conditions_can_be_marked_applied_and_still_be_rolled_back(target, db, people, include):
    write(include, "002_plays", FILES["002_plays"] + '], ensures=[NoneMatch("people", {"plays": 1})')
    with pytest.raises(MigrationRefusedError, match="match"):
        migrate(target, include, "002")

    done = mark(target, include, "002_plays", "applied")

    assert done.baseline is False
    roll_back(target, include, "001")
    assert [p["plays"] for p in people.find().sort("_id", 1)] == list(range(30))


@pytest.mark.parametrize("state", ["rolling_back", "failed"])
def test_a_half_rolled_back_migration_can_be_marked_either_way(target, db, people, include, state):
    migrate(target, include, "002")
    put(db, "002_plays", state=state, direction="reverse")
    assert mark(target, include, "002_plays", "pending").was == state
    assert history.load_one(db, "002_plays").state is State.ROLLED_BACK

    put(db, "002_plays", state=state, direction="reverse")
    assert mark(target, include, "002_plays", "applied").now == "applied"
    assert history.load_one(db, "002_plays").direction == "forward"


def test_an_applied_migration_that_can_be_undone_is_not_marked_away(target, db, people, include):
    migrate(target, include, "002")
    with pytest.raises(NotResolvableError, match="rollback"):
        mark(target, include, "002_plays", "pending")
    write(include, "002_plays", 'Backfill("people", {"$inc": {"plays": 2}}, revert={"$inc": {"plays": -2}})')
    with pytest.raises(NotResolvableError, match="restore its file"):
        mark(target, include, "002_plays", "pending")
    (include / "migrations" / "002_plays.py").unlink()
    with pytest.raises(NotResolvableError, match="rollback"):
        mark(target, include, "002_plays", "pending")
    with pytest.raises(NotResolvableError, match="has no file"):
        mark(target, include, "002_plays", "applied")
    assert history.load_one(db, "002_plays").state is State.APPLIED


def test_an_irreversible_one_can_be_marked_pending_with_its_file_or_without(target, db, people, include):
    migrate(target, include)
    mark(target, include, "003_drop_plays", "pending")
    assert history.load_one(db, "003_drop_plays").state is State.ROLLED_BACK
    migrate(target, include)
    (include / "migrations" / "003_drop_plays.py").unlink()
    mark(target, include, "003_drop_plays", "pending")
    assert engine.plan_forward(target, engine.survey(target, include)).names == ()


def test_an_edited_file_is_marked_applied_with_its_new_checksum(target, db, people, include):
    migrate(target, include, "002")
    order = history.load_one(db, "002_plays").order
    write(include, "002_plays", 'Backfill("people", {"$inc": {"plays": 2}}, revert={"$inc": {"plays": -2}})')
    facts = engine.survey(target, include)
    with pytest.raises(ChecksumDriftError):
        engine.plan_forward(target, facts)

    done = mark(target, include, "002_plays", "applied")

    record = history.load_one(db, "002_plays")
    assert (record.checksum, record.order, done.baseline) == (facts.file("002_plays").checksum, order, True)
    facts = engine.survey(target, include)
    assert engine.plan_forward(target, facts).names == ("003_drop_plays",)
    with pytest.raises(IrreversibleError):  # its reverse would undo what never ran
        engine.plan_reverse(target, facts, "001")


def test_an_edit_that_leaves_the_operations_alone_can_still_be_rolled_back(target, db, people, include):
    migrate(target, include, "002")
    write(include, "002_plays", FILES["002_plays"] + '], tags=("core", "billing"), ensures=[')
    assert mark(target, include, "002_plays", "applied").baseline is False
    roll_back(target, include, "001")
    assert [p["plays"] for p in people.find().sort("_id", 1)] == list(range(30))


def test_a_correction_needs_the_lease_and_a_lost_one_writes_nothing(target, db, include):
    facts = engine.survey(target, include)
    with running(target, include) as run:
        with pytest.raises(LeaseHeldError), running(target, include, "somebody else"):
            pass
        unlock(db, engine.RESOURCE, force=True)
        with pytest.raises(LeaseLostError):
            resolve.mark(run, facts.file("001_people"), "applied", WHY)
    assert (db.ops_migrations.count_documents({}), db.ops_history.count_documents({})) == (0, 0)
