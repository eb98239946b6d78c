"""The task that rehearses a plan on a sampled copy, when the run asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mongo_ops.orchestration.operators import EngineOperator
from mongo_ops.orchestration.targets import connection_spec
from mongo_ops.settings import include_folder, load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context


class RehearseOperator(EngineOperator):
    """Run the pending migrations up, down and up in a scratch database; fail when one of them does not survive that."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {ok, seconds}; the whole story is in the log."""
        from mongo_ops.migrations.rehearse import rehearse  # noqa: PLC0415

        params = context["params"]
        if not params["rehearse"]:
            raise AirflowSkipException("No rehearsal was asked for.")
        environment = load_environment(self.environment_of(context))
        done = rehearse(
            connection_spec(environment), environment, include_folder(), version=params["target_version"],
            allow_out_of_order=params["allow_out_of_order"],
        )  # fmt: skip
        self.log.info("\n%s", done.as_text())
        if not done.ok:
            raise AirflowFailException(
                "The rehearsal failed; this task's log names every failing migration and document."
            )
        return {"ok": True, "seconds": round(done.seconds, 2)}
