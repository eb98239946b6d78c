"""Airflow DAG: every night, keep the audit chains' heads where the database's users cannot write. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG

from mongo_ops.orchestration import params
from mongo_ops.orchestration.anchors import AnchorOperator
from mongo_ops.orchestration.nightly import NightlyOperator, other_nights
from mongo_ops.orchestration.operators import RETRIES

DOC = """
### Anchor the audit log

**What it does.** Verifies the audit log and the erasure ledger from their first entry to the last and against the newest anchor, then
writes their heads as files that are never overwritten. A chain that was rewritten or cut off since fails the task and is not anchored.

**What it touches.** Files in `anchors` of `include/environments.yaml` (else the folder `anchors` of the storage). Nothing in the database.

**Resume.** Clear the failed task. A head that is anchored already is not written again.

**Undo.** There is nothing to undo, and with object lock no way to.

**Schedule.** Every night, on each environment with `nightly: true` (else on the first).
"""

with DAG(
    dag_id="mongo_audit_anchor",
    dag_display_name="MongoDB: anchor the audit log",
    schedule="15 3 * * *",
    catchup=False,
    max_active_runs=1,
    tags=["mongo-ops", "audit"],
    doc_md=DOC,
    params={
        "environment": params.environment(nightly=True),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    AnchorOperator(task_id="anchor", **RETRIES)
    if nights := other_nights():
        NightlyOperator.partial(task_id="other_nights", map_index_template="{{ task.environment }}", **RETRIES).expand(
            environment=nights
        )
