"""An export from its plan to its manifest: what the engine's doors for exports do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bson import Timestamp

from mongo_ops import audit, storage
from mongo_ops.errors import RunError
from mongo_ops.mongo.batches import Reporter, log_progress
from mongo_ops.storage import Folder, ejson, is_local, show
from mongo_ops.transfer import export_run, failures, history, manifest, place, plan, survey
from mongo_ops.transfer.columns import infer
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.manifest import ManifestModel
from mongo_ops.transfer.model import (
    EVERYTHING,
    FORMATS,
    CollectionFacts,
    ExportPlan,
    ExportRequest,
    Part,
    Receipt,
    time_value,
)
from mongo_ops.transfer.plan import ExportRefusedError

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

SPACE_SHARE = {"none": 1.0, "zst": 0.5, "gz": 0.5}
"""How much of the BSON's size a file may take, guessed high: for the check of free space."""


class PartMissingError(RunError):
    """A part of the export was not written yet."""


def plan_export(target: Target, folder: Folder, request: ExportRequest, connection: str | None = None) -> ExportPlan:
    """Look at the database and the destination and say what would be done. Writes nothing.

    Args:
        target: the environment.
        folder: the destination.
        request: what is asked for.
        connection: the id of the connection by which the destination was opened, to be noted with it.

    Raises:
        ExportRefusedError: it cannot be done as asked.
        AlreadyWrittenError: there is a finished export.
        DestinationBusyError: another run is at it (checked again, exclusively, when it begins).
    """
    plan.check_request(request)
    if manifest.finished(folder):
        raise storage.AlreadyWrittenError(
            f"There is a finished export at {show(folder)}, which is never overwritten. Choose another destination."
        )
    with failures.worded("Planning the export"):
        found = survey.collections(target.db, request)
        found = tuple(with_columns(target, one, request) for one in found)
        parts = _parts(target, found, request)
        notes = _notes(target, found, request)
    made = ExportPlan(
        environment=target.environment.name,
        database=target.database,
        destination=show(folder),
        request=request,
        collections=found,
        parts=parts,
        notes=notes,
        storage_connection=connection,
    )
    _insist_on_space(folder, made)
    return made


def begin_export(target: Target, folder: Folder, made: ExportPlan, run_id: str) -> place.Claim:
    """Claim the destination and fix the cluster time. Every part does it too; whoever is first decides.

    Raises:
        AlreadyWrittenError, DestinationBusyError, PlanChangedError: nothing was written.
    """

    def moment() -> Timestamp | None:
        return None if made.request.consistency == "fuzzy" else survey.now(target.db)

    done = _finished(folder, made, run_id)
    if done is not None:
        return place.Claim(run_id=run_id, plan_digest=made.digest, token="", cluster_time=done.moment)
    with failures.worded("Beginning the export"):
        claim = place.claim(folder, made, run_id, moment)
        history.note_destination(target, made, run_id)
    return claim


def export_part(
    target: Target, folder: Folder, made: ExportPlan, number: int, *, run_id: str, report: Reporter = log_progress
) -> Receipt:
    """Write one part of the plan; a part that is written already is left as it is.

    Raises:
        SnapshotGoneError: the server's history is too short.
        TransferFailedError, StorageFailedError: run it again.
    """
    done = _finished(folder, made, run_id)
    if done is not None:
        return _receipt_of(done, made.parts[number])
    claim = begin_export(target, folder, made, run_id)
    return export_run.write_part(target, folder, made, made.parts[number], claim, report)


def finish_export(
    target: Target,
    folder: Folder,
    made: ExportPlan,
    *,
    run_id: str,
    actor: str | None = None,
    subjects: Mapping[str, Sequence[str]] | None = None,
) -> ManifestModel:
    """Write the manifest when all parts are there, record the export, and tidy up. May be repeated.

    Args:
        target: the environment.
        folder: the destination.
        made: the plan.
        run_id: the run.
        actor: who asked, for the audit log.
        subjects: opaque references of the persons in each collection, for a later erasure.

    Raises:
        PartMissingError: not all parts are written.
        AlreadyWrittenError: another run finished an export there.
    """
    claim = place.claimed(folder)
    found = _finished(folder, made, run_id)
    if found is None:
        claim = begin_export(target, folder, made, run_id)
        found = _write_manifest(target, folder, made, claim, subjects or {})
    with failures.worded("Recording the export"):
        audit.prepare(target.db)
        history.record_export(target, found, made, actor)
    if claim is not None:
        place.tidy(folder, claim.token)
    return found


def _finished(folder: Folder, made: ExportPlan, run_id: str) -> ManifestModel | None:
    """Return the export that this very run has finished; None while there is none.

    Raises:
        AlreadyWrittenError: another run's is there.
    """
    if not manifest.finished(folder):
        return None
    found = manifest.read(folder)
    if (found.run_id, found.plan_digest) != (run_id, made.digest):
        raise storage.AlreadyWrittenError(
            f"Run {found.run_id} finished an export at {show(folder)}, which is never overwritten."
        )
    return found


