"""The tasks of mongo_partition: plan, then one task per phase. Each opens the environment and the storage, and does its part of the plan.

What passes between tasks is the plan: names of collections, months, counts, commands. No value of a document is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import DownstreamTasksSkipped

from mongo_ops.orchestration.evidence import insist_on_approval
from mongo_ops.orchestration.operators import (
    EngineOperator,
    TracedOperator,
    holder_of,
    occasion_of,
    reporter_of,
    skip_when_only_planned,
)
from mongo_ops.orchestration.targets import connection_spec, open_assets, open_folder, open_storage
from mongo_ops.settings import include_folder, load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.connection import Target
    from mongo_ops.partitions.model import PartitionPlan
    from mongo_ops.partitions.work import Work
    from mongo_ops.storage import Folder

PHASES = ("create", "move", "archive", "remove", "command", "restore")
"""As ``mongo_ops.partitions.model.Phase``, which a DAG file does not import."""
SAME_NAMES = (
    "collection", "strategy", "months_ahead", "keep_months", "move", "archive", "view", "balancer_window", "meta_field", "granularity",
    "source", "into",
)  # fmt: skip


@contextmanager
def open_work(context: Context, *, read_only: bool = False) -> Iterator[Work]:
    """Yield what a run holds in its hands; with ``read_only`` every write is refused on the wire."""
    from mongo_ops.mongo.connection import connect  # noqa: PLC0415
    from mongo_ops.orchestration.tombstones import refusal  # noqa: PLC0415
    from mongo_ops.partitions.cluster import PlanGuard  # noqa: PLC0415
    from mongo_ops.partitions.work import Work  # noqa: PLC0415

    environment = load_environment(str(context["params"]["environment"]))
    listeners = (PlanGuard(),) if read_only else ()
    with connect(connection_spec(environment), environment, listeners=listeners) as target:
        yield Work(
            target=target,
            folder=folder_of(context),
            occasion=occasion_of(context),
            holder=holder_of(context),
            erasure=erasure_of(context, target),
            refusal=partial(refusal, target),
            report=reporter_of(context),
        )


def folder_of(context: Context) -> Folder:
    """Return where archives go, or where the one to restore is."""
    params = context["params"]
    uri = params["source"] if params["strategy"] == "restore" else params["destination"]
    if uri:
        return open_folder(str(uri), params.get("storage_connection"))
    return open_storage(load_environment(str(params["environment"]))) / "partitions"


def erasure_of(context: Context, target: Target) -> Engine | None:
    """Return erasure on the environment, which knows whose documents are held; None where there is no data map."""
    from mongo_ops.erasure.engine import Engine  # noqa: PLC0415
    from mongo_ops.erasure.map_file import load_map  # noqa: PLC0415
    from mongo_ops.orchestration.keys import keyring  # noqa: PLC0415

    if not (include_folder() / "data_map.yaml").is_file():
        return None
    return Engine(
        target=target,
        data_map=load_map(),
        keyring=keyring(),
        folder=open_storage(target.environment),
        holder=holder_of(context),
        actor=occasion_of(context).actor,
        assets=open_assets(target.environment),
    )


class PlanPartitionOperator(EngineOperator):
    """Look at the collection and say what would be done, with a picture of how its key is spread."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan, digest, markdown, empty}. A plan that may not be carried out fails, unless only the plan is asked for."""
        from mongo_ops.partitions import engine, report  # noqa: PLC0415
        from mongo_ops.partitions.model import PartitionRequest  # noqa: PLC0415

        request = PartitionRequest.of(request_value(context["params"]))
        with open_work(context, read_only=True) as work:
            plan = engine.plan(work, request)
        self.log.info("\n%s", report.plan_as_text(plan))
        if not context["params"]["plan_only"]:
            engine.insist_on_possible(plan)
        markdown = report.plan_as_markdown(plan)
        return {"plan": plan.as_value(), "digest": plan.digest, "markdown": markdown, "empty": not plan.steps}


