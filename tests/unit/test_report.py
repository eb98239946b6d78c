"""What a person reads: the plan as text, Markdown and JSON, and the status table."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mongo_ops.migrations import report
from mongo_ops.migrations.model import Migration, MigrationFile, OperationRecord, Record, State
from mongo_ops.migrations.operations.base import Preview
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.plan import Plan, PlanStep
from mongo_ops.migrations.preview import MigrationPreview, OperationPreview

STEPS = (PlanStep("001_a", "c1", ("Set a", "Drop | b")), PlanStep("002_b", "c2", ("Build c",), resumes=1))
PLAN = Plan("production", "music", "forward", STEPS)
SEEN = MigrationPreview(
    "001_a",
    "Add a.",
    True,
    (
        OperationPreview("Set a", "Backfill", Preview(matched=1234, scanned=5000, rejected=7, seconds=2.25, scan=True)),
        OperationPreview(
            "Drop | b", "DropField", Preview(matched=None, risk="high", notes=("Looks odd.",), stop="no\nb")
        ),
    ),
)
EMPTY = Plan("production", "music", "forward", ())


def test_text_says_how_many_how_long_and_what_would_fail():
    assert report.plan_as_text(PLAN, [SEEN]).splitlines() == [
        "Plan for production (music): apply 2 migrations",
        "",
        "001_a",
        "  risk high, about 2.2 s, one transaction",
        "  - Set a  [1,234 documents, collection scan, 7 rejected by the validator]",
        "  - Drop | b  [unknown documents]",
        "      Looks odd.",
        "      WOULD FAIL: no",
        "b",
        "",
        "002_b  (resumes after 1 operation)",
        "  - Build c",
        "",
        f"Digest {PLAN.digest}",
    ]


def test_markdown_tables_survive_their_contents():
    lines = report.plan_as_markdown(PLAN, [SEEN]).splitlines()

    assert lines[0] == "Apply 2 migrations on **production** (`music`)."
    assert f"Plan digest `{PLAN.digest}`" in lines
    assert "| Set a | 1,234 | 5,000 | 7 | 2.2 s | low |" in lines
    assert "| Drop \\| b | unknown | 0 | 0 | 0.0 s | high |" in lines
    assert "- **would fail**: Drop \\| b: no b" in lines
    assert all(line.count(" | ") == 5 for line in lines if line.startswith("| ") and "---" not in line)


def test_json_holds_the_whole_plan():
    value = json.loads(json.dumps(report.plan_as_json(PLAN, [SEEN])))

    assert (value["digest"], value["direction"]) == (PLAN.digest, "forward")
    assert [step["operations_done"] for step in value["steps"]] == [0, 1]
    [seen] = value["previews"]
    assert (seen["risk"], seen["estimated_seconds"], seen["one_transaction"]) == ("high", 2.25, True)
    assert seen["stops"] == ["Drop | b: no\nb"]
    assert [op["documents_matched"] for op in seen["operations"]] == [1234, None]
    assert seen["operations"][0]["collection_scan"] is True


@pytest.mark.parametrize("render", [report.plan_as_text, report.plan_as_markdown])
def test_nothing_to_do_is_one_sentence(render):
    assert render(EMPTY, ()).replace("*", "").replace("`", "") == "Nothing to do on production (music)."


@pytest.mark.parametrize(
    ("render", "said"), [(report.plan_as_text, "roll back 1"), (report.plan_as_markdown, "Roll back 1")]
)
def test_a_rollback_is_called_so(render, said):
    assert f"{said} migration" in render(Plan("production", "music", "reverse", STEPS[:1]), ())


# Status ---------------------------------------------------------------------------------------------------------------

OPERATION = InsertDocuments("plans", [{"_id": 1}])
AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def file(number, **options):
    name = f"{number:03d}_x"
    return MigrationFile(name, Path(name), "Says what.", "", "c", Migration([OPERATION, OPERATION], **options))


def record(number, state=State.APPLIED, done=2, **fields):
    states = ["done"] * done + ["pending"] * (2 - done)
    operations = tuple(OperationRecord("InsertDocuments", "d", one) for one in states)
    return replace(Record(f"{number:03d}_x", state, "c", operations=operations, applied_at=AT, attempt=1), **fields)


ROWS = [
    (file(1), None, "pending", None, 0),
    (file(1), record(1), "applied", None, 2),
    (file(1), record(1, checksum="x"), "applied", "edited", 2),
    (file(1, run_always=True), record(1, checksum="x"), "applied", None, 2),
    (file(1), record(1, baseline=True), "baseline", None, 2),
    (file(1), record(1, State.FAILED, done=1), "failed", None, 1),
    (file(1), record(1, State.RUNNING, done=1, checksum="x"), "running", None, 1),
    (file(1), record(1, State.INTERRUPTED), "interrupted", None, 2),
    (file(1), record(1, State.ROLLING_BACK, done=1), "rolling_back", None, 1),
    (file(1), record(1, State.ROLLED_BACK, done=0), "pending", None, 0),
    (file(1, environments=("production",)), None, "not for here", None, 0),
    (file(1, environments=("production",)), record(1), "applied", None, 2),
    (None, record(1), "applied", "missing", 2),
    (None, record(1, State.FAILED, done=0), "failed", "missing", 0),
]


@pytest.mark.parametrize(("known", "found", "state", "drift", "done"), ROWS)
def test_a_row_says_state_drift_and_progress(known, found, state, drift, done):
    [row] = report.status_rows([known] if known else [], [found] if found else [], "development")

    assert (row["state"], row["drift"], row["operations_done"]) == (state, drift, done)
    applied = found is not None and found.state is State.APPLIED
    assert (row["applied_at"] is not None) is (applied or known is None)
    assert row["attempts"] == (1 if found else 0)


def test_what_is_rolled_back_and_gone_is_not_shown():
    assert report.status_rows([], [record(1, State.ROLLED_BACK)], "development") == ()


def test_the_table_is_in_order_and_aligned():
    rows = report.status_rows([file(2), file(1)], [record(3), record(1, checksum="x")], "development")
    lines = report.status_as_text(rows).splitlines()

    assert [line.split()[0] for line in lines] == ["migration", "001_x", "002_x", "003_x"]
    assert "applied (edited)" in lines[1]
    assert "2026-03-01T12:30:00" in lines[1]
    assert lines[2].split()[1:] == ["core", "pending", "0/2"]
    assert "applied (missing)" in lines[3]
