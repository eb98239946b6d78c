"""The engine going forward: apply, resume, refuse, and leave behind only what its record says."""

from __future__ import annotations

import contextlib
import shutil
import traceback

import pytest
from tests.mongo.runner import INCLUDE, Project, migration

from mongo_ops import audit
from mongo_ops.errors import PlanError
from mongo_ops.migrations import engine, history
from mongo_ops.migrations.discover import MigrationFileError
from mongo_ops.migrations.engine import PlanChangedError
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.model import State
from mongo_ops.migrations.operations.base import OperationError
from mongo_ops.migrations.plan import (
    ChecksumDriftError,
    IrreversibleError,
    MissingMigrationError,
    OutOfOrderError,
    UnknownVersionError,
    UnresolvedMigrationError,
)
from mongo_ops.mongo.batches import BudgetSpentError, StepChangedError
from mongo_ops.mongo.documents import set_digest
from mongo_ops.mongo.lease import Lease, LeaseLostError

ALL = [path.stem for path in sorted((INCLUDE / "migrations").glob("[0-9]*.py"))]
ADD_ONE = "Backfill('numbers', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})"
MARKER = "ana.secret@example.org"


@pytest.fixture
def project(target, tmp_path):
    return Project(target, tmp_path / "include")


def numbers(db, count=50):
    db.numbers.insert_many([{"_id": i, "n": 0} for i in range(count)])


def values(db, field="n", collection="numbers"):
    return sorted(db[collection].distinct(field))


def left_behind(db):
    """Collections and checkpoints that belong to no applied work."""
    return sorted(name for name in db.list_collection_names() if name.startswith("ops_before_"))


# The reference model --------------------------------------------------------------------------------------------------


def test_the_reference_model_is_applied_once_in_order_and_again_is_nothing(target):
    project = Project(target, INCLUDE)

    first = project.migrate()
    second = project.migrate()

    assert [outcome.name for outcome in first] == ALL
    assert second == []
    assert project.states() == dict.fromkeys(ALL, "applied")
    assert [record.order for record in history.load_all(target.db)] == list(range(1, len(ALL) + 1))
    for name in ALL:
        assert project.events(name)[0] == "started"
        assert project.events(name)[-1] == "applied"
    report = audit.verify(target.db)
    assert (report.ok, report.entries) == (True, len(ALL))


def test_a_target_version_is_where_applying_stops(target):
    project = Project(target, INCLUDE)

    assert [outcome.name for outcome in project.migrate("3")] == ALL[:3]
    assert [outcome.name for outcome in project.migrate("005")] == ALL[3:5]
    assert project.migrate("004_require_subscription_type") == []


# One transaction ------------------------------------------------------------------------------------------------------


def test_a_transactional_migration_commits_wholly_with_its_record(project):
    project.write(
        n001_two=migration(
            "InsertDocuments('plans', [{'_id': 'free'}, {'_id': 'family'}])", "RunPython(more, reverse=less, collections=('plans',))",
            before="""
                def more(ctx):
                    ctx.db.plans.insert_one({"_id": "student"})

                def less(ctx):
                    ctx.db.plans.delete_one({"_id": "student"})
                """,
        )
    )  # fmt: skip

    [outcome] = project.migrate()

    assert outcome.counts == {"inserted": 2}  # the function counts for itself
    assert values(project.db, "_id", "plans") == ["family", "free", "student"]
    assert project.events("001_two") == ["started", "operation", "operation", "applied"]


def test_a_transactional_migration_that_fails_leaves_nothing_but_its_state(project):
    project.write(
        n001_two=migration(
            "InsertDocuments('plans', [{'_id': 'free'}])", "RunPython(fail, reverse=fail)",
            before=f"""
                def fail(ctx):
                    ctx.db.plans.insert_one({{"_id": "student"}})
                    raise ValueError("{MARKER}")
                """,
        )
    )  # fmt: skip

    with pytest.raises(MigrationRefusedError) as caught:
        project.migrate()

    assert project.db.plans.count_documents({}) == 0
    assert project.states() == {"001_two": "failed"}
    assert [op.state for op in history.load_one(project.db, "001_two").operations] == ["pending", "pending"]
    assert "ValueError at 001_two.py:7" in str(caught.value)
    assert MARKER not in "".join(traceback.format_exception(caught.value))

    project.edit("001_two", f'raise ValueError("{MARKER}")', "return None")
    project.migrate()
    assert values(project.db, "_id", "plans") == ["free", "student"]
    assert project.states() == {"001_two": "applied"}


