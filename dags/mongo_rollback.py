"""Airflow DAG: take one environment back to a version. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, chain

from mongo_ops.orchestration import graphs, params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.migrate import REVERSE, LintOperator, PlanOperator, ReportOperator, VerifyOperator
from mongo_ops.orchestration.operators import RETRIES

DOC = """
### Roll migrations back

**What it does.** Undoes migrations above the target version, latest applied first; what an undo would destroy is written to
the environment's storage before (BSON with digests) and can be restored with `mongo-ops snapshots restore`.

**What it touches.** The environment's database, and its storage folder for snapshots.

**Resume.** Clear the failed task (or trigger again): it goes on where it stopped.

**Undo.** Trigger `mongo_migrate`.

**Refuses** as a whole when one of the migrations is irreversible, with that migration's reason.
"""

with DAG(
    dag_id="mongo_rollback",
    dag_display_name="MongoDB: roll back",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "migrations"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "target_version": params.version(
            required=True, what="The version that stays applied, e.g. 004; everything above it is undone. 0 undoes all."
        ),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    lint = LintOperator(task_id="lint", **RETRIES)
    plan = PlanOperator(task_id="plan", direction=REVERSE, **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    lease, release = graphs.lease_tasks(REVERSE)
    verify = VerifyOperator(task_id="verify", trigger_rule="none_failed", **RETRIES)
    report = ReportOperator(task_id="report", trigger_rule="none_failed", **RETRIES)

    chain(lint, plan, approve, lease)
    graphs.within_lease(lease, graphs.migration_tasks(REVERSE), verify, release)
    chain(verify, report)
