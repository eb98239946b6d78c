"""The tasks of mongo_bulk_export and mongo_bulk_import. Each opens the environment and the storage, and carries out its parts.

A plan names keys of documents (the bounds of its parts), which may be personal. So it is kept in the environment's own database
until the run is over, and what passes between tasks are its digest, counts and the numbers of parts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from mongo_ops.orchestration.evidence import insist_on_approval
from mongo_ops.orchestration.lineage import namespace
from mongo_ops.orchestration.operators import TracedOperator, occasion_of, reporter_of, skip_when_only_planned
from mongo_ops.orchestration.targets import open_folder, open_storage, open_target
from mongo_ops.settings import load_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.mongo.connection import Target
    from mongo_ops.storage import Folder
    from mongo_ops.transfer.engine import ExportPlan, ImportPlan

MOST_TASKS = 200
"""Mapped tasks of a run; more parts than that share tasks."""


class TransferOperator(TracedOperator):
    """What exports and imports share: where the files are, and where the plan is kept."""

    def folder(self, context: Context) -> Folder:
        """Return the export's destination or the import's source."""
        params = context["params"]
        uri = params.get("destination") or params.get("source")
        if uri:
            return open_folder(str(uri), self.connection(context))
        environment = load_environment(self.environment_of(context))
        run = context["dag_run"]
        return open_storage(environment) / "exports" / safe_name(run.run_id)

    def connection(self, context: Context) -> str | None:
        """Return the id of the connection by which the folder is opened; None where it needs none."""
        params = context["params"]
        if params.get("destination") or params.get("source"):
            return params.get("storage_connection") or None
        return load_environment(self.environment_of(context)).storage_connection

    def run_id(self, context: Context) -> str:
        """Return the run by which retries find what earlier tries did."""
        run = context["dag_run"]
        return f"{run.dag_id} {run.run_id}"


class PlanExportOperator(TransferOperator):
    """Look at the collections and the destination and say what would be written."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {digest, markdown, empty}."""
        from mongo_ops.transfer import engine, report  # noqa: PLC0415

        request, connection = export_request(context["params"]), self.connection(context)
        with open_target(self.environment_of(context), read_only=True) as target:
            plan = engine.plan_export(target, self.folder(context), request, connection)
        self.log.info("\n%s", report.export_plan_as_text(plan))
        keep(self, context, plan)
        return {"digest": plan.digest, "markdown": report.export_plan_as_text(plan), "empty": not plan.parts}


class BeginExportOperator(TransferOperator):
    """Claim the destination and fix the moment at which everything is read."""

    def work(self, context: Context) -> list[list[int]]:
        """Return the numbers of the parts, as many lists as there shall be tasks."""
        from mongo_ops.transfer import engine  # noqa: PLC0415

        skip_when_only_planned(context)
        with open_target(self.environment_of(context)) as target:
            plan = kept_export(target, self.run_id(context))
            engine.begin_export(target, self.folder(context), plan, self.run_id(context))
        return shares(len(plan.parts))


