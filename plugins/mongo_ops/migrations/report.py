"""What a person reads: plans and status as text, Markdown and JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mongo_ops.migrations.model import MigrationFile, Record, State
from mongo_ops.migrations.plan import Plan
from mongo_ops.migrations.preview import MigrationPreview, OperationPreview


def plan_as_json(plan: Plan, previews: Sequence[MigrationPreview]) -> dict[str, Any]:
    """Return the plan with its previews as JSON-able values."""
    return {
        "environment": plan.environment,
        "database": plan.database,
        "direction": plan.direction,
        "digest": plan.digest,
        "steps": [
            {
                "name": step.name,
                "checksum": step.checksum,
                "operations": list(step.operations),
                "operations_done": step.resumes,
            }
            for step in plan.steps
        ],
        "previews": [
            {
                "name": preview.name,
                "title": preview.title,
                "one_transaction": preview.transaction,
                "risk": preview.risk,
                "estimated_seconds": round(preview.seconds, 2),
                "stops": list(preview.stops),
                "operations": [_operation(op) for op in preview.operations],
            }
            for preview in previews
        ],
    }


def _operation(op: OperationPreview) -> dict[str, Any]:
    seen = op.preview
    return {
        "description": op.description,
        "kind": op.kind,
        "documents_matched": seen.matched,
        "documents_scanned": seen.scanned,
        "documents_rejected": seen.rejected,
        "estimated_seconds": round(seen.seconds, 2),
        "collection_scan": seen.scan,
        "risk": seen.risk,
        "notes": list(seen.notes),
        "stop": seen.stop,
    }


def plan_as_markdown(plan: Plan, previews: Sequence[MigrationPreview]) -> str:
    """Return the plan as Markdown: for approvals, pull requests and the Airflow UI."""
    verb = "Apply" if plan.direction == "forward" else "Roll back"
    if not plan.steps:
        return f"Nothing to do on **{plan.environment}** (`{plan.database}`)."
    lines = [f"{verb} {_count(len(plan.steps), 'migration')} on **{plan.environment}** (`{plan.database}`)."]
    lines += ["", f"Plan digest `{plan.digest}`", ""]
    by_name = {preview.name: preview for preview in previews}
    for step in plan.steps:
        lines += _markdown_step(step.name, step.operations, step.resumes, by_name.get(step.name))
    return "\n".join(lines)


def _markdown_step(name: str, operations: Sequence[str], resumes: int, preview: MigrationPreview | None) -> list[str]:
    lines = [f"### {name}", ""]
    if preview is None:
        return [*lines, *(f"1. {description}" for description in operations), ""]
    lines += [preview.title, ""] if preview.title else []
    lines += [f"Resumes after {_count(resumes, 'operation')}.", ""] if resumes else []
    lines += [
        "| operation | documents | scanned | rejected | about | risk |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {_cell(op.description)} | {_number(op.preview.matched)} | {_number(op.preview.scanned)} "
        f"| {_number(op.preview.rejected)} | {op.preview.seconds:.1f} s | {op.preview.risk} |"
        for op in preview.operations
    ]
    lines += [f"- {_cell(note)}" for op in preview.operations for note in op.preview.notes]
    lines += [f"- **would fail**: {_cell(stop)}" for stop in preview.stops]
    return [*lines, ""]


def plan_as_text(plan: Plan, previews: Sequence[MigrationPreview]) -> str:
    """Return the plan for a terminal."""
    if not plan.steps:
        return f"Nothing to do on {plan.environment} ({plan.database})."
    verb = "apply" if plan.direction == "forward" else "roll back"
    lines = [f"Plan for {plan.environment} ({plan.database}): {verb} {_count(len(plan.steps), 'migration')}"]
    by_name = {preview.name: preview for preview in previews}
    for step in plan.steps:
        preview = by_name.get(step.name)
        lines += [
            "",
            f"{step.name}" + (f"  (resumes after {_count(step.resumes, 'operation')})" if step.resumes else ""),
        ]
        if preview is None:
            lines += [f"  - {description}" for description in step.operations]
            continue
        lines.append(
            f"  risk {preview.risk}, about {preview.seconds:.1f} s"
            + (", one transaction" if preview.transaction else "")
        )
        lines += [line for op in preview.operations for line in _text_operation(op)]
    return "\n".join([*lines, "", f"Digest {plan.digest}"])


def _text_operation(op: OperationPreview) -> list[str]:
    seen = op.preview
    facts = [f"{_number(seen.matched)} documents"] if seen.matched != 0 or seen.scanned else []
    facts += ["collection scan"] if seen.scan else []
    facts += [f"{seen.rejected:,} rejected by the validator"] if seen.rejected else []
    lines = [f"  - {op.description}" + (f"  [{', '.join(facts)}]" if facts else "")]
    lines += [f"      {note}" for note in seen.notes]
    return [*lines, *([f"      WOULD FAIL: {seen.stop}"] if seen.stop else [])]


def status_rows(
    files: Sequence[MigrationFile], records: Sequence[Record], environment: str
) -> tuple[Mapping[str, Any], ...]:
    """Return one row per migration known to disk or database, in version order.

    Keys: name, title, group, state, drift (``edited``, ``missing`` or None), applied_at, operations_done, operations,
    attempts, error.
    """
    by_name = {record.name: record for record in records}
    rows = [_row(file, by_name.get(file.name), environment) for file in files]
    known = {file.name for file in files}
    rows += [
        _missing_row(record) for record in records if record.name not in known and record.state is not State.ROLLED_BACK
    ]
    return tuple(sorted(rows, key=lambda row: row["name"]))


def status_as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the status rows as a plain table."""
    lines = [f"{'migration':<44} {'group':<9} {'state':<13} {'done':>7}  applied at"]
    for row in rows:
        done = f"{row['operations_done']}/{row['operations']}"
        state = f"{row['state']}{' (' + row['drift'] + ')' if row['drift'] else ''}"
        lines.append(f"{row['name']:<44} {row['group']:<9} {state:<13} {done:>7}  {(row['applied_at'] or '')[:19]}")
    return "\n".join(lines)


def _row(file: MigrationFile, record: Record | None, environment: str) -> Mapping[str, Any]:
    state = record.state if record else State.PENDING
    if record is None and not file.migration.applies_to(environment):
        shown = "not for here"
    else:
        shown = "pending" if state is State.ROLLED_BACK else state.value
    edited = record is not None and state is State.APPLIED and record.checksum != file.checksum
    done = sum(op.state == "done" for op in record.operations) if record else 0
    return {
        "name": file.name,
        "title": file.title,
        "group": file.group,
        "state": "baseline" if record and record.baseline and state is State.APPLIED else shown,
        "drift": "edited" if edited and not file.migration.run_always else None,
        "applied_at": record.applied_at.isoformat()
        if record and record.applied_at and state is State.APPLIED
        else None,
        "operations_done": done,
        "operations": len(file.migration.operations),
        "attempts": record.attempt if record else 0,
        "error": record.error if record else None,
    }


def _missing_row(record: Record) -> Mapping[str, Any]:
    return {
        "name": record.name, "title": "", "group": "", "state": record.state.value, "drift": "missing",
        "applied_at": record.applied_at.isoformat() if record.applied_at else None,
        "operations_done": sum(op.state == "done" for op in record.operations), "operations": len(record.operations),
        "attempts": record.attempt, "error": record.error,
    }  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
