"""The tasks of mongo_migrate and mongo_rollback. Each opens the environment, does one thing, and hands on small values.

What passes between tasks is the plan (names, checksums, sentences), never a document, a credential or a person's name.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from mongo_ops.orchestration import evidence
from mongo_ops.orchestration.lineage import namespace
from mongo_ops.orchestration.operators import (
    EngineOperator,
    TracedOperator,
    holder_of,
    occasion_of,
    reporter_of,
    skip_when_only_planned,
)
from mongo_ops.orchestration.targets import open_losses, open_target
from mongo_ops.settings import include_folder, load_environment, load_environments, load_personal_fields

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.migrations.engine import Survey
    from mongo_ops.migrations.model import Outcome
    from mongo_ops.migrations.plan import Plan
    from mongo_ops.migrations.run import Run
    from mongo_ops.mongo.connection import Target
    from mongo_ops.settings import Environment

FORWARD, REVERSE = "forward", "reverse"
LEASE_WAIT_SECONDS = 120.0
"""How long a run waits for another run on the same database before it gives up."""


class LintOperator(EngineOperator):
    """Check the migration files, before anything else."""

    def work(self, context: Context) -> dict[str, int]:
        """Log every finding; fail on errors."""
        from mongo_ops.migrations.lint import lint  # noqa: PLC0415

        del context
        findings = lint(include_folder() / "migrations", load_environments(), load_personal_fields())
        for finding in findings:
            self.log.warning("%s", finding)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise AirflowFailException(f"{len(errors)} lint errors, the first: {errors[0]}")
        return {"errors": 0, "warnings": len(findings)}


class PlanOperator(EngineOperator):
    """Make the plan through a client that cannot write, show it, and hand it on."""

    def __init__(self, *, direction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.direction = direction

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan, digest, markdown, empty, stops}."""
        from mongo_ops.migrations import engine, report  # noqa: PLC0415
        from mongo_ops.migrations.preview import preview, preview_reverse  # noqa: PLC0415

        with open_target(self.environment_of(context), read_only=True) as target:
            facts = engine.survey(target, include_folder())
            plan = current_plan(target, facts, self.direction, context)
            self._refuse_without_task(facts, plan)
            look = preview if self.direction == FORWARD else preview_reverse
            previews = look(target, [facts.file(name) for name in plan.names])
        self.log.info("\n%s", report.plan_as_text(plan, previews))
        stops = [f"{seen.name}: {stop}" for seen in previews for stop in seen.stops]
        if stops and not context["params"]["plan_only"]:
            raise AirflowFailException(f"The plan would fail on this data: {'; '.join(stops)}")
        markdown = report.plan_as_markdown(plan, previews)
        return {
            "plan": plan.as_value(),
            "digest": plan.digest,
            "markdown": markdown,
            "empty": not plan.steps,
            "stops": stops,
        }

    def _refuse_without_task(self, facts: Survey, plan: Plan) -> None:
        """Refuse to undo here what has no file any more, and therefore no task."""
        gone = sorted(set(plan.names) - {file.name for file in facts.files})
        if gone:
            raise AirflowFailException(
                f"{', '.join(gone)} has no file any more, so this graph has no task for it. Bring the file back, or use "
                "`mongo-ops rollback`, which takes its source from the database."
            )


class GateOperator(EngineOperator):
    """Refuse what the environment before has not applied; a break-glass reason passes and is audited."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {promotes_from, missing}."""
        from mongo_ops.migrations import engine, gate  # noqa: PLC0415

        environment = load_environment(self.environment_of(context))
        if environment.promotes_from is None or not environment.protected:
            raise AirflowSkipException(f"{environment.name} is not protected, so it takes migrations from everywhere.")
        with open_target(environment.name, read_only=True) as target:
            facts = engine.survey(target, include_folder())
            plan = current_plan(target, facts, FORWARD, context)
        missing = unproven(environment, facts, plan)
        if missing:
            refusal = gate.NotPromotedError(missing, environment.promotes_from, environment.name)
            if not context["params"]["plan_only"] and not context["params"].get("break_glass_reason"):
                raise refusal
            self.log.warning("%s", refusal)
        return {"promotes_from": environment.promotes_from, "missing": list(missing)}


