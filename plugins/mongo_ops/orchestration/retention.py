"""The tasks of mongo_retention. Each opens the environment, does one thing of the night, and hands on counts and ids of requests.

A finding that a person must see (something came back, a deadline passed, the data map has a gap) fails its own task and nobody else's:
the others go on, and the report at the end says all of it once more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from mongo_ops.orchestration.erasure import open_engine
from mongo_ops.orchestration.evidence import insist_on_approval
from mongo_ops.orchestration.operators import EngineOperator, skip_when_only_planned

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.erasure.retention import RetentionPlan

SHOWN = 20
"""Ids and sentences that a message names; the report has them all."""


class PlanRetentionOperator(EngineOperator):
    """Count what is due by each rule of the data map. The moment is the same for all tasks and retries of the run."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan, digest, markdown, empty}. ``empty``: nothing beyond the limits is asked for, so nobody needs to approve it."""
        from mongo_ops.erasure import retention, retention_report  # noqa: PLC0415

        params = context["params"]
        with open_engine(context) as engine:
            plan = retention.plan(engine, only=bool(params["plan_only"]))
        self.log.info("\n%s", retention_report.as_text(plan))
        beyond = bool(params["beyond_limits"]) and any(one.stops for one in plan.due)
        markdown = retention_report.as_markdown(plan)
        return {"plan": plan.as_value(), "digest": plan.digest, "markdown": markdown, "empty": not beyond}


class DueOperator(EngineOperator):
    """Name the rules that have something to do: each becomes a task of its own."""

    def work(self, context: Context) -> list[str]:
        """Return the rules' ids."""
        skip_when_only_planned(context)
        return [one.id for one in planned(context).due if one.documents or one.stops]


class RetainOperator(EngineOperator):
    """Carry out one retention rule of the data map; a retry goes on where the last try stopped."""

    def __init__(self, *, rule: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rule = rule

    def work(self, context: Context) -> dict[str, Any]:
        """Return {rule, documents}."""
        from mongo_ops.erasure import retention  # noqa: PLC0415

        plan, beyond = planned(context), bool(context["params"]["beyond_limits"])
        with open_engine(context) as engine:
            if beyond:
                insist_on_approval(context, engine.target, plan.digest)
            documents = retention.carry_out(engine, plan, self.rule, beyond_limits=beyond)
        return {"rule": self.rule, "documents": documents}


class WithdrawalsOperator(EngineOperator):
    """Delete or change what was processed under consents that people have withdrawn."""

    def work(self, context: Context) -> list[dict[str, Any]]:
        """Return [{type, people, held, documents}]."""
        from mongo_ops.erasure import withdrawals  # noqa: PLC0415

        skip_when_only_planned(context)
        with open_engine(context) as engine:
            return [one.as_dict() for one in withdrawals.consent_withdrawals(engine, planned(context))]


class RequestsOperator(EngineOperator):
    """Open again the requests whose retention has lapsed, close those whose backups are gone, forget old tombstones."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {closed, reopened, tombstones}."""
        from mongo_ops.erasure import upkeep  # noqa: PLC0415

        skip_when_only_planned(context)
        with open_engine(context) as engine:
            return upkeep.keep(engine, datetime.now(UTC)).as_dict()


class _AlertOperator(EngineOperator):
    """Looks at something and fails when a person must act. What it saw is kept for the report first."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {findings}."""
        with open_engine(context) as engine:
            findings = self.look(engine)
        context["ti"].xcom_push("findings", findings)
        if findings:
            more = f" ... and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
            raise AirflowFailException(f"{'; '.join(findings[:SHOWN])}{more}")
        return {"findings": findings}

    def look(self, engine: Any) -> list[str]:
        """Return sentences, none when all is well."""
        raise NotImplementedError


class OverdueOperator(_AlertOperator):
    """Name the requests whose legal deadline has passed, and the legal holds whose review is due."""

    def look(self, engine: Any) -> list[str]:
        """Return a sentence for each."""
        from mongo_ops.erasure import upkeep  # noqa: PLC0415

        now = datetime.now(UTC)
        late = [f"{one} is overdue (Art. 12(3))" for one in upkeep.overdue(engine.target.db, now)]
        return late + [f"{one} is to be reviewed" for one in upkeep.unreviewed_holds(engine.target.db, now)]


class ResurrectionOperator(_AlertOperator):
    """Look whether something that was erased is there again: an incident. It is erased again by ``mongo-ops erase replay``."""

    def look(self, engine: Any) -> list[str]:
        """Return one sentence, marked as critical."""
        from mongo_ops.erasure import resurrection  # noqa: PLC0415

        seen = resurrection.scan(engine.target.db, engine.data_map, engine.keyring, engine.folder)
        return [f"CRIT {seen}"] if seen.hits else []


class CoverageOperator(_AlertOperator):
    """Look whether the data map names everything that is there."""

    def look(self, engine: Any) -> list[str]:
        """Return a sentence for each gap."""
        from mongo_ops.erasure.coverage import coverage  # noqa: PLC0415

        return [one.sentence for one in coverage(engine.target.db, engine.data_map)]


class ReportRetentionOperator(EngineOperator):
    """Say what the night did and found, as the run's result; fail when a rule was not carried out or something is critical."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {run, digest, plan_only, retained, withdrawals, requests, findings}."""
        ti, plan = context["ti"], planned(context)
        alerts = ("overdue", "resurrections", "coverage")
        findings = {name: ti.xcom_pull(task_ids=name, key="findings") for name in alerts}
        # a list, also when it is one rule: a single name would give a single value then
        retained = [one for one in ti.xcom_pull(task_ids=["retain"]) or () if one]
        result = {
            "run": plan.run_id,
            "digest": plan.digest,
            "plan_only": bool(context["params"]["plan_only"]),
            "retained": {one["rule"]: one["documents"] for one in retained},
            "withdrawals": ti.xcom_pull(task_ids="withdrawals") or [],
            "requests": ti.xcom_pull(task_ids="requests") or {},
            "findings": findings,
            "notes": list(plan.notes),
        }
        ti.xcom_push("report", result)
        faults = self._faults(plan, result)
        if faults:
            raise AirflowFailException(f"{'; '.join(faults[:SHOWN])}. The XCom `report` has all of it.")
        return result

    def _faults(self, plan: RetentionPlan, result: dict[str, Any]) -> list[str]:
        """Name what the night left undone; what only has to be looked at has failed its own task."""
        faults = [f"{name} could not be looked at" for name, found in result["findings"].items() if found is None]
        faults += list(result["findings"]["resurrections"] or ())
        if not result["plan_only"]:
            missing = {one.id for one in plan.due if one.documents} - result["retained"].keys()
            faults += [f"{one} was not carried out" for one in sorted(missing)]
        return faults


def planned(context: Context) -> RetentionPlan:
    """Return the plan that the plan task handed on."""
    from mongo_ops.erasure.retention import RetentionPlan  # noqa: PLC0415

    return RetentionPlan.of_value(context["ti"].xcom_pull(task_ids="plan")["plan"])
