"""Every state of a migration, reached for real and left again; processes killed, stopped and started at once."""

from __future__ import annotations

import signal
import threading

import pytest
from tests.mongo.runner import Project, migration, point_of, slow, until

from mongo_ops import audit
from mongo_ops.migrations import engine, history, report
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.model import State
from mongo_ops.migrations.operations.catalogue import options_form
from mongo_ops.migrations.plan import UnresolvedMigrationError
from mongo_ops.mongo.lease import LeaseHeldError, show

ADD_ONE = "Backfill('numbers', {'$inc': {'n': 1}}, revert={'$inc': {'n': -1}})"
MANY = 20_000


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    """A process that is killed leaves its transaction open; the server ends it, and the next run waits for that."""
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 2})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


@pytest.fixture
def project(target, tmp_path):
    """Short batches, so that there is always a middle to be killed in."""
    return Project(slow(target, batch_seconds=0.02, lease_ttl=2.0), tmp_path / "include")


def numbers(db, count=MANY):
    spread = {"$project": {"i": {"$range": [0, count]}}}
    shape = {"$project": {"_id": "$i", "n": {"$literal": 0}}}
    db.aggregate([{"$documents": [{}]}, spread, {"$unwind": "$i"}, shape, {"$out": "numbers"}])


def tally(db):
    return {row["_id"]: row["c"] for row in db.numbers.aggregate([{"$group": {"_id": "$n", "c": {"$sum": 1}}}])}


def state(project, name="001_add"):
    record = history.load_one(project.db, name)
    return (record.state, record.direction)


def shown(project, name="001_add"):
    """The row that a person sees."""
    facts = project.survey()
    return next(row for row in report.status_rows(facts.files, facts.records, "development") if row["name"] == name)


def walking(project, process, at_least, direction="forward"):
    """Wait until the process has walked so many documents."""
    until(lambda: point_of(project.db, "001_add", direction) >= at_least, f"{at_least} documents", running=process)


def sound(project):
    report = audit.verify(project.db)
    return report.ok and not report.faults


# The way through ------------------------------------------------------------------------------------------------------


def test_pending_running_applied_rolling_back_rolled_back(project):
    seen = []
    project.report = lambda progress: seen.append((state(project)[0], shown(project)["state"]))
    numbers(project.db, 10)
    project.write(n001_add=migration(ADD_ONE))

    assert history.load_one(project.db, "001_add") is None
    assert shown(project)["state"] == "pending"
    project.migrate()
    assert state(project) == (State.APPLIED, "forward")
    assert shown(project)["applied_at"] is not None
    project.rollback()
    assert state(project) == (State.ROLLED_BACK, "reverse")
    assert (shown(project)["state"], shown(project)["applied_at"]) == ("pending", None)
    assert seen == [(State.RUNNING, "running"), (State.ROLLING_BACK, "rolling_back")]
    assert project.events("001_add") == [
        *("started", "operation", "applied"),
        *("rolling_back", "operation", "rolled_back"),
    ]


@pytest.mark.parametrize("stop", ["KeyboardInterrupt", "SystemExit"])
def test_interrupted_by_a_stop_from_outside_gives_the_lease_up_and_resumes(project, stop):
    numbers(project.db, 10)
    work = "def work(ctx):\n    if not ctx.db.go_on.find_one():\n        raise " + stop
    project.write(n001_add=migration(ADD_ONE, "RunPython(work, reverse=work, batched=True)", before=work))

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        project.migrate()

    assert state(project) == (State.INTERRUPTED, "forward")
    assert show(project.db, engine.RESOURCE) is None
    assert shown(project)["operations_done"] == 1
    project.db.go_on.insert_one({})
    project.migrate(owner="another")
    assert state(project) == (State.APPLIED, "forward")
    assert tally(project.db) == {1: 10}
    assert project.events("001_add").count("interrupted") == 1