def _receipt_of(found: ManifestModel, part: Part) -> Receipt:
    told = found.collection(part.collection).parts[part.index]
    value = told.model_dump(exclude={"lower", "upper"})
    return Receipt.of({**value, "part": part.as_value()})


def _write_manifest(
    target: Target, folder: Folder, made: ExportPlan, claim: place.Claim, subjects: Mapping[str, Sequence[str]]
) -> ManifestModel:
    receipts = [place.read_receipt(folder, claim.token, part) for part in made.parts]
    missing = [part for part, receipt in zip(made.parts, receipts, strict=True) if receipt is None]
    if missing:
        raise PartMissingError(
            f"{len(missing):,} of {len(receipts):,} parts are not written yet, the first of {missing[0].collection}. Write them first."
        )
    written = [receipt for receipt in receipts if receipt is not None]
    exact = all(r.cluster_time is not None for r in written if made.facts(r.part.collection).kind != "capped")
    snapshot = exact and claim.cluster_time is not None
    file_format, compressed = FORMATS[made.request.format]
    total = sum((receipt.content for receipt in written), Content())
    with failures.worded("Writing the manifest"):
        server = target.client.server_info()["version"]
    content: dict[str, Any] = {
        "run_id": claim.run_id,
        "plan_digest": made.digest,
        "environment": made.environment,
        "database": made.database,
        "consistency": "snapshot" if snapshot else "fuzzy",
        "cluster_time": time_value(claim.cluster_time) if snapshot else None,
        "everything": made.request.collections == (EVERYTHING,) and not made.request.where,
        "where": ejson.plain(made.request.where),
        "projection": ejson.plain(made.request.projection),
        "file_format": file_format,
        "compression": compressed,
        "json_mode": made.request.json_mode,
        "started_at": _moment(claim.cluster_time),
        "finished_at": datetime.now(UTC),
        "tool": manifest.tool(server),
        "total": total.as_value(),
        "total_file_bytes": sum(receipt.bytes for receipt in written),
    }
    collections = [_collection(one, written, subjects.get(one.name, ())) for one in made.collections]
    return manifest.write(folder, content, collections)


def _collection(facts: CollectionFacts, written: Sequence[Receipt], subjects: Sequence[str]) -> dict[str, Any]:
    mine = [receipt for receipt in written if receipt.part.collection == facts.name]
    value = facts.as_value()
    kept = {name: value[name] for name in ("name", "kind", "uuid", "options", "indexes", "columns")}
    parts = []
    for receipt in mine:
        said = receipt.as_value()
        part = said.pop("part")
        parts.append({**said, "lower": part["lower"], "upper": part["upper"]})
    content = sum((receipt.content for receipt in mine), Content())
    return {**kept, "content": content.as_value(), "subjects": list(subjects), "parts": parts}


def _moment(cluster_time: Timestamp | None) -> datetime:
    return datetime.now(UTC) if cluster_time is None else cluster_time.as_datetime()


def with_columns(target: Target, facts: CollectionFacts, request: ExportRequest) -> CollectionFacts:
    """Return the facts with columns, where the format has them."""
    if FORMATS[request.format][0] not in ("csv", "parquet"):
        return facts
    return infer(target.db, facts, request)


def _parts(target: Target, found: Sequence[CollectionFacts], request: ExportRequest) -> tuple[Part, ...]:
    parts: list[Part] = []
    for facts in found:
        if facts.kind == "view" and request.collections == (EVERYTHING,):
            continue  # its definition is enough
        count = plan.part_count(facts, request)
        keys = plan.cuts(survey.sample(target.db, facts, count), count) if count > 1 else ()
        parts.extend(plan.parts(len(parts), facts.name, keys))
    return tuple(parts)


def _notes(target: Target, found: Sequence[CollectionFacts], request: ExportRequest) -> tuple[str, ...]:
    notes = []
    if request.consistency != "fuzzy":
        capped = [facts.name for facts in found if facts.kind == "capped"]
        if capped:
            notes.append(f"Capped collections have no snapshot reads and are read as they are: {', '.join(capped)}.")
        reason = plan.window_note(sum(facts.bytes for facts in found), survey.history_window(target.db))
        if reason and request.consistency == "snapshot":
            raise ExportRefusedError(f"No snapshot: {reason}.")
        if reason:
            notes.append(f"Should the snapshot go, parts are read without it: {reason}.")
    return tuple(notes)


def _insist_on_space(folder: Folder, made: ExportPlan) -> None:
    if not is_local(folder):
        return
    there = Path(folder.path)
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    needed = int(made.bytes * SPACE_SHARE[FORMATS[made.request.format][1]])
    if needed > free:
        raise ExportRefusedError(
            f"{show(folder)} has {free / 1e9:,.1f} GB left and the export may take {needed / 1e9:,.1f} GB. Make room first."
        )
