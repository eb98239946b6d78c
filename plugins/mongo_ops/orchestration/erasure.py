"""The tasks of mongo_gdpr_erasure. Each opens the environment and the vault, does one thing, and hands on counts and ids of requests.

What passes between tasks is the id of a request and its plan: names of rules, counts, digests; never a person's identifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from mongo_ops.orchestration.evidence import insist_on_approval
from mongo_ops.orchestration.keys import keyring
from mongo_ops.orchestration.lineage import namespace
from mongo_ops.orchestration.operators import (
    EngineOperator,
    TracedOperator,
    holder_of,
    occasion_of,
    reporter_of,
    skip_when_only_planned,
)
from mongo_ops.orchestration.targets import open_assets, open_folder, open_storage, open_target
from mongo_ops.settings import load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.erasure.model import Plan

LEASE_WAIT_SECONDS = 120.0
STAGES = ("leaves", "parents", "root")
"""The stages whose rules are tasks of their own, in the order in which they run."""


@contextmanager
def open_engine(context: Context) -> Iterator[Engine]:
    """Yield the engine on the run's environment."""
    from mongo_ops.erasure.engine import Engine  # noqa: PLC0415
    from mongo_ops.erasure.map_file import load_map  # noqa: PLC0415
    from mongo_ops.transfer.whereabouts import Exports  # noqa: PLC0415

    with open_target(str(context["params"]["environment"])) as target:
        yield Engine(
            target=target,
            data_map=load_map(),
            keyring=keyring(),
            folder=open_storage(target.environment),
            holder=holder_of(context),
            actor=occasion_of(context).actor,
            report=reporter_of(context),
            assets=open_assets(target.environment),
            exports=Exports(target.db, open_folder),
        )


class IntakeOperator(EngineOperator):
    """Find out which request this run is for; seal an identifier given in a development environment."""

    def work(self, context: Context) -> dict[str, str]:
        """Return {request_id}; the id of a request or of a batch."""
        params = context["params"]
        request_id, user_id = params.get("request_id"), params.get("user_id")
        if bool(request_id) == bool(user_id):
            raise AirflowFailException("Give either request_id (er_... or eb_...), or user_id where that is allowed.")
        if request_id:
            return {"request_id": str(request_id)}
        environment = load_environment(str(params["environment"]))
        if environment.protected:
            raise AirflowFailException(
                f"{environment.name} is protected: an identifier must not stand in a run's parameters, which Airflow keeps. Receive the "
                "request with `mongo-ops erase request`, which seals it, and trigger this DAG with its request_id."
            )
        return {"request_id": self._receive(context, str(user_id))}

    def _receive(self, context: Context, value: str) -> str:
        from datetime import UTC, datetime  # noqa: PLC0415

        from mongo_ops.erasure import requests  # noqa: PLC0415
        from mongo_ops.erasure.identifiers import parse_subject  # noqa: PLC0415

        with open_engine(context) as engine:
            subject = parse_subject(engine.data_map, value)
            environment = engine.target.environment.name
            request = requests.receive(
                engine.target.db,
                environment,
                engine.data_map,
                engine.keyring,
                subject,
                "airflow",
                engine.actor,
                datetime.now(UTC),
            )
        return request.id


class PlanErasureOperator(EngineOperator):
    """Resolve who is concerned, count what each rule selects, and name what stands in the way."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan, digest, markdown, empty}."""
        from mongo_ops.erasure import plan as planner  # noqa: PLC0415
        from mongo_ops.erasure import report  # noqa: PLC0415

        only = bool(context["params"]["plan_only"])
        with open_engine(context) as engine:
            plan = engine.plan(request_of(context), only=only)
        self.log.info("\n%s", report.plan_as_text(plan))
        markdown = report.plan_as_markdown(plan)
        return {"plan": planner.as_value(plan), "digest": plan.digest, "markdown": markdown, "empty": not plan.requests}


class BeginOperator(EngineOperator):
    """Take the run's lease, make sure under it that the plan is approved and still the same, leave tombstones, fence the people."""

    def work(self, context: Context) -> dict[str, int]:
        """Return {epoch}."""
        plan = planned(context)
        skip_when_only_planned(context)
        with open_engine(context) as engine:
            insist_on_approval(context, engine.target, plan.digest)
            try:
                epoch = engine.hold(LEASE_WAIT_SECONDS)
                engine.begin(plan)
            except BaseException:
                engine.release()  # no teardown follows a setup that failed
                raise
        return {"epoch": epoch}


