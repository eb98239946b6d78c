"""`mongo-ops retention`: what is older than its period goes, and what was processed under a withdrawn consent. Holds are honoured."""

from __future__ import annotations

import argparse
import dataclasses
from datetime import UTC, datetime

from mongo_ops.cli import people, support
from mongo_ops.cli.output import show
from mongo_ops.erasure import retention as keeping
from mongo_ops.erasure import retention_report, upkeep, withdrawals

FAILED, SOMETHING_TO_DO = 1, 2


def retention(arguments: argparse.Namespace) -> int:
    """Carry the retention rules out; exit code 1 when one of them stopped at the limits, 2 when a dry run found something."""
    with people.open_engine(arguments) as (engine, _):
        plan = keeping.plan(engine, only=arguments.dry_run)
        due = [one for one in plan.due if one.documents or one.stops]
        if arguments.dry_run:
            show(arguments, plan.as_value(), retention_report.as_text(plan))
            return SOMETHING_TO_DO if due else 0
        beyond = arguments.beyond_limits and any(one.stops for one in due)
        if beyond:
            support.insist_on_digest(
                engine.target.environment, plan.digest, arguments.approved, f"retention --env {arguments.env} --dry-run"
            )
        done = {
            one.id: keeping.carry_out(engine, plan, one.id, beyond_limits=beyond)
            for one in due
            if beyond or not one.stops
        }
        withdrawn = [one.as_dict() for one in withdrawals.consent_withdrawals(engine, plan)]
        kept = upkeep.keep(engine, datetime.now(UTC)).as_dict()
    stopped = [one for one in due if one.stops and not beyond]
    value = {"run": plan.run_id, "retained": done, "withdrawals": withdrawn, "requests": kept}
    lines = [f"{name}: {number:,} documents" for name, number in done.items()] or ["Nothing is due."]
    lines += [
        f"{one['type']}: {sum(one['documents'].values()):,} documents of {one['people']:,} people who withdrew"
        for one in withdrawn
    ]
    lines += [f"{one.id} was not carried out: {one.stops}" for one in stopped]
    show(arguments, {**value, "stopped": [dataclasses.asdict(one) for one in stopped]}, "\n".join(lines))
    return FAILED if stopped else 0
