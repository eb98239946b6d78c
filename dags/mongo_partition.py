"""Airflow DAG: split a collection over shards, into months, or into hot and archived documents. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.orchestration.partition import (
    PHASES,
    LeasePartitionOperator,
    PhaseOperator,
    PlanPartitionOperator,
    ReleasePartitionOperator,
    ReportPartitionOperator,
)

DOC = """
### Partition a collection

**What it does.** Shows how the key is spread, then, by *Strategy*: `by_time` makes month collections in advance, leads the readers' view over them,
moves closed months there if asked, and archives and drops months beyond *Months to keep*; `archive` writes cold documents to object storage, verifies
them and deletes those that did not change; `restore` brings an archive back; `sharding` checks a shard key and sends the commands, on a sharded
cluster only; `time_series` says what stands in the way.

**What it touches.** The collection, its months `<collection>_2026_11`, its view, the privileges of roles that name it, objects below the destination,
and `ops_partitions`, `ops_checkpoints` and `audit_log`. Documents under a legal hold stay.

**Resume.** Clear the failed task: it goes on where it stopped; nothing is moved, archived or deleted twice.

**Undo.** Strategy `restore` brings archived documents and months back. Resharding and dropping without an archive have no way back.

**Plan first.** *Plan only* shows the picture, every step and every command, and writes nothing.
"""


TEXT = {"type": ["string", "null"]}
with DAG(
    dag_id="mongo_partition",
    dag_display_name="MongoDB: partition",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "partitions"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "collection": Param(type="string", minLength=1, title="Collection", description="Which collection."),
        "strategy": Param(
            "by_time",
            type="string",
            enum=["by_time", "archive", "restore", "sharding", "time_series"],
            title="Strategy",
            description="How it is split; restore brings an archive back.",
        ),
        "key": Param(
            None,
            **TEXT,
            title="Key",
            description="The date field, such as created_at; for sharding the shard key, such as country, user_id:hashed. Not for restore.",
        ),
        "plan_only": params.plan_only(),
        "months_ahead": Param(
            2,
            type="integer",
            minimum=0,
            maximum=240,
            title="Months ahead",
            description="by_time: month collections to make in advance.",
            section="By time",
        ),
        "keep_months": Param(
            None,
            type=["integer", "null"],
            minimum=0,
            maximum=240,
            title="Months to keep",
            description="Full months that stay beside the current one. by_time: empty keeps all. archive: needed.",
        ),
        "move": Param(
            False,
            type="boolean",
            title="Move closed months",
            description="by_time: move documents of closed months out of the collection. Only when all writers name month collections already.",
            section="By time",
        ),
        "archive": Param(
            True,
            type="boolean",
            title="Archive before dropping",
            description="by_time: write months to object storage before they are dropped. Without it they are gone for good.",
            section="By time",
        ),
        "view": Param(
            None,
            **TEXT,
            title="View",
            description="by_time: the name of the readers' view. Empty: <collection>_all.",
            section="By time",
        ),
        "destination": params.place("Where archives go. Empty: partitions/ in the environment's storage."),
        "source": Param(None, **TEXT, title="Archive", description="restore: the archive's folder.", section="Restore"),
        "into": Param(
            None,
            **TEXT,
            title="Into",
            description="restore: the collection. Empty: where the documents came from.",
            section="Restore",
        ),
        "storage_connection": params.storage_connection(),
        "zones": Param(
            [],
            type="array",
            items={"type": "object"},
            title="Zones",
            description='sharding: [{"name": "EU", "shards": ["shard01"], "lower": {"country": "AT"}, "upper": {"country": "AU"}}]. Airflow keeps them.',
            section="Sharding",
        ),
        "balancer_window": Param(
            None,
            **TEXT,
            title="Balancer window",
            description="sharding: when chunks may move, such as 23:00-06:00, for the whole cluster.",
            section="Sharding",
        ),
        "meta_field": Param(
            None,
            **TEXT,
            title="Meta field",
            description="time_series: the field that tells series apart.",
            section="Time series",
        ),
        "granularity": Param(
            "seconds",
            type="string",
            enum=["seconds", "minutes", "hours"],
            title="Granularity",
            description="time_series: about how far measurements are apart.",
            section="Time series",
        ),
        "reason": params.reason(),
    },
):
    plan = PlanPartitionOperator(task_id="plan", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    lease = LeasePartitionOperator(task_id="lease", **RETRIES)
    phases = [PhaseOperator(task_id=phase, phase=phase, **RETRIES) for phase in PHASES]
    release = ReleasePartitionOperator(task_id="release", **RETRIES)
    report = ReportPartitionOperator(task_id="report", trigger_rule="none_failed", **RETRIES)

    lease.as_setup()
    release.as_teardown(setups=lease)
    chain(plan, approve, lease, phases[0])
    for number, phase in enumerate(
        phases[1:], start=1
    ):  # after all before it: those that are skipped at once must not let it overtake
        phase.trigger_rule = "none_failed"
        chain(phases[:number], phase)
    for phase in phases:
        chain(phase, [release, report])