class LeasePartitionOperator(EngineOperator):
    """Make sure that the plan is approved, and take the collection's lease for the run."""

    def work(self, context: Context) -> int:
        """Return the lease's epoch. Phases that the plan has nothing for are skipped at once: a process for each would take seconds."""
        from mongo_ops.mongo import lease as leases  # noqa: PLC0415
        from mongo_ops.partitions.model import Phase  # noqa: PLC0415
        from mongo_ops.partitions.work import resource_of  # noqa: PLC0415

        skip_when_only_planned(context)
        plan = planned(context)
        with open_work(context) as work:
            insist_on_approval(context, work.target, plan.digest)
            ttl = work.target.environment.lease_ttl
            epoch = leases.acquire(work.db, resource_of(plan.request.collection), work.holder, ttl=ttl).epoch
        empty = [phase for phase in PHASES if not plan.of_phase(Phase(phase))]
        context["ti"].xcom_push("return_value", epoch)
        if empty:
            raise DownstreamTasksSkipped(tasks=empty)  # type: ignore[no-untyped-call]
        return epoch


class PhaseOperator(TracedOperator):
    """Carry out one phase of the plan; a retry goes on where the last try stopped."""

    def __init__(self, *, phase: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.phase = phase

    def work(self, context: Context) -> dict[str, int]:
        """Return what was done, by name."""
        from mongo_ops.partitions import engine  # noqa: PLC0415
        from mongo_ops.partitions.model import Phase  # noqa: PLC0415

        skip_when_only_planned(context)
        plan, phase = planned(context), Phase(self.phase)
        with open_work(context) as work:
            insist_on_approval(context, work.target, plan.digest)
            done = engine.carry_out(work, plan, phase)
            self.lineage = self._lineage(work, plan, done)
        return done

    def _lineage(self, work: Work, plan: PartitionPlan, done: Mapping[str, int]) -> dict[str, Any]:
        """Remember which object an archive went to, or came from."""
        from mongo_ops.orchestration.transfer import lineage  # noqa: PLC0415

        if self.phase not in ("archive", "restore"):
            return {}
        documents = done.get("archived", 0) + done.get("inserted", 0)
        subjects = [step.subject for step in plan.steps if step.phase == self.phase]
        return lineage(work.target, work.folder, subjects, documents, exports=self.phase == "archive")


class ReleasePartitionOperator(EngineOperator):
    """Give the collection's lease back, whatever happened."""

    def work(self, context: Context) -> bool:
        """Return whether it was held."""
        from mongo_ops.mongo import lease as leases  # noqa: PLC0415
        from mongo_ops.partitions.work import resource_of  # noqa: PLC0415

        resource = resource_of(str(context["params"]["collection"]))
        with open_work(context) as work:
            return leases.free(work.db, resource, work.holder.owner)


class ReportPartitionOperator(EngineOperator):
    """Say what the run did, as its result."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan_only, digest, blockers, done}: what each phase did."""
        from mongo_ops.partitions import report  # noqa: PLC0415

        ti, plan = context["ti"], planned(context)
        done = {phase: found for phase in PHASES if (found := ti.xcom_pull(task_ids=phase))}
        self.log.info("\n%s", report.done_as_text(done))
        only = bool(context["params"]["plan_only"])
        return {"plan_only": only, "digest": plan.digest, "blockers": list(plan.blockers), "done": done}


def request_value(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's parameters ask for; an empty field of the form is none."""
    optional = ("view", "balancer_window", "meta_field", "source", "into")
    value = {name: params[name] for name in SAME_NAMES}
    value |= {name: params[name] or None for name in optional}
    return {**value, "key": params["key"] or "", "zones": params["zones"] or ()}


def planned(context: Context) -> PartitionPlan:
    """Return the plan that the plan task handed on."""
    from mongo_ops.partitions.model import PartitionPlan  # noqa: PLC0415

    return PartitionPlan.of(context["ti"].xcom_pull(task_ids="plan")["plan"])