def test_failed_blocks_later_ones_until_it_is_resolved_either_way(project):
    numbers(project.db, 10)
    project.write(
        n001_add=migration(ADD_ONE, "RunPython(work, reverse=work)", before="def work(ctx):\n    raise ValueError"),
        n002_later=migration("InsertDocuments('plans', [{'_id': 1}])"),
    )
    for attempt in (1, 2):
        with pytest.raises(MigrationRefusedError):
            project.migrate()
        assert state(project) == (State.FAILED, "forward")
        assert shown(project)["attempts"] == attempt
        assert "ValueError" in shown(project)["error"]
    assert project.states() == {"001_add": "failed"}

    project.rollback(failed_only=True)
    assert tally(project.db) == {0: 10}
    project.edit("001_add", "raise ValueError", "return")
    project.migrate()
    assert project.states() == {"001_add": "applied", "002_later": "applied"}
    assert shown(project)["error"] is None
    assert tally(project.db) == {1: 10}


# Killed ---------------------------------------------------------------------------------------------------------------


def test_a_killed_backfill_increments_every_document_exactly_once(project):
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))

    for kill in range(2):
        with project.process() as process:
            walking(project, process, 500 + kill * 4_000)
            process.kill()
        assert state(project) == (State.RUNNING, "forward")
        half = tally(project.db)
        assert set(half) == {0, 1}
    assert shown(project)["state"] == "running"

    with project.process() as process:
        code, told, log = process.end()
    assert (code, told[-1]["name"]) == (0, "001_add"), log
    assert told[-1]["counts"] == {"matched": MANY, "modified": MANY}
    assert tally(project.db) == {1: MANY}
    assert state(project) == (State.APPLIED, "forward")
    assert project.events("001_add").count("interrupted") == 2
    assert history.load_one(project.db, "001_add").attempt == 3
    assert sound(project)


def test_a_killed_rollback_is_finished_and_decrements_every_document_exactly_once(project):
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))
    project.migrate()

    with project.process(rollback_to="0") as process:
        walking(project, process, 3_000, "reverse")
        process.kill()
    assert state(project) == (State.ROLLING_BACK, "reverse")
    assert shown(project)["state"] == "rolling_back"
    with pytest.raises(UnresolvedMigrationError, match="half rolled back"):
        project.migrate()

    project.rollback(failed_only=True)
    assert tally(project.db) == {0: MANY}
    assert state(project) == (State.ROLLED_BACK, "reverse")
    assert sound(project)


def test_a_half_done_backfill_is_undone_where_it_was_done(project):
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))
    with project.process() as process:
        walking(project, process, 5_000)
        process.kill()
    assert tally(project.db)[1] >= 5_000

    project.rollback(failed_only=True)

    assert tally(project.db) == {0: MANY}
    assert state(project) == (State.ROLLED_BACK, "reverse")


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("CreateIndex('numbers', keys=[('n', 1)], name='n')", "CreateIndex"),
        ("CreateCollection('made')", "CreateCollection"),
        ("SetValidator('numbers', {'n': {'$gte': 0}})", "SetValidator"),
        ("RenameCollection('numbers', 'renamed')", "RenameCollection"),
        ("DropCollection('numbers')", "DropCollection"),
    ],
)
def test_killed_between_the_work_and_its_record_an_operation_is_recognised_and_can_be_undone(project, operation, kind):
    numbers(project.db, 5)
    before = catalogue(project.db)
    project.write(n001_add=migration(operation, "InsertDocuments('plans', [{'_id': 1}])"))

    with project.process(stop_after=[kind, "forward"]) as process:
        assert [process.line()["event"], process.line()["event"]] == ["opened", "stopped"]
        process.kill()
    record = history.load_one(project.db, "001_add")
    assert [op.state for op in record.operations] == ["running", "pending"]
    after = catalogue(project.db)
    assert after != before
    project.migrate()
    assert state(project) == (State.APPLIED, "forward")

    with project.process(stop_after=[kind, "reverse"], rollback_to="0") as process:
        assert [process.line()["event"], process.line()["event"]] == ["opened", "stopped"]
        process.kill()
    project.rollback(failed_only=True)
    assert catalogue(project.db) == before
    assert state(project) == (State.ROLLED_BACK, "reverse")


def catalogue(db):
    names = sorted(name for name in db.list_collection_names() if not name.startswith(("ops_", "audit_log", "plans")))
    rules = {info["name"]: options_form(info.get("options", {})) for info in db.list_collections()}
    return [(name, rules[name], sorted(db[name].index_information()), db[name].count_documents({})) for name in names]


# Stopped, overtaken, started at once ----------------------------------------------------------------------------------


