"""Tell people what changed, through Airflow's own notifiers, which ``notifiers`` of health.yaml names. Never tells what is as it was."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from mongo_ops.errors import PlanError, RunError
from mongo_ops.orchestration.health import judged, place, read, write
from mongo_ops.orchestration.operators import EngineOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier, Context

    from mongo_ops.health.model import Run
    from mongo_ops.health.thresholds import Notice

DONE = "notified.json"


class InvalidNotifierError(PlanError):
    """What health.yaml names is no notifier, or is not made like that."""


class NotifierFailedError(RunError):
    """Somebody could not be told."""


class NotifyOperator(EngineOperator):
    """Tell people what is new, worse or fixed, and only that; what is as it was last night is in the report."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {changes, told}; skipped when nothing changed. A retry tells only those who were not told."""
        from mongo_ops.health.thresholds import load_thresholds  # noqa: PLC0415

        run = judged(context)
        if not run.changes:
            raise AirflowSkipException("Nothing changed since the last run.")
        message = message_of(run, context["ti"].xcom_pull(task_ids="report")["page"])
        self.log.warning("\n%s", message["text"])
        return {
            "changes": message["changes"],
            "told": tell_all(load_thresholds().notices_of(run.environment), context, message),
        }


def tell_all(notices: Sequence[Notice], context: Context, message: Mapping[str, Any]) -> int:
    """Tell everybody who was not told by an earlier try; return how many know it now.

    Raises:
        InvalidNotifierError: health.yaml names what is no notifier; nobody was told.
        NotifierFailedError: somebody could not be told; the others were.
    """
    done = place(context) / DONE
    told: list[str] = json.loads(read(done)) if done.exists() else []
    failed: list[str] = []
    for notice, notifier in [(notice, made(notice)) for notice in notices]:
        name = json.dumps([notice.use, notice.options], sort_keys=True)
        if name in told:
            continue
        full: Any = {**context, "health": message}
        try:
            notifier.render_template_fields(full)
            notifier.notify(full)
        except Exception as error:  # noqa: BLE001 - its own text may hold an address with a token in it
            failed.append(f"{notice.use} ({type(error).__name__})")
        else:
            told.append(name)
            write(done, json.dumps(told).encode())
    if failed:
        raise NotifierFailedError(
            f"Not everybody was told of the changes: {', '.join(failed)}. Look at the connections; a retry tells only who was not told."
        )
    return len(told)


def message_of(run: Run, page: str) -> dict[str, Any]:
    """Return what templates know as ``health``: environment, database, status, changes (sentences), text, page; no key of a document."""
    changes = [f"{one.transition} {one.finding.status} {one.check}: {one.finding.sentence}" for one in run.changes]
    text = "\n".join([f"{run.status}: {run.environment} ({run.database})", *changes, *run.notes, page])
    return {
        "environment": run.environment, "database": run.database, "status": str(run.status), "changes": changes, "text": text, "page": page,
    }  # fmt: skip


def made(notice: Notice) -> BaseNotifier:
    """Return the notifier.

    Raises:
        InvalidNotifierError: it cannot be imported, is no notifier, or does not take these options.
    """
    from airflow.sdk import BaseNotifier  # noqa: PLC0415

    try:
        kind = pkgutil.resolve_name(notice.use)
        if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
            raise InvalidNotifierError(f"health.yaml: {notice.use} is no notifier of Airflow.")
        notifier: BaseNotifier = kind(**notice.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidNotifierError(f"health.yaml: the notifier {notice.use} cannot be made: {error}") from None
    return notifier