def test_a_transactional_migration_is_judged_by_what_it_did_itself(project):
    project.write(
        n001_plans=migration(
            "InsertDocuments('plans', [{'_id': 'free'}, {'_id': 'family'}])",
            ensures="[CountIs('plans', at_least=2, at_most=2), CollectionExists('plans')]",
        ),
        n002_more=migration("InsertDocuments('plans', [{'_id': 'x'}])", ensures="[CountIs('plans', at_most=2)]"),
    )

    with pytest.raises(MigrationRefusedError, match="at most 2"):
        project.migrate()

    assert project.states() == {"001_plans": "applied", "002_more": "failed"}
    assert project.db.plans.count_documents({}) == 2


def test_transaction_never_records_operation_by_operation(project):
    project.write(
        n001_apart=migration(
            "InsertDocuments('plans', [{'_id': 1}])", "InsertDocuments('plans', [{'_id': 2}])", "CreateCollection('other')",
            "InsertDocuments('plans', [{'_id': 3}])", "RunPython(fail, reverse=fail)",
            before="def fail(ctx):\n    raise ValueError",
            transaction="'never'",
        )
    )  # fmt: skip

    with pytest.raises(MigrationRefusedError, match=r"operation 5 of 5 \(RunPython\)"):
        project.migrate()

    states = [op.state for op in history.load_one(project.db, "001_apart").operations]
    assert states == ["done", "done", "done", "done", "running"]
    assert values(project.db, "_id", "plans") == [1, 2, 3]

    project.rollback(failed_only=True)
    assert project.db.plans.count_documents({}) == 0
    assert "other" not in project.db.list_collection_names()
    assert project.states() == {"001_apart": "rolled_back"}


def test_the_last_operation_and_the_end_of_its_migration_commit_together(project, monkeypatch):
    """Killed before that, the migration is found running in its last operation; nothing is done or told twice."""
    numbers(project.db)
    project.write(n001_two=migration("CreateCollection('other')", ADD_ONE))
    commit, killed = Lease.transaction, []

    def deadly(self, body):
        last = project.db.ops_checkpoints.find_one({"finished": True}) is not None
        if last and not killed:
            killed.append(history.load_one(project.db, "001_two"))
            raise LeaseLostError("migrations", self.epoch)  # a zombie: nothing may be recorded any more
        return commit(self, body)

    monkeypatch.setattr(Lease, "transaction", deadly)
    with pytest.raises(LeaseLostError):
        project.migrate()

    [half] = killed
    assert (half.state, [op.state for op in half.operations]) == (State.RUNNING, ["done", "running"])
    assert project.events("001_two") == ["started", "operation"]
    project.migrate()
    assert project.events("001_two") == ["started", "operation", "interrupted", "started", "operation", "applied"]
    operation, applied = project.db.ops_history.find().sort("_id", -1).limit(2)
    assert operation["at"] == applied["at"]
    assert values(project.db) == [1]


@pytest.mark.parametrize(
    ("operation", "commits"),
    [("InsertDocuments('plans', [{'_id': 1}])", 1), ("CreateCollection('other')", 2), (ADD_ONE, 3)],
)
def test_a_small_migration_needs_few_commits(project, operation, commits):
    """Start, batch and end; each is a wait for the disks of a majority."""
    numbers(project.db)
    project.write(n001_small=migration(operation))
    before = committed(project.db)

    project.migrate()

    assert committed(project.db) - before == commits
    assert project.events("001_small")[-2:] == ["operation", "applied"]


def committed(db):
    return db.client.admin.command("serverStatus")["transactions"]["totalCommitted"]


