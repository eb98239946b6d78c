"""Going back: in reverse applied order, to exactly what was, and not at all where that is impossible."""

from __future__ import annotations

import shutil

import pytest
from bson import ObjectId
from tests.mongo.runner import INCLUDE, Project, migration

from mongo_ops import audit
from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import engine, history
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.model import State
from mongo_ops.migrations.plan import IrreversibleError, UnresolvedMigrationError
from mongo_ops.mongo.documents import canonical, set_digest

ALL = [path.stem for path in sorted((INCLUDE / "migrations").glob("[0-9]*.py"))]
OURS = ("ops_",)
ADD_ONE = "Backfill('numbers', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})"
ARTISTS = [
    {"name": "Amália", "genres": ["Fado", "folk"], "genre": "Fado"},
    {"name": "Ana", "genres": ["jazz"]},
    {"name": "Nobody", "genre": "Rock"},
]


@pytest.fixture
def project(target, tmp_path):
    return Project(target, tmp_path / "include")


def shape(db):
    """Everything that migrations may change: options, indexes, documents. Not our own collections."""
    found = {}
    for info in db.list_collections():
        name = info["name"]
        if name.startswith(OURS) or name == "audit_log":
            continue
        indexes = sorted(canonical({k: v for k, v in index.items() if k != "v"}) for index in db[name].list_indexes())
        found[name] = (canonical(info["options"]), indexes, set_digest(db[name].find()))
    return found


def left_behind(db):
    names = [name for name in db.list_collection_names() if name.startswith("ops_before_")]
    return names, [point["_id"] for point in db["ops_checkpoints"].find()]


def numbers(db, count=30):
    db.numbers.insert_many([{"_id": i, "n": 0} for i in range(count)])


def values(db, field="n", collection="numbers"):
    return sorted(db[collection].distinct(field))


# The reference model --------------------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_the_reference_model_goes_down_and_up_again_step_by_step_to_the_same_database(target):
    project = Project(target, INCLUDE)
    shapes = [shape(target.db)]
    for name in ALL:
        project.migrate(name)
        if name.startswith("001"):
            target.db.artists.insert_many([{"_id": ObjectId(), **artist} for artist in ARTISTS])
            target.db.users.insert_one({"email": "ana@example.org", "display_name": "Ana"})
        shapes.append(shape(target.db))
    assert len({str(one) for one in shapes}) == len(shapes)  # each migration changes something

    for below in range(len(ALL) - 1, 0, -1):  # down to each version ...
        [outcome] = project.rollback(str(below))
        assert outcome.name == ALL[below]
        assert shape(target.db) == shapes[below]
        assert project.states()[ALL[below]] == "rolled_back"
    for above in range(1, len(ALL)):  # ... and up again
        project.migrate(ALL[above])
        assert shape(target.db) == shapes[above + 1]

    assert [outcome.name for outcome in project.rollback("0")] == ALL[::-1]
    assert shape(target.db) == {}
    assert left_behind(target.db) == ([], [])
    assert project.rollback("0") == []
    report = audit.verify(target.db)
    assert (report.ok, report.entries) == (True, 4 * len(ALL) - 2)


def test_what_a_rollback_destroys_is_snapshotted_before(target, tmp_path):
    from mongo_ops.migrations.losses import Losses
    from mongo_ops.storage import open_folder

    project = Project(target, INCLUDE)
    project.migrate("1")
    target.db.artists.insert_many([{"_id": ObjectId(), **artist} for artist in ARTISTS])
    project.rollback()

    kept = list(Losses(open_folder(target.environment.storage)).names(target.database))
    assert any("001_create_core_collections.1/reverse/" in name for name in kept)
    assert "artists" not in target.db.list_collection_names()


# Order ----------------------------------------------------------------------------------------------------------------


def test_a_rollback_runs_in_reverse_applied_order(project):
    def push(number):
        return migration(
            "RunPython(push, reverse=pop, collections=('log',))",
            before=f"""
                def push(ctx):
                    ctx.db.log.insert_one({{"_id": {number}}})

                def pop(ctx):
                    ctx.db.undone.update_one({{"_id": 1}}, {{"$push": {{"order": {number}}}}}, upsert=True)
                    ctx.db.log.delete_one({{"_id": {number}}})
                """,
        )

    project.write(n001_a=push(1), n003_c=push(3))
    project.migrate()
    project.write(n002_b=push(2))
    project.migrate(allow_out_of_order=True)

    outcomes = project.rollback()

    assert [outcome.name for outcome in outcomes] == ["002_b", "003_c", "001_a"]
    assert project.db.undone.find_one()["order"] == [2, 3, 1]
    assert project.db.log.count_documents({}) == 0


def test_a_rollback_to_a_version_leaves_it_and_what_is_below(project):
    project.write(**{f"n00{i}_x": migration(f"InsertDocuments('plans', [{{'_id': {i}}}])") for i in (1, 2, 3)})
    project.migrate()

    assert [outcome.name for outcome in project.rollback("2")] == ["003_x"]
    assert project.rollback("2") == []
    assert values(project.db, "_id", "plans") == [1, 2]
    assert [outcome.name for outcome in project.rollback("001")] == ["002_x"]
    assert project.states() == {"001_x": "applied", "002_x": "rolled_back", "003_x": "rolled_back"}


