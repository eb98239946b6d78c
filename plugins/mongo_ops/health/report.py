"""What a run says: as text for a terminal, Markdown for Airflow, JSON for machines; the page is made in ``page``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from mongo_ops.health.checks import CHECKS
from mongo_ops.health.history import count
from mongo_ops.health.model import Check, Finding, Judged, Result, Run, Status, Transition

RUNS_SHOWN = 60
TODO_SHOWN = 10
BY_ID: Mapping[str, Check] = {check.id: check for check in CHECKS}


@dataclass(frozen=True)
class Rows:
    """The history as the page draws it: summaries of checks and numeric findings of the last runs, the oldest first."""

    summaries: Sequence[Mapping[str, Any]] = ()
    numbers: Sequence[Mapping[str, Any]] = ()


def without_history(run: Run) -> Run:
    """Return the run with the note that it is not in the history."""
    return replace(run, notes=(*run.notes, "The server went away: this run is not in the history."))


def problems(run: Run) -> tuple[Judged, ...]:
    """Return what somebody should look at, the worst first."""
    return tuple(one for one in run.judged if one.is_problem)


def as_text(run: Run) -> str:
    """Return the run for a terminal."""
    counts = ", ".join(f"{number} {status}" for status, number in count(run.results).items() if number)
    lines = [
        f"{run.environment} ({run.database}): {run.status}. {counts}; {run.commands} commands in {run.seconds:.1f} s."
    ]
    for one in run.judged:
        muted = f" [muted by {one.muted}]" if one.muted else ""
        lines.append(f"  {one.finding.status:8} {one.transition or '':6} {one.check}: {one.finding.sentence}{muted}")
        lines += [f"           {line}" for line in one.finding.diff]
    return "\n".join([*lines, *run.notes])


def as_markdown(run: Run) -> str:
    """Return the summary that Airflow shows as the run's result."""
    lines = [f"**{run.status}** on **{run.environment}** (`{run.database}`), {run.at:%Y-%m-%d %H:%M} UTC", ""]
    lines.append("  ".join(f"{status}: {number}" for status, number in count(run.results).items() if number))
    if run.judged:
        lines += ["", "| | | check | what |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {one.finding.status} | {one.transition or ''}{' (muted)' if one.muted else ''} | {one.check} | {_cell(one.finding.sentence)} |"
            for one in run.judged
        ]
    todo = what_first(run)
    lines += (
        ["", "What to do first:", "", *(f"1. {BY_ID[name].title}: {BY_ID[name].todo}" for name in todo)] if todo else []
    )
    return "\n".join([*lines, *([""] if run.notes else []), *run.notes])


def what_first(run: Run) -> tuple[str, ...]:
    """Return the checks to act on, the worst first, each once."""
    return tuple(dict.fromkeys(one.check for one in problems(run)))[:TODO_SHOWN]


def as_value(run: Run) -> dict[str, Any]:
    """Return the run as plain JSON values."""
    return {
        "run": run.id, "environment": run.environment, "database": run.database, "at": run.at.isoformat(),
        "status": str(run.status), "counts": count(run.results), "commands": run.commands, "seconds": round(run.seconds, 3),
        "notes": list(run.notes), "checks": [result_value(one) for one in run.results],
        "judged": [_judged_value(one) for one in run.judged],
    }  # fmt: skip


def result_value(result: Result) -> dict[str, Any]:
    """Return a result as plain JSON values; :func:`result_of` reads it back."""
    return {
        **asdict(result),
        "status": str(result.status),
        "findings": [_finding_value(one) for one in result.findings],
    }


def result_of(value: Mapping[str, Any]) -> Result:
    """Read a result back."""
    findings = tuple(
        Finding(
            **{**one, "status": Status(one["status"]), "evidence": tuple(one["evidence"]), "diff": tuple(one["diff"])}
        )
        for one in value["findings"]
    )
    return Result(**{**value, "status": Status(value["status"]), "findings": findings})


def run_of(value: Mapping[str, Any]) -> Run:
    """Read a run back from :func:`as_value`."""
    judged = tuple(
        Judged(
            one["check"], result_of({"check": one["check"], "status": "OK", "findings": [one["finding"]]}).findings[0],
            Transition(one["transition"]) if one["transition"] else None, one["muted"],
            datetime.fromisoformat(one["since"]) if one["since"] else None,
        )
        for one in value["judged"]
    )  # fmt: skip
    return Run(
        value["run"], value["environment"], value["database"], datetime.fromisoformat(value["at"]),
        tuple(result_of(one) for one in value["checks"]), judged, value["commands"], value["seconds"], tuple(value["notes"]),
    )  # fmt: skip


def _judged_value(one: Judged) -> dict[str, Any]:
    return {
        "check": one.check, "finding": _finding_value(one.finding), "transition": one.transition and str(one.transition),
        "muted": one.muted, "since": one.since.isoformat() if one.since else None,
    }  # fmt: skip


def _finding_value(one: Finding) -> dict[str, Any]:
    return {**asdict(one), "status": str(one.status), "evidence": list(one.evidence), "diff": list(one.diff)}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