# Failing half-way -----------------------------------------------------------------------------------------------------


def half_failing(project):
    """Three operations; the second one meets two users with the same e-mail."""
    numbers(project.db)
    project.db.users.insert_many([{"_id": i, "email": MARKER, "n": 0} for i in range(2)])
    project.write(
        n001_half=migration(
            ADD_ONE, "CreateIndex('users', keys=[('email', 1)], name='email_unique', unique=True)",
            "Backfill('users', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})",
        ),
        n002_later=migration("InsertDocuments('plans', [{'_id': 1}])"),
    )  # fmt: skip
    with pytest.raises((MigrationRefusedError, OperationError)) as caught:
        project.migrate()
    return caught.value


def test_a_migration_that_fails_half_way_keeps_what_is_done_and_stops_the_rest(project, caplog):
    error = half_failing(project)

    record = history.load_one(project.db, "001_half")
    assert record.state is State.FAILED
    assert [op.state for op in record.operations] == ["done", "running", "pending"]
    assert values(project.db) == [1]
    assert values(project.db, "n", "users") == [0]
    assert "002_later" not in project.states()
    assert project.db.plans.count_documents({}) == 0
    for text in ("".join(traceback.format_exception(error)), record.error, caplog.text):
        assert MARKER not in text
    for collection in ("ops_history", "ops_migrations", "audit_log"):
        assert MARKER not in str(list(project.db[collection].find()))
    assert "1 keys occur in more than one document" in str(error)


def test_a_failed_migration_resumes_once_the_data_is_mended(project):
    half_failing(project)
    project.db.users.update_one({"_id": 1}, {"$set": {"email": "other@example.org"}})

    outcomes = project.migrate()

    assert [outcome.name for outcome in outcomes] == ["001_half", "002_later"]
    assert outcomes[0].counts == {"matched": 2, "modified": 2}  # this run's share only
    assert values(project.db) == [1]
    assert values(project.db, "n", "users") == [1]
    assert project.states() == {"001_half": "applied", "002_later": "applied"}
    assert history.load_one(project.db, "001_half").attempt == 2
    assert audit.verify(project.db).ok


def test_a_failed_migration_can_be_undone_instead(project):
    half_failing(project)

    [outcome] = project.rollback(failed_only=True)

    assert outcome.name == "001_half"
    assert values(project.db) == [0]
    assert project.states() == {"001_half": "rolled_back"}
    assert left_behind(project.db) == []
    assert [op.state for op in history.load_one(project.db, "001_half").operations] == ["undone", "undone", "pending"]


# Edited after it stopped ----------------------------------------------------------------------------------------------


def stopped_at(project, walked, text):
    """Run 001 until its Backfill has walked at least so many numbers, then spend its budget."""
    project.write(n001_add=text)
    spent = {"now": 0.0}

    with pytest.raises(BudgetSpentError), limited(project, spent, walked):
        project.migrate()
    point = project.db["ops_checkpoints"].find_one({"done": {"$gte": walked}, "finished": False})
    assert point is not None
    return point["done"]


@contextlib.contextmanager
def limited(project, spent, walked):
    """Let the budget run out at the first batch that begins after ``walked`` documents."""
    from mongo_ops.mongo import batches

    held = batches.Batches._hold_back

    def hold_back(self, step, point):
        if point["done"] >= walked:
            raise BudgetSpentError("the time budget is spent")
        held(self, step, point)

    batches.Batches._hold_back = hold_back
    try:
        yield
    finally:
        batches.Batches._hold_back = held


def test_a_budget_leaves_an_interrupted_migration_that_goes_on(project):
    numbers(project.db, 2_000)
    done = stopped_at(project, 500, migration(ADD_ONE))

    assert project.states() == {"001_add": "interrupted"}
    assert project.db.numbers.count_documents({"n": 1}) == done
    project.migrate()
    assert project.states() == {"001_add": "applied"}
    assert values(project.db) == [1]


