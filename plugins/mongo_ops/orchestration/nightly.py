"""Every nightly environment has a run of its own: the scheduled run looks after the first and triggers one for each of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from mongo_ops.settings import load_environments

if TYPE_CHECKING:
    from airflow.sdk import Context


def other_nights() -> list[str]:
    """Return the environments that are ``nightly`` in environments.yaml, without the first, which the schedule itself looks after."""
    return [name for name, value in load_environments().items() if value.nightly][1:]


class NightlyOperator(BaseOperator):
    """Trigger this DAG for another environment, in scheduled runs only; a retry does not trigger a second run."""

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.environment = environment

    def execute(self, context: Context) -> None:
        """Have Airflow trigger the run, as its own TriggerDagRunOperator does (which imports the whole of Airflow's models)."""
        run = context["dag_run"]
        if run.run_type != "scheduled":
            raise AirflowSkipException("Only the schedule looks after the other environments too.")
        raise DagRunTriggerException(
            trigger_dag_id=run.dag_id, dag_run_id=f"nightly__{self.environment}__{run.run_id}", conf={"environment": self.environment},
            reset_dag_run=False, skip_when_already_exists=True, wait_for_completion=False, allowed_states=[], failed_states=[],
            poke_interval=60, deferrable=False,
        )  # fmt: skip
