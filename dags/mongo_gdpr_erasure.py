"""Airflow DAG: erase what belongs to a person, or to thousands, and prove it (Art. 17 GDPR). Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.erasure import (
    STAGES,
    BeginOperator,
    CertifyOperator,
    DueOperator,
    IntakeOperator,
    ObjectsOperator,
    PlanErasureOperator,
    ReleaseErasureOperator,
    ReportErasureOperator,
    RuleOperator,
    SweepOperator,
    VerifyErasureOperator,
)
from mongo_ops.orchestration.operators import RETRIES

DOC = """
### Erase what belongs to a person

**What it does.** Resolves everything that the data map's identifiers lead to, shows how many documents each rule selects, asks a
second person where the environment is protected, then carries the rules out: objects, leaves, parents, and the account last. A
second sweep catches late writers, separate code looks for anything that is left anywhere, and each request gets a certificate.

**What it touches.** The collections of `include/data_map.yaml`; in storage, objects of people and the snapshots and exports that hold them; and
`ops_erasure_*`, `audit_log`.

**Resume.** Clear the failed task (or trigger again with the same request): nothing is done twice.

**Undo.** There is no way back. *Plan only* shows what would happen and erases nothing.
"""

with DAG(
    dag_id="mongo_gdpr_erasure",
    dag_display_name="MongoDB: GDPR erasure",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "gdpr"],
    doc_md=DOC,
    render_template_as_native_obj=False,
    params={
        "environment": params.environment(),
        "request_id": Param(
            None,
            type=["string", "null"],
            pattern="^e[rb]_[a-z2-7]{26}$",
            title="Request",
            description="The request's id (er_...) or a batch's (eb_...), as `mongo-ops erase request` gives it. Never a person's own id.",
        ),
        "user_id": Param(
            None,
            type=["string", "null"],
            maxLength=1024,
            title="User id (development only)",
            description="Sealed into a request first. Refused where the environment is protected, because Airflow keeps run parameters.",
            section="Development",
        ),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    intake = IntakeOperator(task_id="intake", **RETRIES)
    plan = PlanErasureOperator(task_id="plan", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    lease = BeginOperator(task_id="lease", trigger_rule="none_failed", **RETRIES)
    objects = ObjectsOperator(task_id="objects", **RETRIES)
    due = [DueOperator(task_id=f"due_{stage}", stage=stage, **RETRIES) for stage in STAGES]
    stages = [
        RuleOperator.partial(
            task_id=stage, trigger_rule="none_failed", map_index_template="{{ task.rule }}", **RETRIES
        ).expand(rule=rules.output)
        for stage, rules in zip(STAGES, due, strict=True)
    ]
    sweep = SweepOperator(task_id="sweep", trigger_rule="none_failed", **RETRIES)
    verify = VerifyErasureOperator(task_id="verify", trigger_rule="none_failed", **RETRIES)
    certify = CertifyOperator(task_id="certify", trigger_rule="none_failed", **RETRIES)
    release = ReleaseErasureOperator(task_id="release", **RETRIES)
    report = ReportErasureOperator(task_id="report", trigger_rule="none_failed", **RETRIES)

    lease.as_setup()
    release.as_teardown(setups=lease)
    chain(intake, plan, approve, lease, objects, *stages, sweep, verify, certify, release)
    chain(lease, due)
    chain(certify, report)