def test_an_edit_of_a_later_operation_keeps_the_progress(project):
    numbers(project.db, 2_000)
    stopped_at(project, 500, migration(ADD_ONE, "InsertDocuments('plans', [{'_id': 'wrong'}])"))
    project.edit("001_add", "wrong", "right")

    project.migrate()

    assert values(project.db) == [1]
    assert values(project.db, "_id", "plans") == ["right"]
    assert project.states() == {"001_add": "applied"}


def test_an_edit_of_comments_and_layout_resumes(project):
    numbers(project.db, 2_000)
    stopped_at(project, 500, migration(ADD_ONE))
    project.edit("001_add", "operations=[", "operations=[  # one by one,\n\n        # nothing twice")

    project.migrate()

    assert values(project.db) == [1]


def test_an_edit_of_the_half_done_step_is_refused_and_can_be_undone(project):
    numbers(project.db, 2_000)
    done = stopped_at(project, 500, migration(ADD_ONE))
    project.edit("001_add", "{'n': 1}", "{'n': 10}")

    with pytest.raises(StepChangedError, match="rollback --failed"):
        project.migrate()
    assert values(project.db) == [0, 1]
    assert project.db.numbers.count_documents({"n": 1}) == done
    assert project.states() == {"001_add": "interrupted"}

    project.edit("001_add", "{'n': -1}", "{'n': -10}")
    project.rollback(failed_only=True)
    assert values(project.db) == [0]  # undone by what had run, not by what the file says now
    project.migrate()
    assert values(project.db) == [10]


def test_a_half_done_step_that_is_edited_and_put_back_resumes(project):
    numbers(project.db, 2_000)
    stopped_at(project, 500, migration(ADD_ONE))
    project.edit("001_add", "{'n': 1}", "{'n': 10}")
    with pytest.raises(StepChangedError):
        project.migrate()
    project.edit("001_add", "{'n': 10}", "{'n': 1}")

    project.migrate()

    assert values(project.db) == [1]


def test_an_edit_of_a_done_operation_is_refused_and_can_be_undone(project):
    half_failing(project)
    project.edit("001_half", "'numbers', {'$inc': {'n': 1}}", "'numbers', {'$inc': {'n': 2}}")

    with pytest.raises(UnresolvedMigrationError, match="rollback --failed"):
        project.migrate()

    project.rollback(failed_only=True)
    assert values(project.db) == [0]
    assert project.states() == {"001_half": "rolled_back"}


def test_a_failed_operation_that_is_replaced_by_another_is_observed_anew(project):
    project.db.users.insert_many([{"_id": i, "email": MARKER} for i in range(2)])
    project.db.create_collection("kept")
    project.write(
        n001_index=migration("CreateIndex('users', keys=[('email', 1)], name='email_unique', unique=True)"),
    )
    with pytest.raises((MigrationRefusedError, OperationError)):
        project.migrate()
    project.write(n001_index=migration("CreateCollection('kept')"))
    project.migrate()

    [operation] = history.load_one(project.db, "001_index").operations
    assert operation.kind == "CreateCollection"
    project.rollback()
    assert "kept" in project.db.list_collection_names()  # it was there before


def test_one_step_of_a_python_operation_may_be_corrected_while_another_keeps_its_progress(project):
    numbers(project.db, 1_000)
    text = migration(
        "RunPython(add, reverse=back, collections=('numbers',), batched=True)",
        before="""
            def add(ctx):
                ctx.in_batches("n", "numbers", {}, {"$inc": {"n": 1}})
                ctx.once("plan", lambda session: ctx.db.plans.insert_one({"_id": 1}))
                raise ValueError

            def back(ctx):
                ctx.in_batches("n", "numbers", {}, {"$inc": {"n": -1}})
                ctx.once("plan", lambda session: ctx.db.plans.delete_one({"_id": 1}))
            """,
    )
    project.write(n001_add=text)
    with pytest.raises(MigrationRefusedError):
        project.migrate()
    assert values(project.db) == [1]
    project.edit("001_add", "raise ValueError", 'ctx.in_batches("m", "numbers", {}, {"$inc": {"m": 1}})')

    project.migrate()

    assert (values(project.db), values(project.db, "m")) == ([1], [1])
    assert project.db.plans.count_documents({}) == 1


