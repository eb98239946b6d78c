"""Planning is pure: files and records in, what to do out, or one sentence about what a person must do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mongo_ops.migrations.model import Migration, MigrationFile, Record, State
from mongo_ops.migrations.operations.backfill import Backfill
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.plan import (
    ChecksumDriftError,
    IrreversibleError,
    MissingMigrationError,
    OutOfOrderError,
    Plan,
    PlanStep,
    UnknownVersionError,
    UnresolvedMigrationError,
    missing_in_source,
    pending,
    rollback_path,
    still_covers,
    version_number,
)

from mongo_ops.migrations.model import OperationRecord  # isort: skip

ONE, TWO = InsertDocuments("plans", [{"_id": 1}]), InsertDocuments("plans", [{"_id": 2}])


def file(number, checksum="c", operations=(ONE, TWO), **options):
    name = f"{number:03d}_x"
    return MigrationFile(name, Path(f"{name}.py"), "A docstring.", "", checksum, Migration(operations, **options))


def record(number, state=State.APPLIED, order=None, done=0, **fields):
    digests = [ONE.digest(), TWO.digest()]
    states = ["done"] * done + ["pending"] * (2 - done)
    operations = tuple(OperationRecord("InsertDocuments", d, s) for d, s in zip(digests, states, strict=True))
    base = Record(f"{number:03d}_x", state, "c", order=number if order is None else order, operations=operations)
    return replace(base, **fields)


FILES = [file(1), file(2), file(3)]


def numbers(found):
    return [int(item.version) for item in found]


@pytest.mark.parametrize(
    ("records", "options", "wanted"),
    [
        ([], {}, [1, 2, 3]),
        ([], {"target": "2"}, [1, 2]),
        ([], {"target": "002_x"}, [1, 2]),
        ([record(1)], {}, [2, 3]),
        ([record(1)], {"target": "001"}, []),
        ([record(1), record(2), record(3)], {}, []),
        ([record(1), record(2, State.ROLLED_BACK, 0)], {}, [2, 3]),
        ([record(1), record(2, State.FAILED, 0, done=1)], {}, [2, 3]),
        ([record(1), record(2, State.INTERRUPTED, 0)], {}, [2, 3]),
        ([record(1), record(2, State.RUNNING, 0)], {"target": "1"}, []),
        ([record(1), record(3)], {"allow_out_of_order": True}, [2]),
        ([record(1), record(3), record(2, State.FAILED)], {}, [2]),  # begun already: not late any more
    ],
)
def test_what_is_still_to_run(records, options, wanted):
    assert numbers(pending(FILES, records, "development", **options)) == wanted


def test_environments_and_repeatable_migrations():
    files = [file(1, run_always=True), file(2, environments=("production",)), file(3), file(4, run_always=True)]

    assert numbers(pending(files, [], "development")) == [3, 1, 4]
    assert numbers(pending(files, [], "production")) == [2, 3, 1, 4]
    assert numbers(pending(files, [record(1, checksum="old"), record(3)], "development")) == [1, 4]
    assert numbers(pending(files, [record(3), record(4)], "development", target="3")) == [1]
    with pytest.raises(UnknownVersionError, match="known are 001, 003, 004"):
        pending(files, [], "development", target="2")


REFUSED = [
    ([record(1, checksum="other")], ChecksumDriftError, "001_x changed since being applied"),
    ([record(1), record(4)], MissingMigrationError, "004_x is applied but its file is gone"),
    ([record(1), record(3)], OutOfOrderError, "002_x would run after 003_x"),
    ([record(1, State.ROLLING_BACK)], UnresolvedMigrationError, "001_x is half rolled back"),
    ([record(1, State.FAILED, direction="reverse")], UnresolvedMigrationError, "rollback --failed"),
    (
        [record(1, State.FAILED, operations=(OperationRecord("X", "another digest", "done"),))],
        UnresolvedMigrationError,
        "001_x is failed and was edited in a part that is already done",
    ),
]


@pytest.mark.parametrize(("records", "kind", "said"), REFUSED)
def test_what_a_person_must_resolve_first(records, kind, said):
    with pytest.raises(kind) as caught:
        pending(FILES, records, "development")
    assert said in str(caught.value)
    assert caught.value.exit_code == 3


def test_all_drifted_files_are_named_at_once():
    with pytest.raises(ChecksumDriftError) as caught:
        pending(FILES, [record(3, checksum="x"), record(1, checksum="y"), record(2)], "development")
    assert caught.value.names == ("001_x", "003_x")


@pytest.mark.parametrize("wrong", ["", "x", "-1", "²", "v2", "1.5", " "])
def test_what_is_no_version(wrong):
    with pytest.raises(UnknownVersionError, match="not a version"):
        version_number(wrong)
    with pytest.raises(UnknownVersionError):
        pending(FILES, [], "development", target=wrong)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("001", 1), (" 012 ", 12), ("012_what_it_does", 12), ("0", 0)])
def test_what_is_a_version(text, number):
    assert version_number(text) == number


# Going back -----------------------------------------------------------------------------------------------------------

ALL = [record(1), record(2, order=3), record(3, order=2)]


@pytest.mark.parametrize(
    ("records", "target", "wanted"),
    [
        ([], "0", []),
        (ALL, "0", [2, 3, 1]),  # latest applied first
        (ALL, "1", [2, 3]),
        (ALL, "2", [3]),
        (ALL, "3", []),
        ([record(1), record(2, State.ROLLED_BACK)], "0", [1]),
        ([record(1), record(2), record(3, State.FAILED)], "1", [3, 2]),
        ([record(1), record(2), record(3, State.ROLLING_BACK)], "2", [3]),
        ([record(1), record(2, State.FAILED)], "2", []),
    ],
)
def test_what_is_to_be_undone_in_order(records, target, wanted):
    assert numbers(rollback_path(FILES, records, target)) == wanted


def test_only_what_stopped_half_way():
    records = [record(1), record(2, State.INTERRUPTED), record(3, State.ROLLING_BACK)]

    assert numbers(rollback_path(FILES, records, None, failed_only=True)) == [3, 2]


@pytest.mark.parametrize(
    ("files", "records", "target", "kind", "said"),
    [
        (FILES, ALL, None, UnknownVersionError, "Say which version"),
        (FILES, ALL, "9", UnknownVersionError, "no migration 9"),
        ([file(1), file(2, irreversible="told the bank"), file(3)], ALL, "1", IrreversibleError, "told the bank"),
        (
            [file(1), file(2, operations=[Backfill("a", {"$set": {"b": 1}})]), file(3)],
            ALL,
            "1",
            IrreversibleError,
            "no way back",
        ),
        (FILES, [record(1, baseline=True)], "0", IrreversibleError, "did not run here"),
        ([file(1), file(2, "edited"), file(3)], ALL, "1", ChecksumDriftError, "002_x"),
    ],
)
def test_what_cannot_be_undone(files, records, target, kind, said):
    with pytest.raises(kind, match=said):
        rollback_path(files, records, target)


def test_what_is_below_the_target_need_not_be_reversible():
    files = [file(1, irreversible="never"), file(2, "edited"), file(3)]

    assert numbers(rollback_path(files, [record(1), record(2), record(3)], "2")) == [3]


def test_a_record_without_its_file_can_be_undone():
    assert numbers(rollback_path([file(1)], [record(1), record(2)], "1")) == [2]


# Approved plans -------------------------------------------------------------------------------------------------------


def plan(*steps, environment="production", database="music", direction="forward"):
    return Plan(environment, database, direction, tuple(PlanStep(name, sum_, ("do",)) for name, sum_ in steps))


def test_a_digest_is_of_what_is_done_where_and_in_which_order():
    base = plan(("001_x", "a"), ("002_x", "b"))
    others = [
        plan(("002_x", "b"), ("001_x", "a")),
        plan(("001_x", "a")),
        plan(("001_x", "a"), ("002_x", "c")),
        replace(base, environment="staging"),
        replace(base, database="other"),
        replace(base, direction="reverse"),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 7
    worded = replace(base, steps=tuple(replace(step, operations=("other words",), resumes=1) for step in base.steps))
    assert worded.digest == base.digest
    assert Plan.of(base.as_value()) == base


A, B, C = ("001_x", "c"), ("002_x", "c"), ("003_x", "c")


@pytest.mark.parametrize(
    ("approved", "now", "records", "covered"),
    [
        (plan(A, B), plan(A, B), [], True),
        (plan(A, B), plan(B), [record(1)], True),
        (plan(A, B), plan(), [record(1), record(2)], True),
        (plan(A, B), plan(A, B, C), [], False),  # a file more
        (plan(A, B), plan(A), [], False),  # a file less
        (plan(A, B), plan(B, A), [], False),
        (plan(A, B), plan(A, ("002_x", "edited")), [], False),
        (plan(A, B), plan(B), [record(1, checksum="other")], False),
        (plan(A, B), plan(B), [record(1, State.FAILED)], False),
        (plan(A, B), replace(plan(A, B), database="other"), [], False),
        (
            plan(B, A, direction="reverse"),
            plan(A, direction="reverse"),
            [record(1), record(2, State.ROLLED_BACK)],
            True,
        ),
        (plan(B, A, direction="reverse"), plan(A, direction="reverse"), [record(1), record(2)], False),
    ],
)
def test_an_approval_covers_what_is_left_of_its_plan_and_nothing_else(approved, now, records, covered):
    assert still_covers(approved, now, records) is covered


def test_a_protected_environment_takes_only_what_its_source_has_proved():
    todo = [file(1), file(2, "new"), file(3), file(4, environments=("production",))]
    source = [record(1), record(2), record(3, State.FAILED)]

    assert missing_in_source(todo, source, "staging") == ("002_x", "003_x")
