"""Airflow DAG: apply pending migrations to one environment. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import graphs, params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.migrate import (
    FORWARD,
    GateOperator,
    LintOperator,
    PlanOperator,
    ReportOperator,
    VerifyOperator,
)
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.orchestration.rehearse import RehearseOperator

DOC = """
### Apply pending migrations

**What it does.** Checks the migration files, makes a plan, asks a second person where the environment is protected, then
applies each pending migration as a task of its own and looks at the result with separate code.

**What it touches.** The environment's database: the collections named by each migration, and `ops_*`, `audit_log`.

**Resume.** Clear the failed task (or trigger again): it goes on where it stopped, nothing is done twice.

**Undo.** Trigger `mongo_rollback` with the version to go back to.

**Dry run.** *Plan only* shows what would happen and writes nothing.
"""

with DAG(
    dag_id="mongo_migrate",
    dag_display_name="MongoDB: migrate",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "migrations"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "target_version": params.version(required=False, what="Stop after this version, e.g. 004. Empty: everything."),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
        "rehearse": params.rehearse(),
        "allow_out_of_order": Param(
            False,
            type="boolean",
            title="Allow out of order",
            description="Also apply migrations numbered below one that is applied already.",
            section="Exceptions",
        ),
        "break_glass_reason": Param(
            None,
            type=["string", "null"],
            minLength=10,
            maxLength=500,
            title="Break-glass reason",
            description="Emergency only: pass the promotion gate, and say why. Audited. Name no person.",
            section="Exceptions",
        ),
    },
):
    lint = LintOperator(task_id="lint", **RETRIES)
    gate = GateOperator(task_id="gate", **RETRIES)
    plan = PlanOperator(task_id="plan", direction=FORWARD, trigger_rule="none_failed", **RETRIES)
    rehearse = RehearseOperator(task_id="rehearse", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve", trigger_rule="none_failed")
    lease, release = graphs.lease_tasks(FORWARD)
    verify = VerifyOperator(task_id="verify", trigger_rule="none_failed", **RETRIES)
    report = ReportOperator(task_id="report", trigger_rule="none_failed", **RETRIES)

    chain(lint, gate, plan, rehearse, approve, lease)
    graphs.within_lease(lease, graphs.migration_tasks(FORWARD), verify, release)
    chain(verify, report)
