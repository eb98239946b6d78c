"""The report as one HTML file that loads nothing: heat map, what to do first, drift, trends. Frames by pandas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mongo_ops.health import charts, report
from mongo_ops.health.checks import CHECKS
from mongo_ops.health.history import count
from mongo_ops.health.model import Limits, Run
from mongo_ops.health.thresholds import Thresholds

TEMPLATES = Path(__file__).parent / "templates"
FEWEST_POINTS, MOST_CHARTS = 2, 24
SHARES = frozenset({"connections", "cache", "tickets", "disk_used", "fragmentation"})
"""Checks whose limits are shares while their values are percent."""

DIRTY = ("cache", "dirty")
DAYS = "days to full"


def as_page(run: Run, rows: report.Rows, thresholds: Thresholds) -> str:
    """Return the page. The run itself may or may not be among the rows."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    content = {
        "run": run, "counts": count(run.results), "checks": report.BY_ID, "todo": report.what_first(run),
        "problems": report.problems(run), "others": [one for one in run.judged if not one.is_problem],
        "heat": heat_map(run, rows), "charts": list(_charts(rows, thresholds)), "full": _full(run),
        "quiet": [one for one in run.results if not one.status.rank],
    }  # fmt: skip
    return environment.get_template("report.html").render(**content)


def heat_map(run: Run, rows: report.Rows) -> dict[str, Any]:
    """Return {runs: [labels], rows: [(check, [status or empty])]}; the last ``RUNS_SHOWN`` runs, the newest at the right."""
    own = [{"run": run.id, "at": run.at, "check": one.check, "status": str(one.status)} for one in run.results]
    frame = pd.DataFrame([*(dict(row) for row in rows.summaries if row["run"] != run.id), *own])
    table = frame.pivot_table(index="check", columns=["at", "run"], values="status", aggfunc="last").fillna("")
    table = table.sort_index(axis="columns").iloc[:, -report.RUNS_SHOWN :]
    order = [check.id for check in CHECKS if check.id in table.index]
    labels = [f"{column[0]:%Y-%m-%d %H:%M}" for column in table.columns]
    return {"runs": labels, "rows": [(report.BY_ID[name], [str(cell) for cell in table.loc[name]]) for name in order]}


def _charts(rows: report.Rows, thresholds: Thresholds) -> Iterator[dict[str, str]]:
    if not rows.numbers:
        return
    frame = pd.DataFrame([dict(row) for row in rows.numbers])
    drawn = 0
    for (name, scope), group in frame.groupby(["check", "scope"], sort=True):
        if len(group) < FEWEST_POINTS or drawn == MOST_CHARTS or not group["unit"].iloc[-1] or name not in report.BY_ID:
            continue
        limits = bands(str(name), str(scope), thresholds)
        drawing = charts.trend(group, limits, str(group["unit"].iloc[-1]), f"c{drawn}")
        drawn += 1
        title = report.BY_ID[str(name)].title
        last = f"{group['value'].iloc[-1]:,.1f} {group['unit'].iloc[-1]}"
        yield {"title": title if scope == "all" else f"{title}: {scope}", "last": last, "svg": drawing}


def bands(name: str, scope: str, thresholds: Thresholds) -> Limits:
    """Return the limits of a finding in the unit of its values."""
    limits = thresholds.of(report.BY_ID[name])
    if (name, scope) == DIRTY:
        limits = Limits(limits.option("dirty_warn"), limits.option("dirty_crit"))
    if scope == DAYS:
        return Limits(limits.option("days_warn"), limits.option("days_crit"))
    scale = 100.0 if name in SHARES else 1.0
    if limits.warn is None or limits.crit is None:
        return limits
    return replace(limits, warn=limits.warn * scale, crit=limits.crit * scale)


def _full(run: Run) -> str | None:
    """Say when the disk is full, when that can be told."""
    days = [
        one.value for result in run.results for one in result.findings if one.scope == DAYS and one.value is not None
    ]
    return f"in {days[0]:.0f} days ({run.at + timedelta(days=days[0]):%Y-%m-%d})" if days else None
