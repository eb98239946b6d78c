"""The commands that plan, apply and undo migrations."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mongo_ops import audit
from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.errors import PlanError
from mongo_ops.migrations import engine, gate, report
from mongo_ops.migrations.engine import Survey
from mongo_ops.migrations.lint import lint
from mongo_ops.migrations.model import Outcome
from mongo_ops.migrations.passage import audit_entry
from mongo_ops.migrations.plan import Plan
from mongo_ops.migrations.preview import MigrationPreview, preview, preview_reverse
from mongo_ops.migrations.run import Run
from mongo_ops.mongo import batches
from mongo_ops.mongo.connection import Target
from mongo_ops.settings import include_folder, load_environment, load_environments, load_personal_fields

SOMETHING_TO_DO = 2


class LintFailedError(PlanError):
    """The migration files have faults that stop a run."""


Work = Callable[[Run, Survey, tuple[str, ...]], Iterator[Outcome]]


def migrate(arguments: argparse.Namespace) -> int:
    """Apply pending migrations."""
    if arguments.dry_run:
        return plan(arguments)
    findings = lint(include_folder() / "migrations", load_environments(), load_personal_fields())
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise LintFailedError(f"{len(errors)} lint errors, the first: {errors[0]}. `mongo-ops lint` shows them all.")

    def make(target: Target, facts: Survey) -> Plan:
        return engine.plan_forward(target, facts, version=arguments.to, allow_out_of_order=arguments.allow_out_of_order)

    return _carry_out(arguments, make, engine.apply_all)


def rollback(arguments: argparse.Namespace) -> int:
    """Undo migrations above a version, or what stopped half-way."""

    def make(target: Target, facts: Survey) -> Plan:
        return engine.plan_reverse(target, facts, arguments.to, failed_only=arguments.failed)

    if arguments.dry_run:
        with support.open_target(arguments.env, read_only=True) as target:
            facts = engine.survey(target, include_folder())
            made = make(target, facts)
            previews = preview_reverse(target, [facts.file(name) for name in made.names])
        show(arguments, report.plan_as_json(made, previews), report.plan_as_text(made, previews))
        return SOMETHING_TO_DO if made.steps else 0
    return _carry_out(arguments, make, engine.revert_all)


def plan(arguments: argparse.Namespace) -> int:
    """Show what `migrate` would do, through a client that cannot write."""
    with support.open_target(arguments.env, read_only=True) as target:
        facts = engine.survey(target, include_folder())
        made = engine.plan_forward(target, facts, version=arguments.to, allow_out_of_order=arguments.allow_out_of_order)
        previews = preview(target, [facts.file(name) for name in made.names])
    show(arguments, report.plan_as_json(made, previews), _rendered(arguments, made, previews))
    return SOMETHING_TO_DO if made.steps else 0


def status(arguments: argparse.Namespace) -> int:
    """Show every migration's state."""
    with support.open_target(arguments.env, read_only=True) as target:
        facts = engine.survey(target, include_folder())
        rows = report.status_rows(facts.files, facts.records, arguments.env)
        value = {"environment": arguments.env, "database": target.database, "migrations": rows}
    show(arguments, value, report.status_as_text(rows))
    return 0


def _rendered(arguments: argparse.Namespace, made: Plan, previews: tuple[MigrationPreview, ...]) -> str:
    if getattr(arguments, "markdown", False):
        return report.plan_as_markdown(made, previews)
    return report.plan_as_text(made, previews)


def _carry_out(arguments: argparse.Namespace, make: Callable[[Target, Survey], Plan], work: Work) -> int:
    """Plan, insist on gate and approval, take the lease, plan again under it, and work."""
    environment = load_environment(arguments.env)
    with support.open_target(arguments.env) as target:
        facts = engine.survey(target, include_folder())
        made = make(target, facts)
        if not made.steps:
            show(arguments, {"digest": made.digest, "outcomes": []}, report.plan_as_text(made, ()))
            return 0
        support.insist_on_approval(environment, made, arguments.approved)
        occasion = support.occasion(made.digest, arguments.reason)
        if environment.protected:
            engine.prepare(target)
            entry = audit_entry(
                environment.name, occasion, made.digest, "plan.approval", "digest given", {"door": "command line"}
            )
            audit.record(target.db, entry)
        if made.direction == "forward":
            _gate(arguments, target, facts, made, occasion)
        with _progress(arguments) as tell:
            settings = {"holder": support.holder(occasion), "report": tell, "wait": arguments.wait}
            with engine.open_run(target, occasion, support.losses(environment), **settings) as run:
                facts = engine.survey(target, include_folder())
                engine.insist(made, make(target, facts), facts.records)
                outcomes = [_told(arguments, outcome) for outcome in work(run, facts, made.names)]
    if arguments.json:
        show(arguments, {"digest": made.digest, "outcomes": [dataclasses.asdict(o) for o in outcomes]}, "")
    return 0


def _gate(arguments: argparse.Namespace, target: Target, facts: Survey, made: Plan, occasion: Any) -> None:
    environment = target.environment
    if environment.promotes_from is None or not environment.protected:
        return
    with support.open_target(environment.promotes_from, read_only=True) as source:
        missing = gate.missing(source, [facts.file(name) for name in made.names])
    if missing and not arguments.break_glass:
        raise gate.NotPromotedError(missing, environment.promotes_from, environment.name)
    if missing:
        gate.break_glass(target, occasion, missing, arguments.break_glass)


def _told(arguments: argparse.Namespace, outcome: Outcome) -> Outcome:
    if not arguments.json:
        verb = "applied" if outcome.direction == "forward" else "undone"
        counts = ", ".join(f"{count:,} {what}" for what, count in outcome.counts.items()) or "no documents"
        print(
            f"{outcome.name}: {'nothing left to do' if outcome.already else f'{verb} in {outcome.seconds:.2f} s, {counts}'}"
        )
    return outcome


@contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[batches.Reporter]:
    """Yield a reporter: a bar per step on a terminal, log lines elsewhere, silence for machines."""
    if arguments.json or not sys.stderr.isatty():
        yield batches.log_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        known: dict[str, Any] = {}

        def tell(seen: batches.Progress) -> None:
            if seen.step not in known:
                known[seen.step] = bars.add_task(seen.step, total=seen.total)
            note = f" (waiting: {seen.waiting})" if seen.waiting else ""
            bars.update(known[seen.step], completed=seen.done, total=seen.total, description=seen.step + note)

        yield tell