def test_the_plan_of_a_rollback_says_what_is_undone_in_order_and_writes_nothing(project):
    numbers(project.db)
    project.write(n001_a=migration(ADD_ONE, "InsertDocuments('plans', [{'_id': 1}])"))
    project.migrate()
    before = set_digest(project.db["ops_migrations"].find()), set_digest(project.db["ops_history"].find())

    plan = engine.plan_reverse(project.target, project.survey(), "0")

    [step] = plan.steps
    assert plan.direction == "reverse"
    assert [operation.split()[1] for operation in step.operations] == ["Insert", "Update"]
    assert all(operation.startswith("undo: ") for operation in step.operations)
    assert (set_digest(project.db["ops_migrations"].find()), set_digest(project.db["ops_history"].find())) == before


# Refusals -------------------------------------------------------------------------------------------------------------


def test_an_irreversible_migration_refuses_with_its_reason_before_anything_is_undone(project):
    numbers(project.db)
    project.write(
        n001_a=migration("InsertDocuments('plans', [{'_id': 1}])"),
        n002_b=migration("InsertDocuments('plans', [{'_id': 2}])", irreversible="'the bank was told'"),
        n003_c=migration("InsertDocuments('plans', [{'_id': 3}])"),
    )
    project.migrate()

    with pytest.raises(IrreversibleError, match="002_b cannot be rolled back: the bank was told"):
        project.rollback("1")
    assert values(project.db, "_id", "plans") == [1, 2, 3]
    assert [outcome.name for outcome in project.rollback("2")] == ["003_c"]


def test_an_operation_without_a_way_back_refuses_too(project):
    numbers(project.db)
    project.write(n001_a=migration("Backfill('numbers', {'$inc': {'n': 1}})"))
    project.migrate()

    with pytest.raises(IrreversibleError, match="declares no way back"):
        project.rollback()
    assert values(project.db) == [1]


# Half-way -------------------------------------------------------------------------------------------------------------


def failing_reverse(project):
    numbers(project.db)
    project.write(
        n001_a=migration(
            ADD_ONE, "InsertDocuments('plans', [{'_id': 1}])", "RunPython(go, reverse=back)",
            ADD_ONE.replace("'n'", "'m'"),
            before="""
                def go(ctx):
                    ctx.db.plans.insert_one({"_id": "python"})

                def back(ctx):
                    if ctx.db.blocked.find_one():
                        raise ValueError("blocked")
                    ctx.db.plans.delete_one({"_id": "python"})
                """,
        )
    )  # fmt: skip
    project.migrate()
    assert (values(project.db), values(project.db, "m")) == ([1], [1])
    project.db.blocked.insert_one({})
    with pytest.raises(MigrationRefusedError, match=r"ValueError at 001_a.py"):
        project.rollback()


def test_a_rollback_that_fails_half_way_is_finished_by_the_next_one(project):
    failing_reverse(project)

    record = history.load_one(project.db, "001_a")
    assert (record.state, record.direction) == (State.FAILED, "reverse")
    assert [operation.state for operation in record.operations] == ["done", "done", "done", "undone"]
    assert values(project.db, "m") == [0]
    with pytest.raises(UnresolvedMigrationError, match="half rolled back.*rollback --failed"):
        project.migrate()

    project.db.blocked.delete_many({})
    [outcome] = project.rollback(failed_only=True)

    assert outcome.name == "001_a"
    assert values(project.db) == [0]
    assert project.db.plans.count_documents({}) == 0
    assert project.states() == {"001_a": "rolled_back"}
    assert left_behind(project.db) == ([], [])
    project.migrate()
    assert values(project.db) == [1]


def test_a_migration_that_was_rolled_back_runs_again_with_checkpoints_of_its_own(project):
    numbers(project.db)
    project.write(n001_a=migration(ADD_ONE))
    for round_ in range(1, 4):
        project.migrate()
        assert values(project.db) == [1]
        project.rollback()
        assert values(project.db) == [0]
        assert history.load_one(project.db, "001_a").application == round_


def test_documents_that_came_or_went_since_are_left_as_they_are(project):
    numbers(project.db)
    project.write(n001_a=migration(ADD_ONE))
    project.migrate()
    project.db.numbers.insert_many([{"_id": -1, "n": 100}, {"_id": 7.5, "n": 100}, {"_id": 99, "n": 100}])
    project.db.numbers.delete_many({"_id": {"$in": [0, 5, 29]}})

    project.rollback()

    assert values(project.db) == [0, 100]
    assert project.db.numbers.count_documents({"n": 0}) == 27


def test_a_rollback_after_everything_was_deleted_is_fine(project):
    numbers(project.db)
    project.write(n001_a=migration(ADD_ONE))
    project.migrate()
    project.db.numbers.delete_many({})

    project.rollback()
    assert project.states() == {"001_a": "rolled_back"}


def test_a_missing_helper_module_does_not_stop_a_rollback(project):
    project.write(n_names="NAMES = ['free', 'family']\n")
    text = migration("InsertDocuments('plans', [{'_id': name} for name in NAMES])", before="from ._names import NAMES")
    project.write(n001_a=text)
    project.migrate()
    assert values(project.db, "_id", "plans") == ["family", "free"]
    shutil.rmtree(project.include / "migrations")
    (project.include / "migrations").mkdir()

    assert [outcome.name for outcome in project.rollback()] == ["001_a"]
    assert project.db.plans.count_documents({}) == 0


def test_a_rollback_of_nothing_is_nothing(project):
    project.write(n001_a=migration(ADD_ONE))

    assert project.rollback() == []
    with pytest.raises(MongoOpsError, match="Say which version"):
        project.rollback(None)
