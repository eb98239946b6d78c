"""Airflow DAG: export collections to object storage. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.orchestration.transfer import (
    BeginExportOperator,
    ExportPartsOperator,
    FinishExportOperator,
    ForgetPlanOperator,
    PlanExportOperator,
    ReportTransferOperator,
)

DOC = """
### Export collections

**What it does.** Cuts the collections into parts, writes each part as a task of its own, at one moment of the cluster's time if asked for,
and makes the export visible by writing its manifest last. Then reads everything once more and compares digests.

**What it touches.** Reads the collections. Writes below the destination, and `ops_transfers` and `audit_log`.

**Resume.** Clear the failed task: parts that are written are not written again. A finished export is never overwritten.

**Undo.** Delete the destination's folder.

**Dry run.** *Plan only* shows collections, parts and sizes and writes nothing.
"""

with DAG(
    dag_id="mongo_bulk_export",
    dag_display_name="MongoDB: export",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "transfer"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "collections": Param(
            [],
            type="array",
            items={"type": "string"},
            title="Collections",
            description="Which, one per line. Empty: all of them, as a backup set.",
        ),
        "destination": params.place(
            "Where to, e.g. s3://bucket/exports/today. Empty: a new folder in the environment's storage."
        ),
        "storage_connection": params.storage_connection(),
        "format": Param(
            "bson.zst",
            type="string",
            enum=[
                "bson.zst",
                "bson.gz",
                "bson",
                "jsonl.zst",
                "jsonl.gz",
                "jsonl",
                "parquet",
                "csv.zst",
                "csv.gz",
                "csv",
            ],
            title="Format",
            description="bson gives every byte back. jsonl is Extended JSON v2, parquet and csv are for analysis.",
        ),
        "json_mode": Param(
            "relaxed",
            type="string",
            enum=["relaxed", "canonical"],
            title="Extended JSON",
            description="relaxed reads well; canonical keeps every type. Only for jsonl.",
            section="Format",
        ),
        "filter": Param(
            None,
            type=["string", "null"],
            title="Filter",
            description='Extended JSON, for every collection, e.g. {"country": "DE"}. Airflow keeps it: write no personal value here.',
            section="What",
        ),
        "fields": Param(
            [],
            type="array",
            items={"type": "string"},
            title="Fields",
            description="Only these. Empty: all; for csv and parquet they are found from a sample.",
            section="What",
        ),
        "consistency": Param(
            "snapshot",
            type="string",
            enum=["snapshot", "prefer_snapshot", "fuzzy"],
            title="Consistency",
            description="snapshot: everything at one moment, or not at all. prefer_snapshot falls back and says so. fuzzy: as it is meanwhile.",
            section="What",
        ),
        "partitions": Param(
            None,
            type=["integer", "null"],
            minimum=1,
            maximum=10_000,
            title="Parts per collection",
            description="Empty: by size.",
            section="What",
        ),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    plan = PlanExportOperator(task_id="plan", **RETRIES)
    lease = BeginExportOperator(task_id="lease", **RETRIES)
    parts = ExportPartsOperator.partial(task_id="parts", **RETRIES).expand(numbers=lease.output)
    finish = FinishExportOperator(task_id="finish", trigger_rule="none_failed", **RETRIES)
    release = ForgetPlanOperator(task_id="release", **RETRIES)
    report = ReportTransferOperator(task_id="report", finish="finish", trigger_rule="none_failed", **RETRIES)

    lease.as_setup()
    release.as_teardown(setups=lease)
    chain(plan, lease, parts, finish, release)
    chain(finish, report)
