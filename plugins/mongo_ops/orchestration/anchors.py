"""The task of mongo_audit_anchor: the chains' heads go to a place that the database's users cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from mongo_ops.orchestration.operators import EngineOperator
from mongo_ops.orchestration.targets import open_anchors, open_target

if TYPE_CHECKING:
    from airflow.sdk import Context


class AnchorOperator(EngineOperator):
    """Verify each chain against its newest anchor; anchor those that are whole. A broken chain fails the task, the others are done."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {chain: {entries, seq, written}}."""
        from mongo_ops.audit import anchors  # noqa: PLC0415

        only_look = bool(context["params"]["plan_only"])
        with open_target(self.environment_of(context), read_only=True) as target:
            done = anchors.anchor(target, open_anchors(target.environment), only_look=only_look)
        for one in done:
            self.log.info("%s", one)
        broken = [str(one) for one in done if not one.seen.ok]
        if broken:
            raise AirflowFailException(" ".join(broken))
        return {
            one.log: {"entries": one.seen.entries, "seq": one.seen.head_seq, "written": one.written} for one in done
        }