class LeaseOperator(EngineOperator):
    """Take the lease for the whole run, and make sure under it that the plan is approved, still the same and still proven."""

    def __init__(self, *, direction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.direction = direction

    def work(self, context: Context) -> dict[str, int]:
        """Return {epoch}."""
        from mongo_ops.migrations import engine  # noqa: PLC0415

        plan = planned(context)
        skip_when_only_planned(context)
        with open_target(self.environment_of(context)) as target:
            insist_on_approval(context, target, plan)
            occasion = occasion_of(context, plan.digest)
            losses = open_losses(target.environment)
            try:
                settings: dict[str, Any] = {
                    "holder": holder_of(context),
                    "wait": LEASE_WAIT_SECONDS,
                    "keep_lease": True,
                }
                with engine.open_run(target, occasion, losses, **settings) as run:
                    self._insist(context, target, plan)
                    taken = {"epoch": run.lease.epoch}
            except BaseException:
                engine.release(target, holder_of(context))  # no teardown follows a setup that failed
                raise
        context["ti"].xcom_push("return_value", taken)
        self._skip_what_is_done(plan)
        return taken

    def _insist(self, context: Context, target: Target, plan: Plan) -> None:
        from mongo_ops.migrations import engine  # noqa: PLC0415

        facts = engine.survey(target, include_folder())
        now = current_plan(target, facts, self.direction, context)
        engine.insist(plan, now, facts.records)
        if self.direction == FORWARD:
            insist_on_proof(context, target, facts, now)

    def _skip_what_is_done(self, plan: Plan) -> None:
        """Skip the migrations before the plan's first at once: a process for each would take longer than most plans.

        Only those: a task waits for the one before it, so skipping later ones now would let their successors overtake.
        """
        tasks = self.dag.topological_sort() if self.dag else ()  # type: ignore[no-untyped-call]
        migrations = (task for task in tasks if isinstance(task, MigrationOperator))
        done = [task.task_id for task in takewhile(lambda task: task.migration not in plan.names, migrations)]
        if done:
            raise DownstreamTasksSkipped(tasks=done)  # type: ignore[no-untyped-call]


class ReleaseOperator(EngineOperator):
    """Give the lease back, whatever happened."""

    def work(self, context: Context) -> bool:
        """Return whether the lease was still this run's."""
        from mongo_ops.migrations import engine  # noqa: PLC0415

        with open_target(self.environment_of(context)) as target:
            return engine.release(target, holder_of(context))


class MigrationOperator(TracedOperator):
    """Apply one migration, or undo it; a retry resumes where the last try stopped."""

    def __init__(self, *, migration: str, direction: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.migration, self.direction = migration, direction

    def work(self, context: Context) -> dict[str, Any]:
        """Return {name, direction, counts, seconds}."""
        from mongo_ops.migrations import engine  # noqa: PLC0415

        plan = planned(context)
        skip_when_only_planned(context)
        if self.migration not in plan.names:
            raise AirflowSkipException(f"{self.migration} is not part of this plan.")
        with open_target(self.environment_of(context)) as target:
            insist_on_approval(context, target, plan)
            occasion = occasion_of(context, plan.digest)
            losses = open_losses(target.environment)
            with engine.open_run(
                target, occasion, losses, holder=holder_of(context), report=reporter_of(context), keep_lease=True
            ) as run:
                facts = engine.survey(target, include_folder())
                before = engine.finished_in_run(target, occasion.run_id, self.migration, self.direction)
                outcome = before or self._carry_out(context, run, facts, plan)
            self._remember(target, facts, outcome)
        if outcome.already:
            raise AirflowSkipException(f"{self.migration} is done already.")
        return {
            "name": outcome.name,
            "direction": outcome.direction,
            "counts": outcome.counts,
            "seconds": outcome.seconds,
        }

    def _carry_out(self, context: Context, run: Run, facts: Survey, plan: Plan) -> Outcome:
        """Apply this one; or undo this one and, before it, whatever the plan undoes earlier and is not undone yet."""
        from mongo_ops.migrations import engine  # noqa: PLC0415

        now = current_plan(run.target, facts, self.direction, context)
        if self.direction == FORWARD:
            engine.insist_on_step(plan, now, facts, self.migration)
            return run.apply(facts.file(self.migration))
        due = plan.names[: plan.names.index(self.migration) + 1]
        engine.insist(plan, now, facts.records)
        return [outcome for outcome in engine.revert_all(run, facts, due)][-1]  # noqa: C416 - the engine yields as it goes

    def _remember(self, target: Target, facts: Survey, outcome: Any) -> None:
        file = facts.file(self.migration)
        self.lineage = {
            "namespace": namespace(target), "database": target.database,
            "reads": file.reads(), "writes": file.writes(), "counts": dict(outcome.counts),
        }  # fmt: skip


class VerifyOperator(EngineOperator):
    """Look at the database with separate code: was the whole plan carried out, and is it as the applied files say?"""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {checked, differences}; fail when there are differences, or when a step of the plan was left out."""
        from mongo_ops.migrations import engine, verify  # noqa: PLC0415

        skip_when_only_planned(context)
        with open_target(self.environment_of(context), read_only=True) as target:
            facts = engine.survey(target, include_folder())
            differences = verify.differences(target.db, facts.files, facts.records)
        for difference in differences:
            self.log.error("%s", difference)
        if differences:
            raise AirflowFailException(
                f"The database differs from the migrations in {len(differences)} places: {differences[0]}"
            )
        if left := left_out(planned(context), facts):
            raise AirflowFailException(
                f"{', '.join(left)} is in the plan and was not carried out: its task was marked by hand, or the file is newer than "
                "this graph. Trigger the run again."
            )
        return {"checked": len(facts.records), "differences": 0}


class ReportOperator(EngineOperator):
    """Say what the run did, as the run's result."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {environment, database, digest, plan_only, status} and write the status table to the log."""
        from mongo_ops.migrations import engine, report  # noqa: PLC0415

        with open_target(self.environment_of(context), read_only=True) as target:
            facts = engine.survey(target, include_folder())
            rows = report.status_rows(facts.files, facts.records, target.environment.name)
            self.log.info("\n%s", report.status_as_text(rows))
            return {
                "environment": target.environment.name, "database": target.database,
                "digest": planned(context).digest, "plan_only": bool(context["params"]["plan_only"]),
                "status": {row["name"]: row["state"] for row in rows},
            }  # fmt: skip


def insist_on_approval(context: Context, target: Target, plan: Plan) -> None:
    """Refuse a plan of a protected environment that is not approved, or whose approval is used up.

    Raises:
        NotApprovedError: nothing was done.
    """
    if not plan.steps:
        return
    evidence.insist_on_approval(context, target, plan.digest)
    if target.environment.protected and _used_up(context, target, plan):
        raise evidence.NotApprovedError(target.environment.name, plan.digest)


def _used_up(context: Context, target: Target, plan: Plan) -> bool:
    """Say whether this run has carried a step out that was undone since: its approval was for once."""
    from mongo_ops.migrations import engine, history  # noqa: PLC0415
    from mongo_ops.migrations.model import State  # noqa: PLC0415

    done = State.APPLIED if plan.direction == FORWARD else State.ROLLED_BACK
    run_id = occasion_of(context).run_id
    mine = {"migration": {"$in": list(plan.names)}, "event": done.value, "run_id": run_id}
    names = target.db[history.HISTORY].distinct("migration", mine)
    return any(engine.finished_in_run(target, run_id, name, plan.direction) is None for name in names)


def planned(context: Context) -> Plan:
    """Return the plan that the plan task handed on."""
    from mongo_ops.migrations.plan import Plan  # noqa: PLC0415

    return Plan.of(context["ti"].xcom_pull(task_ids="plan")["plan"])


def left_out(plan: Plan, facts: Survey) -> tuple[str, ...]:
    """Return which steps of the plan the database does not record as done."""
    from mongo_ops.migrations.model import State  # noqa: PLC0415

    there = {record.name for record in facts.records if record.state is not State.ROLLED_BACK}
    applied = {record.name for record in facts.records if record.state is State.APPLIED}
    forward = plan.direction == FORWARD
    return tuple(name for name in plan.names if (name not in applied if forward else name in there))


def unproven(environment: Environment, facts: Survey, plan: Plan) -> tuple[str, ...]:
    """Return which migrations of the plan the environment before has not applied; none where no gate stands."""
    from mongo_ops.migrations import gate  # noqa: PLC0415

    if environment.promotes_from is None or not environment.protected:
        return ()
    with open_target(environment.promotes_from, read_only=True) as source:
        return gate.missing(source, [facts.file(name) for name in plan.names])


def insist_on_proof(context: Context, target: Target, facts: Survey, plan: Plan) -> None:
    """Refuse what the environment before has not applied, or has rolled back while the plan waited for its approval.

    A break-glass reason lets it pass, and that is written into the audit log here, where it takes effect.

    Raises:
        NotPromotedError: nothing was done.
    """
    from mongo_ops.migrations import gate  # noqa: PLC0415

    missing = unproven(target.environment, facts, plan)
    reason = context["params"].get("break_glass_reason")
    if missing and not reason:
        raise gate.NotPromotedError(missing, str(target.environment.promotes_from), target.environment.name)
    if missing and reason:
        gate.break_glass(target, occasion_of(context, plan.digest), missing, reason)


def current_plan(target: Target, facts: Survey, direction: str, context: Context) -> Plan:
    """Return what the run's parameters ask for, on the database as it is now."""
    from mongo_ops.migrations import engine  # noqa: PLC0415

    params = context["params"]
    if direction == FORWARD:
        late = bool(params.get("allow_out_of_order"))
        return engine.plan_forward(target, facts, version=params.get("target_version"), allow_out_of_order=late)
    return engine.plan_reverse(target, facts, params["target_version"])
