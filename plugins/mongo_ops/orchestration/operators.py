"""The operator that all tasks share: it opens the environment, names the actor, and tells Airflow which faults to retry."""

from __future__ import annotations

import logging
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from mongo_ops.errors import PlanError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.migrations.history import Occasion
    from mongo_ops.mongo.batches import Progress
    from mongo_ops.mongo.lease import Holder

RETRIES: dict[str, Any] = {
    "retries": 5,
    "retry_delay": timedelta(seconds=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
}


class EngineOperator(BaseOperator):
    """Runs a piece of the engine. A plan fault fails at once; anything else is retried, and the retry resumes."""

    ui_color = "#e8f4ea"

    def execute(self, context: Context) -> Any:
        """Work, and turn the engine's faults into Airflow's."""
        from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

        logging.getLogger("mongo_ops").setLevel(logging.INFO)
        try:
            return self.work(context)
        except PlanError as error:
            raise AirflowFailException(str(error)) from None

    @abstractmethod
    def work(self, context: Context) -> Any:
        """Do the task."""

    def on_kill(self) -> None:
        """Stop at once: the signal's exception unwinds the work, which records itself as interrupted."""
        raise SystemExit("stopped by Airflow")

    def environment_of(self, context: Context) -> str:
        """Return the run's environment."""
        return str(context["params"]["environment"])


def occasion_of(context: Context, plan_digest: str | None = None) -> Occasion:
    """Return on whose behalf the run happens: the user that triggered it, else the scheduler."""
    from mongo_ops.migrations.history import Actor, Occasion  # noqa: PLC0415

    run = context["dag_run"]
    user = getattr(run, "triggering_user_name", None) or "scheduler"
    reason = context["params"].get("reason")
    return Occasion(Actor(str(user), "airflow"), f"{run.dag_id} {run.run_id}", plan_digest, reason)


def holder_of(context: Context) -> Holder:
    """Return the lease's holder: the DAG run, so that its tasks and retries take over from each other."""
    from mongo_ops.mongo.lease import Holder  # noqa: PLC0415

    run = context["dag_run"]
    return Holder(f"airflow {run.dag_id} {run.run_id}")


def reporter_of(context: Context) -> Any:
    """Return a reporter that writes progress to the task's log and to the task's state store."""
    store = context.get("task_state_store")

    def report(progress: Progress) -> None:
        from mongo_ops.mongo.batches import log_progress  # noqa: PLC0415

        log_progress(progress)
        if store is not None:
            left = progress.seconds_left
            store.set("progress", {"step": progress.step, "done": progress.done, "total": progress.total,
                                   "rate_per_s": round(progress.rate_per_s), "seconds_left": left and round(left),
                                   "waiting": progress.waiting})  # fmt: skip

    return report