class DueOperator(EngineOperator):
    """Name the rules of a stage that have something to do; each becomes a task of its own."""

    def __init__(self, *, stage: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage

    def work(self, context: Context) -> list[str]:
        """Return the ids of the rules, in their order."""
        skip_when_only_planned(context)
        return list(planned(context).stage(self.stage))  # type: ignore[arg-type]


class ObjectsOperator(EngineOperator):
    """Erase the people's objects, and their documents from what this package itself has written to storage. Before any document goes."""

    def work(self, context: Context) -> dict[str, int]:
        """Return counts: {objects, versions, files, documents}."""
        plan = planned(context)
        skip_when_only_planned(context)
        with open_engine(context) as engine:
            insist_on_approval(context, engine.target, plan.digest)
            return engine.erase_objects(plan).as_dict()


class RuleOperator(TracedOperator):
    """Carry out one rule of the data map; a retry goes on where the last try stopped."""

    def __init__(self, *, rule: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule

    def work(self, context: Context) -> dict[str, Any]:
        """Return {rule, documents, people}."""
        plan = planned(context)
        with open_engine(context) as engine:
            insist_on_approval(context, engine.target, plan.digest)
            tally = engine.carry_out(plan, self.rule)
            self._remember(engine, tally.documents)
        return {"rule": self.rule, "documents": tally.documents, "people": len(tally.by_request)}

    def _remember(self, engine: Engine, documents: int) -> None:
        rule = engine.data_map.rule(self.rule)
        verb = "deleted" if rule.action == "delete" else "modified"
        self.lineage = {
            "namespace": namespace(engine.target), "database": engine.target.database, "reads": (rule.collection,), "writes": (rule.collection,),
            "counts": {verb: documents},
        }  # fmt: skip


class SweepOperator(EngineOperator):
    """Carry all rules out once more, for what others wrote meanwhile."""

    def work(self, context: Context) -> dict[str, int]:
        """Return {late}: documents that were written after their rule had been carried out."""
        plan = planned(context)
        skip_when_only_planned(context)
        with open_engine(context) as engine:
            insist_on_approval(context, engine.target, plan.digest)
            return {"late": engine.sweep(plan)}


class VerifyErasureOperator(EngineOperator):
    """Look with separate code whether anything is left anywhere. What it sees decides what each request comes to."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {ok, collections, offenders}; never fails because something is left: the report says so."""
        plan = planned(context)
        skip_when_only_planned(context)
        with open_engine(context) as engine:
            seen = engine.verify(plan, self.log.info)
        (self.log.info if seen.ok else self.log.error)("%s", seen)
        return {"ok": seen.ok, "collections": seen.collections, "offenders": len(seen.offenders)}


class CertifyOperator(EngineOperator):
    """Say what each request came to; issue certificates; put the notices to recipients into the outbox (Art. 19)."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {states, complete, reasons}."""
        plan = planned(context)
        skip_when_only_planned(context)
        with open_engine(context) as engine:
            came_to = engine.conclude(plan)
        return {"states": dict(came_to.states), "complete": came_to.complete, "reasons": list(came_to.reasons)}


class ReleaseErasureOperator(EngineOperator):
    """Give the run's lease back, whatever happened."""

    def work(self, context: Context) -> bool:
        """Return whether it was held."""
        with open_engine(context) as engine:
            return engine.release()


class ReportErasureOperator(EngineOperator):
    """Say what the run did, as the run's result; fail where a request is not complete, so that somebody looks."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {request_id, digest, plan_only, states}."""
        plan = planned(context)
        result: dict[str, Any] = {"request_id": plan.run_id, "digest": plan.digest, "excluded": dict(plan.excluded)}
        if context["params"]["plan_only"]:
            return {**result, "plan_only": True, "states": {}}
        came_to: Mapping[str, Any] = context["ti"].xcom_pull(task_ids="certify")
        if not came_to["complete"]:
            why = "; ".join(came_to["reasons"]) or "see the verification"
            raise AirflowFailException(f"Not every request is complete ({came_to['states']}): {why}")
        return {**result, "plan_only": False, "states": came_to["states"]}


def request_of(context: Context) -> str:
    """Return the request or batch that the run is for."""
    return str(context["ti"].xcom_pull(task_ids="intake")["request_id"])


def planned(context: Context) -> Plan:
    """Return the plan that the plan task handed on."""
    from mongo_ops.erasure import plan as planner  # noqa: PLC0415

    return planner.of_value(context["ti"].xcom_pull(task_ids="plan")["plan"])