def test_sigterm_releases_the_lease_and_the_next_run_need_not_wait(project):
    project.target = slow(project.target, lease_ttl=300.0)
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))

    with project.process(owner="first") as process:
        walking(project, process, 2_000)
        process.send(signal.SIGTERM)
        code, _, log = process.end()
    assert code == 143, log
    assert state(project) == (State.INTERRUPTED, "forward")
    assert show(project.db, engine.RESOURCE) is None

    project.migrate(owner="second")
    assert tally(project.db) == {1: MANY}
    assert state(project) == (State.APPLIED, "forward")


def test_a_retry_of_the_same_run_takes_a_dead_processs_lease_over_at_once(project):
    project.target = slow(project.target, lease_ttl=300.0)
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))
    with project.process(owner="run 1") as process:
        walking(project, process, 2_000)
        process.kill()

    with pytest.raises(LeaseHeldError, match="held by run 1"):
        project.migrate(owner="run 2")
    project.migrate(owner="run 1")
    assert tally(project.db) == {1: MANY}


def test_a_runner_that_slept_beyond_its_lease_changes_nothing_when_it_wakes(project):
    project.target = slow(project.target, lease_ttl=1.0)
    numbers(project.db)
    project.write(n001_add=migration(ADD_ONE))

    with project.process(owner="zombie") as process:
        walking(project, process, 2_000)
        process.send(signal.SIGSTOP)
        with pytest.raises(LeaseHeldError):
            project.migrate(owner="second")
        finish(project, "second")
        before = list(project.db["ops_history"].find()), project.db["ops_migrations"].find_one()
        process.send(signal.SIGCONT)
        code, told, log = process.end()

    assert (code, told[-1]["type"]) == (1, "LeaseLostError"), log
    assert tally(project.db) == {1: MANY}
    assert state(project) == (State.APPLIED, "forward")
    assert (list(project.db["ops_history"].find()), project.db["ops_migrations"].find_one()) == before
    assert before[1]["run_id"] == "run 1"
    assert sound(project)


def finish(project, owner):
    """Migrate as soon as the former holder's lease has lapsed."""

    def migrated():
        try:
            return project.migrate(owner=owner) or True
        except LeaseHeldError:
            return False

    until(migrated, "the lease of the former holder lapses", 30)


def test_of_five_starts_at_once_exactly_one_applies(project, tmp_path):
    starts_at_once(project, tmp_path / "go", 5)


def starts_at_once(project, barrier, count):
    numbers(project.db, 4_000)
    project.write(n001_add=migration(ADD_ONE), n002_more=migration(ADD_ONE.replace("'n'", "'m'")))
    processes = [project.process(owner=f"start {number}", barrier=str(barrier)) for number in range(count)]
    try:
        assert {process.line()["event"] for process in processes} == {"ready"}
        barrier.touch()
        ends = [process.end() for process in processes]
    finally:
        for process in processes:
            process.send(signal.SIGKILL)

    applied = [told for code, told, _ in ends if any(line["event"] == "outcome" for line in told)]
    assert len(applied) == 1, ends
    assert [line["name"] for line in applied[0] if line["event"] == "outcome"] == ["001_add", "002_more"]
    for code, told, log in ends:
        if told in applied:
            assert code == 0
        elif code == 3:
            assert told[-1]["type"] == "LeaseHeldError"
            assert "migrations is held by start " in told[-1]["message"]
        else:  # came when all was done
            assert (code, [line["event"] for line in told]) == (0, ["opened"]), log
    assert tally(project.db) == {1: 4_000}
    assert project.events("001_add").count("applied") == project.events("002_more").count("applied") == 1
    assert sound(project)


def test_two_threads_of_one_process_do_not_disturb_each_other(project):
    numbers(project.db, 4_000)
    project.write(n001_add=migration(ADD_ONE))
    ends = []

    def attempt(owner):
        try:
            ends.append(len(project.migrate(owner=owner)))
        except LeaseHeldError:
            ends.append("held")

    threads = [threading.Thread(target=attempt, args=(f"thread {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ends.count("held") + ends.count(0) + ends.count(1) == 4
    assert tally(project.db) == {1: 4_000}
    assert project.events("001_add").count("applied") == 1
