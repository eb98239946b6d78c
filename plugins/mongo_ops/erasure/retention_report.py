"""What a person reads of a night of retention: its plan as text and as Markdown. Pure; names nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.erasure.retention import Due, RetentionPlan


def as_text(plan: RetentionPlan) -> str:
    """Return the plan for a terminal."""
    lines = [f"Retention on {plan.environment} ({plan.database}), as of {plan.at:%Y-%m-%d %H:%M} UTC", ""]
    width = max((len(one.id) for one in plan.due), default=0)
    lines += [
        f"  {one.id:{width}}  {one.action:9} {one.documents:>10,} before {one.before:%Y-%m-%d}{_aside(one)}"
        for one in plan.due
    ]
    lines += [f"  note   {one}" for one in plan.notes]
    return "\n".join([*lines, "", f"Digest {plan.digest}"])


def as_markdown(plan: RetentionPlan) -> str:
    """Return the plan for the Airflow UI and for approvals."""
    lines = [f"Retention on **{plan.environment}** (`{plan.database}`), digest `{plan.digest}`.", ""]
    lines += ["| rule | action | before | documents | |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {one.id} | {one.action} | {one.before:%Y-%m-%d} | {one.documents:,} | {_aside(one).removeprefix(': ')} |"
        for one in plan.due
        if one.documents or one.stops
    ]
    return "\n".join([*lines, "", *(f"- {one}" for one in plan.notes)]).rstrip()


def _aside(one: Due) -> str:
    parts = [f"{one.held:,} held"] if one.held else []
    parts += [f"{one.undated:,} without a date"] if one.undated else []
    parts += [f"STOPS {one.stops}"] if one.stops else []
    return f": {', '.join(parts)}" if parts else ""
