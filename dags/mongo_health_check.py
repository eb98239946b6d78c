"""Airflow DAG: look after a deployment as a DBA would, every night and on demand. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.health import (
    ChecksOperator,
    ForgetOperator,
    HistoryOperator,
    JudgeOperator,
    ReportOperator,
    SnapshotOperator,
    VerdictOperator,
    groups_param,
)
from mongo_ops.orchestration.health_notify import NotifyOperator
from mongo_ops.orchestration.nightly import NightlyOperator, other_nights
from mongo_ops.orchestration.operators import RETRIES

DOC = """
### Look after a deployment

**What it does.** Reads the facts once (replication, cache, catalogue, operations), carries out the checks of `include/health.yaml`,
compares with earlier runs (new, worse, the same, fixed), and makes a report: one page, JSON beside it, a summary as the result. The task
`verdict` fails when something is critical, after all that; `notify` speaks only of what changed, through the `notifiers` of
`include/health.yaml`; `forget` removes reports that are older than `report_days`.

**What it touches.** Reads everything with a health user's rights, through a client that cannot write. Writes `ops_health` and the
report's folder in storage.

**Resume.** Clear the failed task; the facts of the run are kept. A red `verdict` is a finding, not a fault: mend it and trigger again.

**Undo.** Nothing to undo.

**Schedule.** Every night, on each environment with `nightly: true` in `include/environments.yaml` (else on the first): the scheduled run
looks after one and triggers a run for each of the others.
"""

with DAG(
    dag_id="mongo_health_check",
    dag_display_name="MongoDB: health check",
    schedule="30 3 * * *",
    catchup=False,
    max_active_runs=1,
    tags=["mongo-ops", "health"],
    doc_md=DOC,
    render_template_as_native_obj=False,
    params={
        "environment": params.environment(nightly=True),
        "groups": groups_param(),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    snapshot = SnapshotOperator(task_id="snapshot", **RETRIES)
    checks = ChecksOperator.partial(task_id="checks", map_index_template="{{ task.group }}", **RETRIES).expand(
        group=snapshot.output
    )
    judge = JudgeOperator(task_id="judge", **RETRIES)
    history = HistoryOperator(task_id="history", **RETRIES)
    report = ReportOperator(task_id="report", **RETRIES)
    notify = NotifyOperator(task_id="notify", **RETRIES)
    forget = ForgetOperator(task_id="forget", **RETRIES)
    verdict = VerdictOperator(task_id="verdict", **{**RETRIES, "retries": 0})
    chain(snapshot, checks, judge, history, report, notify)
    chain(report, [verdict, forget])
    if nights := other_nights():
        NightlyOperator.partial(task_id="other_nights", map_index_template="{{ task.environment }}", **RETRIES).expand(
            environment=nights
        )
