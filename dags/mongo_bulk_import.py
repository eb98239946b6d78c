"""Airflow DAG: import an export, or files, from object storage. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.orchestration.transfer import (
    BeginImportOperator,
    FinishImportOperator,
    ForgetPlanOperator,
    ImportPartsOperator,
    PlanImportOperator,
    ReportTransferOperator,
)

DOC = """
### Import documents

**What it does.** Looks into the source, shows what would be loaded and what a sample would be refused for, asks a second person where the
environment is protected, then loads each file as a task of its own, exactly once, and verifies.

**What it touches.** The collections named, and `ops_transfers`, `ops_rejects`, `audit_log`. What was erased for a person does not come back.

**Resume.** Clear the failed task: it goes on where it stopped, nothing is loaded twice.

**Undo.** There is no way back for documents that were replaced; export them first.

**Dry run.** *Plan only* shows files, counts, conflicts and refusals and writes nothing.
"""

with DAG(
    dag_id="mongo_bulk_import",
    dag_display_name="MongoDB: import",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "transfer"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "source": Param(
            type="string",
            minLength=1,
            title="Source",
            description="The folder of an export, or of other files, e.g. s3://bucket/exports/today.",
        ),
        "storage_connection": params.storage_connection(),
        "files": Param(
            None,
            type=["string", "null"],
            title="Files",
            description="Which files of a folder without a manifest, e.g. *.json.gz.",
            section="Files",
        ),
        "format": Param(
            None,
            type=["string", "null"],
            title="Format",
            description="For files whose name does not tell, e.g. jsonl.gz.",
            section="Files",
        ),
        "into": Param(
            None,
            type=["string", "null"],
            title="Into",
            description="The collection for files without a manifest.",
            section="Files",
        ),
        "collections": Param(
            {},
            type="object",
            title="Collections",
            description='Which collections of an export, and their names here: {"users": "users_copy"}. Empty: all.',
        ),
        "mode": Param(
            "insert",
            type="string",
            enum=["insert", "upsert", "replace", "merge"],
            title="Mode",
            description="insert adds; upsert replaces or adds; replace replaces only; merge sets the file's fields, or adds.",
        ),
        "keys": Param(
            [],
            type="array",
            items={"type": "string"},
            title="Key fields",
            description="By which documents are found. Empty: _id.",
            section="How",
        ),
        "on_error": Param(
            "stop",
            type="string",
            enum=["stop", "reject"],
            title="Bad rows",
            description="stop at the first, or put each aside with its line and reason and go on.",
            section="How",
        ),
        "max_rejects": Param(
            1000,
            type="integer",
            minimum=0,
            title="Most bad rows",
            description="More than this stop the run.",
            section="How",
        ),
        "max_reject_share": Param(
            0.1,
            type="number",
            minimum=0,
            maximum=1,
            title="Largest share of bad rows",
            description="A larger share stops the run.",
            section="How",
        ),
        "validation": Param(
            "check",
            type="string",
            enum=["check", "bypass"],
            title="Validation",
            description="Whether the collection's validator is asked.",
            section="How",
        ),
        "indexes": Param(
            "after",
            type="string",
            enum=["before", "after", "none"],
            title="Indexes",
            description="When the export's indexes are made.",
            section="How",
        ),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    plan = PlanImportOperator(task_id="plan", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    lease = BeginImportOperator(task_id="lease", trigger_rule="none_failed", **RETRIES)
    parts = ImportPartsOperator.partial(task_id="parts", **RETRIES).expand(numbers=lease.output)
    finish = FinishImportOperator(task_id="finish", trigger_rule="none_failed", **RETRIES)
    release = ForgetPlanOperator(task_id="release", **RETRIES)
    report = ReportTransferOperator(task_id="report", finish="finish", trigger_rule="none_failed", **RETRIES)

    lease.as_setup()
    release.as_teardown(setups=lease)
    chain(plan, approve, lease, parts, finish, release)
    chain(finish, report)
