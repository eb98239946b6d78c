"""The audit log as evidence of an answer: what a person said to a plan is written there, and what runs insists on it.

Airflow lets whoever may operate it mark any task as successful. That is no approval, so no task of the run takes Airflow's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongo_ops.errors import PlanError
from mongo_ops.orchestration.operators import occasion_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.mongo.connection import Target

ACTION, APPROVED, REFUSED = "plan.approval", "approved", "refused"


class NotApprovedError(PlanError):
    """The plan of a protected environment has no approval in the audit log."""

    def __init__(self, environment: str, digest: str) -> None:
        super().__init__(environment, digest)
        self.environment, self.digest = environment, digest

    def __str__(self) -> str:
        return (
            f"{self.environment}: its audit log holds no approval of this plan (digest {self.digest:.12}) in this run. A task that was "
            "marked as successful approves nothing. Nothing was done; trigger the run again."
        )


def record_answer(context: Context, target: Target, digest: str, person: str, result: str) -> None:
    """Write into the audit log who answered what to which plan."""
    from mongo_ops import audit  # noqa: PLC0415

    occasion = occasion_of(context, digest)
    audit.prepare(target.db)
    entry = audit.AuditEntry(
        action=ACTION, entity_type="plan", entity_id=digest, actor=person, actor_kind="airflow",
        environment=target.environment.name, plan_digest=digest, run_id=occasion.run_id, result=result,
    )  # fmt: skip
    audit.record(target.db, entry)


def insist_on_approval(context: Context, target: Target, digest: str, *, always: bool = False) -> None:
    """Refuse a plan of a protected environment (``always``: of any) whose latest answer in this run is not an approval.

    Raises:
        NotApprovedError: nothing was done.
    """
    if not (target.environment.protected or always):
        return
    from mongo_ops.audit.log import AUDIT_LOG, CHAINED  # noqa: PLC0415

    answers = {
        **CHAINED,
        "entity_type": "plan",
        "entity_id": digest,
        "action": ACTION,
        "run_id": occasion_of(context).run_id,
    }
    latest = target.db[AUDIT_LOG].find_one(answers, {"result": 1}, sort=[("chain.seq", -1)])
    if latest is None or latest["result"] != APPROVED:
        raise NotApprovedError(target.environment.name, digest)
