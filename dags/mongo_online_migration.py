"""Airflow DAG: change a collection while its writers go on. Wiring only."""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from mongo_ops.orchestration import online, params
from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.online import CONTRACT, CUT_OVER, START
from mongo_ops.orchestration.operators import RETRIES

DOC = """
### Migrate without downtime

**What it does.** Carries out a spec of `include/online/` while writers go on. *start*: expand, backfill, catch up with the change stream,
verify, then ask a person; *in place* the contract follows, with a *ghost* collection the cut-over, the rollback window and the contract.

**What it touches.** The collection of the spec, `ops_ghost_*` and `ops_old_*` beside it, `ops_online`, `ops_history`, `audit_log`.

**Resume.** Clear the failed task: it goes on where it stopped. *pause* and *resume* act on whichever run is under way. A rejected or
unanswered question postpones: trigger *cut_over* or *contract* when it is time.

**Undo.** *abort* before the cut-over, *rollback* within the window after it; what was written meanwhile is kept. After the contract there is none.

**Dry run.** *Plan only* shows what would happen and writes nothing.
"""
NAMES = online.names()
SHARED = {"trigger_rule": "none_failed", **RETRIES}

with DAG(
    dag_id="mongo_online_migration",
    dag_display_name="MongoDB: migrate online",
    schedule=None,
    catchup=False,
    tags=["mongo-ops", "online"],
    doc_md=DOC,
    params={
        "environment": params.environment(),
        "name": Param(
            type="string",
            **({"enum": NAMES} if NAMES else {"minLength": 1}),
            title="Migration",
            description="The spec file, as named in include/online/.",
        ),
        "action": Param(
            START,
            type="string",
            enum=list(online.ACTIONS),
            title="Action",
            description="start begins, or goes on after a resume; the others act on what is under way.",
        ),
        "parts": Param(
            2,
            type="integer",
            minimum=1,
            maximum=64,
            title="Backfill tasks",
            description="How many key ranges are filled side by side.",
            section="How",
        ),
        "early": Param(
            False,
            type="boolean",
            title="Contract early",
            description="With action contract: drop the old collection before its rollback window is over.",
            section="How",
        ),
        "plan_only": params.plan_only(),
        "reason": params.reason(),
    },
):
    plan = online.PlanOnlineOperator(task_id="plan", **RETRIES)
    approve = PlanApprovalOperator(task_id="approve")
    steer = online.SteerOperator(
        task_id="steer", actions=(online.PAUSE, online.RESUME, online.ABORT, online.ROLLBACK), **SHARED
    )
    expand = online.ExpandOperator(task_id="expand", actions=(START,), **SHARED)
    backfill = online.BackfillOperator.partial(task_id="backfill", **RETRIES).expand(part=expand.output)
    catch_up = online.CatchUpOperator(task_id="catch_up", actions=(START,), **SHARED)
    verify = online.VerifyOnlineOperator(task_id="verify", actions=(START, CUT_OVER, CONTRACT), **SHARED)
    follow = online.FollowOperator(task_id="follow", actions=(START,), **RETRIES)
    approve_verified = online.PersonOperator(
        task_id="approve_verified", about="verify", subject="Go on with {{ params.name }} on {{ params.environment }}?"
    )
    cut_over = online.CutOverOperator(task_id="cut_over", actions=(START, CUT_OVER), modes=("ghost",), **RETRIES)
    soak = online.SoakOperator(task_id="soak", actions=(START, CUT_OVER, CONTRACT), modes=("ghost",), **SHARED)
    approve_contract = online.PersonOperator(
        task_id="approve_contract", about="soak", subject="End {{ params.name }} on {{ params.environment }}?"
    )
    contract = online.ContractOperator(task_id="contract", actions=(START, CUT_OVER, CONTRACT), **SHARED)
    report = online.ReportOnlineOperator(task_id="report", **SHARED)

    chain(
        plan,
        approve,
        steer,
        expand,
        backfill,
        catch_up,
        verify,
        approve_verified,
        cut_over,
        soak,
        approve_contract,
        contract,
    )
    chain(verify, follow)
    chain([contract, follow], report)
