"""What a person reads of a partitioning: the plan with its pictures, and what was done. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.partitions.model import PartitionPlan, Phase, Picture

WIDTH = 40
FULL, HALF = "█", "▌"


def bar(count: int, most: int, width: int = WIDTH) -> str:
    """Return a bar of at most ``width`` characters; what is not nothing shows at least a half."""
    halves = round(2 * width * count / most) if most else 0
    if count and not halves:
        halves = 1
    return FULL * (halves // 2) + HALF * (halves % 2)


def drawn(picture: Picture) -> Iterator[str]:
    """Yield the lines of a histogram: label, bar, count, share."""
    total, most = sum(count for _, count in picture.bars), max((count for _, count in picture.bars), default=0)
    wide = max((len(label) for label, _ in picture.bars), default=0)
    yield picture.title
    for label, count in picture.bars:
        share = 100 * count / total if total else 0.0
        yield f"  {label:{wide}}  {bar(count, most):{WIDTH}}  {count:>12,}  {share:5.1f} %"


def plan_as_text(plan: PartitionPlan) -> str:
    """Return the plan for a terminal."""
    request = plan.request
    lines = [
        f"{request.strategy} of {plan.database}.{request.collection} ({plan.environment}), as of {plan.at:%Y-%m-%d} UTC"
    ]
    for picture in plan.pictures:
        lines += ["", *drawn(picture)]
    lines.append("")
    for one in plan.steps:
        lines.append(f"  {one.phase:8} {one.sentence}")
        if one.phase is Phase.COMMAND:
            lines.append(f"           {json.dumps(one.data['command'])}")
    if not plan.steps:
        lines.append("  Nothing to do.")
    lines += [f"  note     {one}" for one in plan.notes]
    lines += [f"  REFUSED  {one}" for one in plan.blockers]
    return "\n".join([*lines, "", f"Digest {plan.digest}"])


def plan_as_markdown(plan: PartitionPlan) -> str:
    """Return the plan for the Airflow UI and for approvals."""
    request = plan.request
    lines = [
        f"`{request.strategy}` of `{plan.database}.{request.collection}` on **{plan.environment}**, digest `{plan.digest}`."
    ]
    for picture in plan.pictures:
        lines += ["", "```", *drawn(picture), "```"]
    lines += ["", "| phase | what |", "| --- | --- |"]
    for one in plan.steps:
        shown = f"<br>`{json.dumps(one.data['command'])}`" if one.phase is Phase.COMMAND else ""
        lines.append(f"| {one.phase} | {one.sentence}{shown} |")
    lines += ["", *(f"- {one}" for one in plan.notes), *(f"- **Refused.** {one}" for one in plan.blockers)]
    return "\n".join(lines).rstrip()


def done_as_text(done: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the phases of a run did."""
    lines = []
    for phase, counts in done.items():
        told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        lines.append(f"{phase}: {told or 'nothing left to do'}")
    return "\n".join(lines) or "Nothing to do."