class PartsOperator(TransferOperator):
    """Carry out some parts of the plan; a retry goes on with those that are not done."""

    def __init__(self, *, numbers: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.numbers = numbers

    def work(self, context: Context) -> dict[str, int]:
        """Return {parts, documents}."""
        with open_target(self.environment_of(context)) as target:
            folder, documents = self.folder(context), 0
            for number in self.numbers:
                documents += self.part(context, target, folder, int(number))
        return {"parts": len(self.numbers), "documents": documents}

    @abstractmethod
    def part(self, context: Context, target: Target, folder: Folder, number: int) -> int:
        """Carry out one part and return its documents."""


class ExportPartsOperator(PartsOperator):
    """Write some parts of an export."""

    def part(self, context: Context, target: Target, folder: Folder, number: int) -> int:
        """Write one part."""
        from mongo_ops.transfer import engine  # noqa: PLC0415

        run_id = self.run_id(context)
        plan = kept_export(target, run_id)
        written = engine.export_part(target, folder, plan, number, run_id=run_id, report=reporter_of(context))
        return written.content.count


class FinishExportOperator(TransferOperator):
    """Write the manifest, by which the export becomes visible, and read everything once more."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {destination, documents, bytes, collections, consistency, verified}."""
        from mongo_ops.orchestration.tombstones import subjects  # noqa: PLC0415
        from mongo_ops.storage import show  # noqa: PLC0415
        from mongo_ops.transfer import engine  # noqa: PLC0415

        skip_when_only_planned(context)
        folder, run_id = self.folder(context), self.run_id(context)
        actor = occasion_of(context).actor.name
        with open_target(self.environment_of(context)) as target:
            plan = kept_export(target, run_id)
            named = subjects([one.name for one in plan.collections], plan.request.where)
            made = engine.finish_export(target, folder, plan, run_id=run_id, actor=actor, subjects=named)
            seen = engine.verify_export(folder)
            self.lineage = lineage(
                target, folder, [one.name for one in plan.collections], made.total.count, exports=True
            )
        if not seen.ok:
            raise AirflowFailException(f"The export was read back and is not what was written: {seen}")
        return {
            "destination": show(folder), "documents": made.total.count, "bytes": made.total_file_bytes,
            "collections": len(made.collections), "consistency": made.consistency, "verified": seen.ok,
        }  # fmt: skip


class PlanImportOperator(TransferOperator):
    """Look into the source and the database and say what would be loaded."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {digest, markdown, empty}."""
        from mongo_ops.transfer import engine, report  # noqa: PLC0415

        folder, params = self.folder(context), context["params"]
        with open_target(self.environment_of(context), read_only=True) as target:
            plan = engine.plan_import(target, folder, import_request(params), params.get("files"))
            text = report.import_plan_as_text(plan, engine.preview_import(target, folder, plan))
        self.log.info("\n%s", text)
        keep(self, context, plan)
        return {"digest": plan.digest, "markdown": text, "empty": not plan.parts}


class BeginImportOperator(TransferOperator):
    """Make sure that the plan is approved, and make the collections."""

    def work(self, context: Context) -> list[list[int]]:
        """Return the numbers of the parts, as many lists as there shall be tasks."""
        from mongo_ops.transfer import engine  # noqa: PLC0415

        skip_when_only_planned(context)
        with open_target(self.environment_of(context)) as target:
            plan = kept_import(target, self.run_id(context))
            insist_on_approval(context, target, plan.digest)
            engine.begin_import(target, plan)
        return shares(len(plan.parts))


class ImportPartsOperator(PartsOperator):
    """Load some files of an import; what was erased does not come back."""

    def part(self, context: Context, target: Target, folder: Folder, number: int) -> int:
        """Load one file."""
        from mongo_ops.orchestration.tombstones import refusal  # noqa: PLC0415
        from mongo_ops.transfer import engine  # noqa: PLC0415

        run_id = self.run_id(context)
        plan = kept_import(target, run_id)
        insist_on_approval(context, target, plan.digest)
        refuse = refusal(target, plan.parts[number].collection)
        report = reporter_of(context)
        return engine.import_part(target, folder, plan, number, run_id=run_id, report=report, refuse=refuse).rows


class FinishImportOperator(TransferOperator):
    """Build indexes, verify, write the rejects, record the import."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return the report: {run_id, tally, collections, verified, differences, rejects}."""
        from mongo_ops.transfer import engine  # noqa: PLC0415

        skip_when_only_planned(context)
        run_id, actor = self.run_id(context), occasion_of(context).actor.name
        with open_target(self.environment_of(context)) as target:
            plan = kept_import(target, run_id)
            insist_on_approval(context, target, plan.digest)
            rejects = open_storage(target.environment) / "rejects" / f"{safe_name(run_id)}.jsonl"
            done = engine.finish_import(target, plan, rejects, run_id=run_id, actor=actor)
            self.lineage = lineage(
                target, self.folder(context), list(done.collections), done.tally.inserted, exports=False
            )
        return dict(done.as_value())


class ForgetPlanOperator(TransferOperator):
    """Forget the run's plan, whatever happened. A destination that was claimed stays claimed for a new try of this run."""

    def work(self, context: Context) -> bool:
        """Return whether there was one."""
        with open_target(self.environment_of(context)) as target:
            return target.db[_transfers()].delete_one({"_id": plan_key(self.run_id(context))}).deleted_count == 1


class ReportTransferOperator(TransferOperator):
    """Say what the run did, as the run's result."""

    def __init__(self, *, finish: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.finish = finish

    def work(self, context: Context) -> dict[str, Any]:
        """Return {plan_only, digest} and what the finishing task returned."""
        digest = context["ti"].xcom_pull(task_ids="plan")["digest"]
        done: Mapping[str, Any] = context["ti"].xcom_pull(task_ids=self.finish) or {}
        return {"plan_only": bool(context["params"]["plan_only"]), "digest": digest, **done}


def export_request(params: Mapping[str, Any]) -> Any:
    """Return what a run's parameters ask for.

    Raises:
        AirflowFailException: the filter is not Extended JSON.
    """
    from mongo_ops.transfer.engine import ExportRequest  # noqa: PLC0415

    kind = str(params["format"])
    fields = tuple(params.get("fields") or ())
    tabular = kind.startswith(("csv", "parquet"))
    return ExportRequest(
        collections=tuple(params.get("collections") or ("*",)),
        format=kind,
        where=_filter(params.get("filter")),
        projection=dict.fromkeys(fields, 1) if fields and not tabular else None,
        fields=fields if tabular else (),
        consistency=params["consistency"],
        partitions=params.get("partitions"),
        json_mode=params["json_mode"],
    )


def import_request(params: Mapping[str, Any]) -> Any:
    """Return what a run's parameters ask for."""
    from mongo_ops.transfer.engine import ImportRequest  # noqa: PLC0415

    names = ("mode", "into", "format", "on_error", "max_rejects", "max_reject_share", "validation", "indexes")
    collections = {str(name): str(here or name) for name, here in (params.get("collections") or {}).items()}
    keys = tuple(params.get("keys") or ("_id",))
    return ImportRequest(keys=keys, collections=collections, **{name: params[name] for name in names})


def _filter(text: str | None) -> Mapping[str, Any]:
    from bson import json_util  # noqa: PLC0415

    if not text:
        return {}
    try:
        found = json_util.loads(text)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise AirflowFailException(
            'The filter must be Extended JSON, for example {"country": "DE"}. Nothing was written.'
        )
    return found


def shares(parts: int) -> list[list[int]]:
    """Deal the numbers of the parts out to at most ``MOST_TASKS`` tasks."""
    tasks = min(parts, MOST_TASKS)
    return [list(range(first, parts, tasks)) for first in range(tasks)]


def keep(task: TransferOperator, context: Context, plan: ExportPlan | ImportPlan) -> None:
    """Keep the plan for the run's later tasks; not in a dry run, which writes nothing."""
    if context["params"]["plan_only"]:
        return
    with open_target(task.environment_of(context)) as target:
        kept = {"_id": plan_key(task.run_id(context)), "plan": plan.as_value()}
        target.db[_transfers()].replace_one({"_id": kept["_id"]}, kept, upsert=True)


def kept_export(target: Target, run_id: str) -> ExportPlan:
    """Return the run's plan."""
    from mongo_ops.transfer.engine import ExportPlan  # noqa: PLC0415

    return ExportPlan.of(_kept(target, run_id))


def kept_import(target: Target, run_id: str) -> ImportPlan:
    """Return the run's plan."""
    from mongo_ops.transfer.engine import ImportPlan  # noqa: PLC0415

    return ImportPlan.of(_kept(target, run_id))


def _kept(target: Target, run_id: str) -> Mapping[str, Any]:
    found = target.db[_transfers()].find_one({"_id": plan_key(run_id)})
    if found is None:
        raise AirflowFailException(
            "The plan of this run was forgotten, because the run had ended. Clear all of its tasks, or trigger a new run."
        )
    plan: Mapping[str, Any] = found["plan"]
    return plan


def _transfers() -> str:
    from mongo_ops.transfer.history import TRANSFERS  # noqa: PLC0415

    return TRANSFERS


def plan_key(run_id: str) -> str:
    """Return the key under which a run's plan is kept."""
    return f"plan/{run_id}"


def safe_name(run_id: str) -> str:
    """Return a run's id as the name of a file or folder in any store."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in run_id)


def lineage(
    target: Target, folder: Folder, collections: Sequence[str], documents: int, *, exports: bool
) -> dict[str, Any]:
    """Return what OpenLineage is told: collections on one side, the object on the other."""
    from mongo_ops.storage import show  # noqa: PLC0415

    return {
        "namespace": namespace(target), "database": target.database,
        "collections": list(collections), "object": show(folder), "documents": documents, "exports": exports,
    }  # fmt: skip
