"""What a person reads: the plan of an erasure and the register of requests, as text, Markdown and JSON. Pure; names nobody."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from mongo_ops.erasure.model import OPEN, Plan, Request

WARN_DAYS = 7


def plan_as_markdown(plan: Plan) -> str:
    """Return the plan as Markdown: for approvals and the Airflow UI."""
    people = _people(plan.requests)
    if not plan.requests:
        return f"Nobody to erase on **{plan.environment}** (`{plan.database}`). {_excluded(plan)}".strip()
    lines = [f"Erase {people} from **{plan.environment}** (`{plan.database}`), run `{plan.run_id}`.", ""]
    lines += [f"Plan digest `{plan.digest}`, data map `{plan.map_digest[:16]}`", ""]
    lines += ["| stage | rule | action | documents | way |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {one.stage} | {one.rule} | {one.action} | {one.documents:,} | {'index' if one.indexed else 'scan'} |"
        for one in plan.counts
        if one.documents
    ]
    lines += ["", f"Objects in storage: {plan.objects:,}."] if plan.objects else []
    lines += ["", _excluded(plan)] if plan.excluded else []
    lines += ["", *(f"- {'**stops**: ' if one.stops else ''}{one.where}: {one.sentence}" for one in plan.findings)]
    return "\n".join(lines).rstrip()


def plan_as_text(plan: Plan) -> str:
    """Return the plan for a terminal."""
    if not plan.requests:
        return f"Nobody to erase on {plan.environment} ({plan.database}). {_excluded(plan)}".strip()
    lines = [f"Plan for {plan.environment} ({plan.database}): erase {_people(plan.requests)}, run {plan.run_id}", ""]
    width = max((len(one.rule) for one in plan.counts if one.documents), default=0)
    lines += [
        f"  {one.stage:8} {one.rule:{width}}  {one.action:12} {one.documents:>10,} documents  {'by index' if one.indexed else 'by scan'}"
        for one in plan.counts
        if one.documents
    ]
    lines += [f"  objects in storage: {plan.objects:,}"] if plan.objects else []
    lines += [f"  {_excluded(plan)}"] if plan.excluded else []
    lines += [f"  {'STOPS  ' if one.stops else 'note   '}{one.where}: {one.sentence}" for one in plan.findings]
    return "\n".join([*lines, "", f"Digest {plan.digest}"])


def requests_as_rows(requests: Iterable[Request], now: datetime) -> list[dict[str, Any]]:
    """Return the register of requests as rows: {request, state, reference, received, due, days_left, alert}."""
    return [
        {
            "request": one.id,
            "state": str(one.state),
            "reference": one.subject_ref,
            "received": f"{one.received_at:%Y-%m-%d}",
            "due": f"{one.due_at:%Y-%m-%d}",
            "days_left": (one.due_at - now).days if one.state in OPEN else None,
            "alert": alert(one, now),
        }
        for one in requests
    ]


def alert(request: Request, now: datetime) -> str:
    """Return ``overdue``, ``due soon`` or nothing."""
    if request.state not in OPEN:
        return ""
    left = request.due_at - now
    return "overdue" if left.total_seconds() < 0 else "due soon" if left.days < WARN_DAYS else ""


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number:,} people"


def _excluded(plan: Plan) -> str:
    reasons: dict[str, int] = {}
    for reason in plan.excluded.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    left_out = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
    return f"Left out: {left_out}." if left_out else ""