# Drift and order ------------------------------------------------------------------------------------------------------


def plans(number, name):
    return migration(f"InsertDocuments('plans', [{{'_id': {number!r}, 'name': {name!r}}}])")


def test_an_edited_file_stops_everything_until_it_is_restored(project):
    project.write(n001_a=plans(1, "a"), n002_b=plans(2, "b"))
    project.migrate("1")
    project.edit("001_a", "'a'", "'z'")

    for attempt in (project.migrate, project.rollback):
        with pytest.raises(ChecksumDriftError, match="001_a") as caught:
            attempt()
        assert caught.value.names == ("001_a",)
    assert values(project.db, "_id", "plans") == [1]

    project.edit("001_a", "'z'", "'a'")
    assert [outcome.name for outcome in project.migrate()] == ["002_b"]


def test_a_missing_file_stops_applying_and_can_be_rolled_back_from_the_recorded_source(project):
    project.write(n001_a=plans(1, "a"), n002_b=plans(2, "b"))
    project.migrate()
    project.path("002_b").unlink()

    with pytest.raises(MissingMigrationError, match="002_b"):
        project.migrate()
    assert [outcome.name for outcome in project.rollback("1")] == ["002_b"]
    assert values(project.db, "_id", "plans") == [1]


def test_a_missing_file_that_is_irreversible_stops_the_rollback_before_it_begins(project):
    project.write(n001_a=migration("Backfill('numbers', {'$inc': {'n': 1}})"), n002_b=plans(2, "b"))
    numbers(project.db)
    project.migrate()
    project.path("001_a").unlink()

    with pytest.raises(IrreversibleError, match="001_a"):
        project.rollback()
    assert values(project.db, "_id", "plans") == [2]
    assert project.states() == {"001_a": "applied", "002_b": "applied"}


def test_a_late_file_stops_applying_unless_allowed(project):
    project.write(n001_a=plans(1, "a"), n003_c=plans(3, "c"))
    project.migrate()
    project.write(n002_b=plans(2, "b"))

    with pytest.raises(OutOfOrderError, match="002_b would run after 003_c"):
        project.migrate()
    assert [outcome.name for outcome in project.migrate(allow_out_of_order=True)] == ["002_b"]
    assert {record.name: record.order for record in project.survey().records} == {"001_a": 1, "002_b": 3, "003_c": 2}


def test_a_migration_for_another_environment_is_left_out(project):
    project.write(
        n001_a=plans(1, "a").replace("],\n)", "],\n    environments=('production',),\n)"), n002_b=plans(2, "b")
    )

    assert [outcome.name for outcome in project.migrate()] == ["002_b"]
    assert values(project.db, "_id", "plans") == [2]


def test_a_repeatable_migration_runs_after_all_others_every_time(project):
    again = migration(
        "RunPython(count, reverse=count)", before="def count(ctx):\n    ctx.db.runs.update_one({'_id': 1}, {'$inc': {'n': 1}}, upsert=True)",
        run_always="True",
    )  # fmt: skip
    project.write(n001_always=again, n002_b=plans(2, "b"))

    assert [outcome.name for outcome in project.migrate()] == ["002_b", "001_always"]
    assert [outcome.name for outcome in project.migrate()] == ["001_always"]
    project.edit("001_always", "'n': 1", "'n': 10")
    project.migrate()
    assert values(project.db, "n", "runs") == [12]
    assert history.load_one(project.db, "001_always").application == 3


# Conditions and bad input ---------------------------------------------------------------------------------------------


def test_what_a_migration_requires_is_checked_before_anything_is_written(project):
    project.write(n001_a=migration(ADD_ONE, requires="[CountIs('numbers', at_least=1)]"))

    with pytest.raises(MigrationRefusedError, match="at least 1 are required"):
        project.migrate()
    assert project.states() == {"001_a": "failed"}

    numbers(project.db, 1)
    project.migrate()
    assert values(project.db) == [1]


