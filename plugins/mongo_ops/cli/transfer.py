"""The commands `mongo-ops export` and `mongo-ops import`: the engine in one or several processes, with progress, or as a pipe."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from bson import json_util
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.cli.people import refusal, subjects, telling_of_files
from mongo_ops.errors import PlanError
from mongo_ops.mongo import batches
from mongo_ops.mongo.connection import Target
from mongo_ops.storage import Folder, open_folder
from mongo_ops.transfer import engine, report
from mongo_ops.transfer.pipe import export_stream

SOMETHING_TO_DO = 2
PIPE = "-"
CHUNK = 1024 * 1024


def export(arguments: argparse.Namespace) -> int:
    """Export collections; exit code 2 when a dry run found something to do."""
    request = _export_request(arguments)
    if arguments.destination == PIPE:
        return _to_stdout(arguments, request)
    folder = _folder(arguments.destination, arguments)
    if arguments.discard and not arguments.dry_run:
        engine.discard_export(folder)
    with support.open_target(arguments.env, read_only=arguments.dry_run) as target:
        plan = engine.plan_export(target, folder, request, arguments.storage_connection)
        if arguments.dry_run:
            show(arguments, plan.as_value(), report.export_plan_as_text(plan))
            return SOMETHING_TO_DO
        run_id = _run_id(arguments)
        engine.begin_export(target, folder, plan, run_id)
        with _progress(arguments) as tell:
            _each(
                arguments, len(plan.parts), _ExportPart(arguments.env, arguments.destination, arguments.storage_connection, plan, run_id),
                lambda number: engine.export_part(target, folder, plan, number, run_id=run_id, report=tell),
            )  # fmt: skip
        named = subjects([one.name for one in plan.collections], request.where)
        actor = support.occasion().actor.name
        found = engine.finish_export(target, folder, plan, run_id=run_id, actor=actor, subjects=named)
    seen = engine.verify_export(folder) if arguments.verify else None
    value = {"run_id": run_id, "manifest": found.model_dump(mode="json"), "verified": None if seen is None else seen.ok}
    show(arguments, value, report.export_as_text(found, seen))
    return 0 if seen is None or seen.ok else 1


def import_(arguments: argparse.Namespace) -> int:
    """Import an export or files; exit code 2 when a dry run found something to do."""
    if arguments.source != PIPE:
        return _import(arguments, _folder(arguments.source, arguments), arguments.files)
    if not arguments.format or not arguments.into:
        raise PlanError("From standard input, give --format and --into.")
    with tempfile.TemporaryDirectory(prefix="mongo-ops-import-") as place:  # a retry within the run must find it again
        path = Path(place) / f"stdin.{arguments.format}"
        with telling_of_files(), path.open("wb") as file:
            while data := sys.stdin.buffer.read(CHUNK):
                file.write(data)
        arguments.source = place
        return _import(arguments, _folder(place, arguments), path.name)


def _import(arguments: argparse.Namespace, folder: Folder, pattern: str | None) -> int:
    request = _import_request(arguments)
    with support.open_target(arguments.env, read_only=arguments.dry_run) as target:
        plan = engine.plan_import(target, folder, request, pattern)
        if arguments.dry_run:
            seen = engine.preview_import(target, folder, plan)
            told = {**plan.as_value(), "preview": [dataclasses.asdict(one) for one in seen]}
            show(arguments, told, report.import_plan_as_text(plan, seen))
            return SOMETHING_TO_DO
        _insist_on_approval(target, plan, arguments.approved)
        run_id = _run_id(arguments)
        engine.begin_import(target, plan)
        with _progress(arguments) as tell:
            _each(
                arguments, len(plan.parts), _ImportPart(arguments.env, arguments.source, arguments.storage_connection, plan, run_id),
                lambda number: engine.import_part(
                    target, folder, plan, number, run_id=run_id, report=tell, refuse=refusal(target, plan.parts[number].collection)
                ),
            )  # fmt: skip
        storage = open_folder(target.environment.storage, connection=target.environment.storage_connection)
        rejects = storage / "rejects" / f"{run_id}.jsonl"
        done = engine.finish_import(target, plan, rejects, run_id=run_id, actor=support.occasion().actor.name)
    show(arguments, done.as_value(), report.import_as_text(done))
    return 0


def _export_request(arguments: argparse.Namespace) -> engine.ExportRequest:
    fields = tuple(arguments.fields.split(",")) if arguments.fields else ()
    tabular = arguments.format.startswith(("csv", "parquet"))
    return engine.ExportRequest(
        collections=tuple(arguments.collection) or ("*",),
        format=arguments.format,
        where=_json(arguments.where) if arguments.where else {},
        projection=dict.fromkeys(fields, 1) if fields and not tabular else None,
        fields=fields if tabular else (),
        consistency=arguments.consistency,
        partitions=arguments.partitions,
        json_mode="canonical" if arguments.canonical else "relaxed",
    )


def _import_request(arguments: argparse.Namespace) -> engine.ImportRequest:
    pairs = [word.partition("=") for word in arguments.collection]
    wrong = [word for word in arguments.type if "=" not in word]
    if wrong:
        raise PlanError(f"--type takes COLUMN=TYPE, not {wrong[0]!r}.")
    return engine.ImportRequest(
        mode=arguments.mode,
        keys=tuple(arguments.key) or ("_id",),
        collections={name: here or name for name, _, here in pairs},
        into=arguments.into,
        format=arguments.format,
        on_error=arguments.on_error,
        max_rejects=arguments.max_rejects,
        max_reject_share=arguments.max_reject_share,
        validation="bypass" if arguments.bypass_validation else "check",
        indexes=arguments.indexes,
        columns=dict(word.rsplit("=", 1) for word in arguments.type),
    )


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json_util.loads(text)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise PlanError('--where must be a filter as Extended JSON, e.g. \'{"country": "DE"}\'.')
    return found


def _to_stdout(arguments: argparse.Namespace, request: engine.ExportRequest) -> int:
    if len(arguments.collection) != 1:
        raise PlanError("To standard output, name exactly one --collection.")
    with support.open_target(arguments.env, read_only=True) as target:
        export_stream(target, request, _Pipe(sys.stdout.buffer))
    return 0


class _Pipe:
    """Standard output; a reader that goes away ends the command as it ends any other."""

    def __init__(self, out: IO[bytes]) -> None:
        self.write = out.write


@dataclasses.dataclass(frozen=True)
class _ExportPart:
    """One part in a process of its own."""

    env: str
    place: str
    connection: str | None
    plan: engine.ExportPlan
    run_id: str

    def __call__(self, number: int) -> int:
        with support.open_target(self.env) as target:
            folder = open_folder(self.place, connection=self.connection)
            return engine.export_part(target, folder, self.plan, number, run_id=self.run_id).content.count


@dataclasses.dataclass(frozen=True)
class _ImportPart:
    """One part in a process of its own."""

    env: str
    place: str
    connection: str | None
    plan: engine.ImportPlan
    run_id: str

    def __call__(self, number: int) -> int:
        with support.open_target(self.env) as target:
            folder = open_folder(self.place, connection=self.connection)
            refuse = refusal(target, self.plan.parts[number].collection)
            return engine.import_part(target, folder, self.plan, number, run_id=self.run_id, refuse=refuse).rows


def _each(
    arguments: argparse.Namespace, count: int, apart: Callable[[int], int], here: Callable[[int], object]
) -> None:
    """Carry out every part: here, or in processes. Processes are started afresh: a client does not survive a fork."""
    if arguments.processes <= 1 or count <= 1:
        for number in range(count):
            here(number)
        return
    with ProcessPoolExecutor(min(arguments.processes, count), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(apart, range(count)):
            pass


def _run_id(arguments: argparse.Namespace) -> str:
    run_id = str(arguments.resume or f"cli-{uuid.uuid4().hex[:12]}")
    print(f"Run {run_id}. Should it be stopped, go on with --resume {run_id}", file=sys.stderr)
    return run_id


def _folder(place: str, arguments: argparse.Namespace) -> Folder:
    return open_folder(
        place if "://" in place else Path(place).resolve().as_uri(), connection=arguments.storage_connection
    )


def _insist_on_approval(target: Target, plan: engine.ImportPlan, approved: str | None) -> None:
    environment = target.environment
    if environment.protected and plan.digest != approved:
        raise support.ApprovalMissingError(
            f"{environment.name} is protected. Let a second person read the same command with --dry-run, then pass --approved "
            f"{plan.digest}; or trigger the DAG mongo_bulk_import, which asks in the Airflow UI."
        )


@contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[batches.Reporter]:
    """Yield a reporter: a bar per part on a terminal, log lines elsewhere."""
    if arguments.json or not sys.stderr.isatty():
        yield batches.log_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        known: dict[str, Any] = {}

        def tell(seen: batches.Progress) -> None:
            if seen.step not in known:
                known[seen.step] = bars.add_task(seen.step, total=seen.total or None)
            bars.update(known[seen.step], completed=seen.done, total=max(seen.total, seen.done))

        yield tell
