"""Airflow DAG: every night, delete what is over, enforce withdrawn consent, and look after erasure requests. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.nightly import NightlyOperator, other_nights
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.orchestration.retention import (
    CoverageOperator,
    DueOperator,
    OverdueOperator,
    PlanRetentionOperator,
    ReportRetentionOperator,
    RequestsOperator,
    ResurrectionOperator,
    RetainOperator,
    WithdrawalsOperator,
)

DOC = """
### Keep data no longer than needed

**What it does.** Carries out the retention rules of the data map, each as a task of its own; deletes what was processed under consents
that people have withdrawn; opens requests again whose retention has lapsed, closes those whose backups are gone. Looks for overdue
requests, for erased data that is there again, and for data that the map does not name: each of these fails its own task, the rest goes on.

**What it touches.** The collections with `retention` in `include/data_map.yaml`, and `ops_erasure_*`. Documents and people under a legal
hold stay as they are.

**Resume.** Clear the failed task: nothing is done twice.

**Undo.** There is no way back. *Plan only* shows what would go and deletes nothing.

**Schedule.** Every night, on each environment with `nightly: true` in `include/environments.yaml` (else on the first): the scheduled run
looks after one and triggers a run for each of the others. A rule that would take more than the map's limit is not carried out; *Beyond the
limits* does it once, where the environment is protected with a second person's approval.
"""

with DAG(
    dag_id="mongo_retention",
    dag_display_name="MongoDB: retention",
    schedule="30 2 * * *",
    catchup=False,
    max_active_runs=1,
    tags=["mongo-ops", "gdpr"],
    doc_md=DOC,
    params={
        "environment": params.environment(nightly=True),
        "plan_only": params.plan_only(),
        "beyond_limits": Param(
            False,
            type="boolean",
            title="Beyond the limits",
            description="Carry out rules that take a larger share of a collection than the data map allows for one night.",
            section="Exceptions",
        ),
        "reason": params.reason(),
    },
):
    plan = PlanRetentionOperator(task_id="plan", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    due = DueOperator(task_id="due", trigger_rule="none_failed", **RETRIES)
    retain = RetainOperator.partial(
        task_id="retain", trigger_rule="none_failed", map_index_template="{{ task.rule }}", **RETRIES
    ).expand(rule=due.output)
    withdrawals = WithdrawalsOperator(task_id="withdrawals", **RETRIES)
    requests = RequestsOperator(task_id="requests", **RETRIES)
    overdue = OverdueOperator(task_id="overdue", **RETRIES)
    resurrections = ResurrectionOperator(task_id="resurrections", **RETRIES)
    coverage = CoverageOperator(task_id="coverage", **RETRIES)
    report = ReportRetentionOperator(task_id="report", trigger_rule="all_done", **RETRIES)

    chain(plan, approve, due, retain)
    chain(plan, [withdrawals, requests, overdue, resurrections, coverage])
    chain([retain, withdrawals, requests, overdue, resurrections, coverage], report)
    if nights := other_nights():
        NightlyOperator.partial(task_id="other_nights", map_index_template="{{ task.environment }}", **RETRIES).expand(
            environment=nights
        )