def test_what_a_migration_ensures_decides_whether_it_is_applied(project):
    numbers(project.db, 3)
    project.write(n001_a=migration(ADD_ONE, ensures="[NoneMatch('numbers', {'n': 1})]"))

    with pytest.raises(MigrationRefusedError, match="3 documents of numbers match"):
        project.migrate()
    assert project.states() == {"001_a": "failed"}
    assert [op.state for op in history.load_one(project.db, "001_a").operations] == ["done"]
    project.rollback(failed_only=True)
    assert values(project.db) == [0]


def test_a_required_condition_holds_again_after_a_rollback(project):
    project.write(n001_a=migration(ADD_ONE, requires="[CountIs('numbers', at_least=1)]"))
    numbers(project.db, 1)
    project.migrate()
    project.rollback()
    project.db.numbers.delete_many({})

    with pytest.raises(MigrationRefusedError, match="must not start"):
        project.migrate()


def test_unknown_versions_are_refused(project):
    project.write(n001_a=plans(1, "a"))

    for wrong in ("9", "nine", "", "-1", "²"):
        with pytest.raises(UnknownVersionError):
            project.migrate(wrong)
        with pytest.raises(UnknownVersionError):
            project.rollback(wrong)
    assert project.states() == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("migration = Migration(", "line 1"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("x = 1", "must define"),
        ("raise RuntimeError('no')", "RuntimeError"),
    ],
)
def test_a_file_that_cannot_be_read_stops_before_the_database_is_touched(project, text, problem):
    project.write(n001_a=plans(1, "a"), n002_b=text)

    with pytest.raises(MigrationFileError, match=problem) as caught:
        project.migrate()
    assert caught.value.path.name == "002_b.py"
    assert project.db.list_collection_names() == []


def test_two_files_with_one_number_are_refused(project):
    project.write(n001_a=plans(1, "a"), n001_b=plans(2, "b"))

    with pytest.raises(MigrationFileError, match="same number as 001_a.py"):
        project.migrate()


def test_an_empty_folder_is_nothing_to_do_and_a_missing_one_is_an_error(project):
    with pytest.raises(PlanError, match="does not exist"):
        project.migrate()
    project.write()
    assert project.migrate() == []


def test_an_approved_plan_no_longer_covers_an_edited_file(project):
    project.write(n001_a=plans(1, "a"), n002_b=plans(2, "b"))
    facts = project.survey()
    approved = engine.plan_forward(project.target, facts)
    project.migrate("1")
    facts = project.survey()
    engine.insist(
        approved, engine.plan_forward(project.target, facts), facts.records
    )  # its first step is done meanwhile

    project.edit("002_b", "'b'", "'z'")
    facts = project.survey()
    with pytest.raises(PlanChangedError) as caught:
        engine.insist(approved, engine.plan_forward(project.target, facts), facts.records)
    assert caught.value.approved == approved.digest
    with pytest.raises(PlanChangedError):
        engine.insist_on_step(approved, approved, facts, "002_b")


def test_a_plan_writes_nothing(project):
    numbers(project.db)
    project.write(n001_a=migration(ADD_ONE), n002_b=plans(2, "b"))
    before = set_digest(project.db.numbers.find())

    engine.plan_forward(project.target, project.survey())

    assert set_digest(project.db.numbers.find()) == before
    assert project.db.list_collection_names() == ["numbers"]


def test_another_run_is_refused_while_one_is_open(project):
    from mongo_ops.mongo.lease import LeaseHeldError

    project.write(n001_a=plans(1, "a"))
    with project.open("first"), pytest.raises(LeaseHeldError, match="held by first"):
        project.migrate(owner="second")
    assert project.states() == {}
    assert len(project.migrate(owner="second")) == 1


def test_history_is_only_ever_added_to(project):
    project.write(n001_a=plans(1, "a"))
    project.migrate()
    before = list(project.db["ops_history"].find().sort("_id", 1))
    project.rollback()
    project.migrate()
    after = list(project.db["ops_history"].find().sort("_id", 1))

    assert after[: len(before)] == before
    assert project.events("001_a").count("applied") == 2
    assert project.events("001_a").count("rolled_back") == 1
    shutil.rmtree(project.include)
