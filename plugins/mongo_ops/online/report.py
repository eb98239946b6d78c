"""What a person reads: plan and status as text and JSON. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mongo_ops.online.plan import OnlinePlan


def plan_as_value(plan: OnlinePlan) -> dict[str, Any]:
    """Return the plan as JSON-able values."""
    return {**dataclasses.asdict(plan), "digest": plan.digest}


def plan_as_text(plan: OnlinePlan) -> str:
    """Return the plan for a terminal."""
    lines = [
        f"{plan.name}: {plan.title}",
        f"{plan.environment} ({plan.database}), {plan.collection}, {plan.mode}; now: {plan.phase}",
        f"{plan.documents:,} documents, {plan.bytes:,} bytes, roughly {plan.seconds:,.0f} s of backfill",
        f"fence: {plan.fence}",
        *(f"  {number}. {step}" for number, step in enumerate(plan.steps, 1)),
        *(f"warning: {warning}" for warning in plan.warnings),
        *(f"stops: {stop}" for stop in plan.stops),
        f"digest {plan.digest}",
    ]
    return "\n".join(lines)


def plan_as_markdown(plan: OnlinePlan) -> str:
    """Return the plan as Markdown, for approvals."""
    lines = [f"**{plan.name}** on **{plan.environment}** (`{plan.database}`): {plan.title}", ""]
    lines += [f"`{plan.collection}`, {plan.mode}, {plan.documents:,} documents; fence: {plan.fence}", ""]
    lines += [f"{number}. {step}" for number, step in enumerate(plan.steps, 1)]
    lines += [
        "",
        *(f"- warning: {warning}" for warning in plan.warnings),
        *(f"- **stops**: {stop}" for stop in plan.stops),
    ]
    return "\n".join([*lines, "", f"Plan digest `{plan.digest}`"])


def status_as_text(status: Mapping[str, Any]) -> str:
    """Return a migration's state for a terminal."""
    control = status["control"]
    lines = [
        f"{status['name']}: {status['phase']} ({status['collection']}, {status['mode']}, attempt {status['attempt']})"
    ]
    lines += [f"control: {', '.join(f'{name} {value}' for name, value in control.items() if value not in ({}, None))}"]
    lines += (
        [f"counts: {', '.join(f'{name} {value:,}' for name, value in status['counts'].items())}"]
        if status.get("counts")
        else []
    )
    if status["writes_refused_by"]:
        lines.append(
            f"WRITES ARE REFUSED by {status['writes_refused_by']}: a cut-over was interrupted; any further call lifts that"
        )
    found = status["verification"]
    if found:
        how = "clean" if found["clean"] else f"{found['differing']:,} differ: {', '.join(found['ids'])}"
        lines.append(
            f"verification {found['number']}: {found['documents']:,} documents, {how}; digest {found['digest']}"
        )
    for name, took in (status.get("measured") or {}).items():
        lines.append(
            f"{name}: writes refused for {took['refused_ms']:.0f} ms by {took['fence']}, {took['drained']:,} changes drained"
        )
    if status["edited"]:
        lines.append("the spec file was edited since: put it back as it was, or abort")
    return "\n".join(lines)
