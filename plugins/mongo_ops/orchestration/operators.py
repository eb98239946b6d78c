"""The operator that all tasks share: it opens the environment, names the actor, and tells Airflow which faults to retry."""

from __future__ import annotations

import logging
from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator

from mongo_ops.errors import MongoOpsError, PlanError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.migrations.history import Occasion
    from mongo_ops.mongo.batches import Progress
    from mongo_ops.mongo.lease import Holder

log = logging.getLogger(__name__)
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
        from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException  # noqa: PLC0415

        from mongo_ops.mongo.batches import BudgetSpentError  # noqa: PLC0415 - imports pymongo

        logging.getLogger("mongo_ops").setLevel(logging.INFO)
        try:
            return self.work(context)
        except BudgetSpentError as error:  # a clean stop, not a failure: come again without using up a retry
            self.log.info("%s", error)
            again = datetime.now(UTC) + timedelta(seconds=1)
            raise AirflowRescheduleException(again) from None  # type: ignore[no-untyped-call]
        except PlanError as error:
            raise AirflowFailException(str(error)) from None
        except MongoOpsError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith(("pymongo", "bson", "gridfs")):
                raise
            self._raise_worded(error)  # the driver's text may hold values of documents

    def _raise_worded(self, error: Exception) -> NoReturn:
        from airflow.sdk.exceptions import AirflowFailException  # noqa: PLC0415

        from mongo_ops.migrations.faults import explain  # noqa: PLC0415

        worded = explain(error, self.task_id)
        raise (AirflowFailException(str(worded)) if isinstance(worded, PlanError) else worded) from None

    @abstractmethod
    def work(self, context: Context) -> Any:
        """Do the task."""

    def on_kill(self) -> None:
        """Stop at once: the signal's exception unwinds the work, which records itself as interrupted."""
        raise SystemExit("stopped by Airflow")

    def environment_of(self, context: Context) -> str:
        """Return the run's environment."""
        return str(context["params"]["environment"])


class TracedOperator(EngineOperator):
    """An engine's operator that tells OpenLineage what it read and wrote: ``lineage``, see the room of that name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lineage: dict[str, Any] = {}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return the datasets and counts that the work remembered."""
        from mongo_ops.orchestration.lineage import facets  # noqa: PLC0415

        del task_instance
        return facets(self.lineage)


def skip_when_only_planned(context: Context) -> None:
    """Skip the task in a dry run."""
    from airflow.sdk.exceptions import AirflowSkipException  # noqa: PLC0415

    if context["params"]["plan_only"]:
        raise AirflowSkipException("Plan only: nothing is done.")


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

    def report(progress: Progress) -> None:
        from mongo_ops.mongo.batches import log_progress  # noqa: PLC0415

        log_progress(progress)
        left = progress.seconds_left
        show_progress(context, {"step": progress.step, "done": progress.done, "total": progress.total,
                                "rate_per_s": round(progress.rate_per_s), "seconds_left": left and round(left),
                                "waiting": progress.waiting})  # fmt: skip

    return report


def show_progress(context: Context, progress: dict[str, Any]) -> None:
    """Write progress to the task's state store."""
    store = context.get("task_state_store")
    if store is None:
        return
    try:
        store.set("progress", progress)
    except Exception as error:  # noqa: BLE001 - progress is a courtesy: no failure of Airflow's API may stop the work
        log.warning("Progress could not be shown in Airflow (%s).", type(error).__name__)
