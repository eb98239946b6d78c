"""An import from its plan to its report: what the engine's doors for imports do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops import audit
from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo.batches import CHECKPOINTS, Reporter, log_progress
from mongo_ops.mongo.lease import LEASES
from mongo_ops.storage import Folder, ejson, show
from mongo_ops.transfer import catalogue, content, failures, history, import_run, manifest, reading, rejects, sources
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.formats import flat
from mongo_ops.transfer.import_model import ImportPart, ImportPlan, ImportRequest, ImportTarget, Tally
from mongo_ops.transfer.lane import Refuse
from mongo_ops.transfer.manifest import CollectionModel, ManifestModel
from mongo_ops.transfer.preview import Preview, look
from mongo_ops.transfer.survey import NOT_EXPORTED

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document


OWN = "ops_"


class ImportRefusedError(PlanError):
    """This import cannot be made as asked; nothing was written."""


class ImportUnfinishedError(RunError):
    """A part is not loaded yet."""


class ImportDiffersError(RunError):
    """A collection does not hold what the manifest says."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did. ``differences`` is what the verification found; ``rejects`` names the object with the bad rows."""

    run_id: str
    tally: Tally
    collections: tuple[str, ...]
    verified: tuple[str, ...]
    differences: tuple[str, ...]
    rejects: str | None

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "run_id": self.run_id,
            **self.tally.as_value(),
            "collections": list(self.collections),
            "verified": list(self.verified),
            "differences": list(self.differences),
            "rejects": self.rejects,
        }


def plan_import(target: Target, folder: Folder, request: ImportRequest, pattern: str | None = None) -> ImportPlan:
    """Look at the source and the database and say what would be done. Writes nothing.

    Args:
        target: the environment.
        folder: an export's folder, or a folder of other files.
        request: what is asked.
        pattern: which files of a folder without a manifest, such as ``*.json.gz``.

    Raises:
        ImportRefusedError, SourceError: it cannot be done as asked.
        ExportMissingError, ExportCorruptError: no pattern is given and there is no usable manifest.
    """
    _check(request)
    found: ManifestModel | None = None
    with failures.worded("Planning the import"):
        if pattern is None:
            found = manifest.read(folder)
            chosen = sources.of_manifest(found, request)
            parts = sources.manifest_parts(found, chosen)
            targets = tuple(_of_manifest(target, here, one, found) for here, one in chosen)
        else:
            parts = sources.foreign_parts(folder, sources.listed(folder, pattern), request)
            names = dict.fromkeys(part.collection for part in parts)
            targets = tuple(_plain(target, name) for name in names)
        notes = _notes(targets, request) + tuple(_of_keys(target, targets, parts, request))
    return ImportPlan(
        environment=target.environment.name,
        database=target.database,
        source=show(folder),
        manifest_sha256=None if found is None else found.manifest_sha256,
        request=request,
        targets=targets,
        parts=parts,
        notes=notes,
    )


def preview_import(target: Target, folder: Folder, plan: ImportPlan) -> Preview:
    """Look into a sample of the files: fields and types, keys that are there already, rows the validator would refuse."""
    with failures.worded("Looking into the source"):
        return look(target, folder, plan)


def begin_import(target: Target, plan: ImportPlan) -> None:
    """Make the collections. Every part does it too."""
    with failures.worded("Beginning the import"):
        for part in {part.collection: part for part in plan.parts}.values():
            import_run.prepare(target, plan, part)


def import_part(
    target: Target,
    folder: Folder,
    plan: ImportPlan,
    number: int,
    *,
    run_id: str,
    report: Reporter = log_progress,
    refuse: Refuse | None = None,
) -> Tally:
    """Load one file of the plan; what an earlier try of the run did is not done again.

    Args:
        target: the environment.
        folder: the source.
        plan: the plan.
        number: which of ``plan.parts``.
        run_id: the run; retries of it have the same.
        report: hears progress.
        refuse: asked for each document (BSON); True keeps it out, as erased.

    Raises:
        see ``import_run.load_part``.
    """
    part = plan.parts[number]
    with failures.worded(f"Import of {part.file} into {part.collection}"):
        return import_run.load_part(target, folder, plan, part, run_id, report, refuse)


def finish_import(
    target: Target, plan: ImportPlan, rejects_file: Folder, *, run_id: str, actor: str | None = None
) -> ImportReport:
    """Build indexes, define views, verify, write the rejects, record the import and tidy up. May be repeated.

    Raises:
        ImportUnfinishedError: a part is not loaded.
        ImportDiffersError: a collection that should hold exactly the manifest's documents does not.
    """
    key = f"import/{run_id}/{plan.digest[:16]}"
    with failures.worded("Finishing the import"):
        known = target.db[history.TRANSFERS].find_one({"_id": key})
        if known is not None:
            _tidy(target, run_id)
            return _report_of(known)
        tally = _tally(target, plan, run_id)
        for loading in plan.targets:
            if loading.kind == "view":
                catalogue.create_view(target.db, loading)
            elif plan.request.indexes == "after":
                catalogue.build_indexes(target.db, loading)
        verified, differences = _verify(target, plan, tally)
        count = rejects.write_object(target.db, run_id, rejects_file)
        done = ImportReport(
            run_id=run_id,
            tally=sum(tally.values(), Tally()),
            collections=tuple(loading.name for loading in plan.targets),
            verified=verified,
            differences=differences,
            rejects=show(rejects_file) if count else None,
        )
        if differences:
            raise ImportDiffersError(
                f"{len(differences)} collections do not hold what the manifest says, the first: {differences[0]}. Somebody wrote to "
                "it meanwhile, or it was not empty; look, then finish again or start over."
            )
        audit.prepare(target.db)
        history.record_import(target, key, plan, done.as_value(), run_id, actor)
        _tidy(target, run_id)
    return done


def _check(request: ImportRequest) -> None:
    if request.mode not in ("insert", "upsert", "replace", "merge"):
        raise ImportRefusedError("mode must be insert, upsert, replace or merge.")
    if not request.keys or any(not one or one.startswith("$") or "" in one.split(".") for one in request.keys):
        raise ImportRefusedError("keys must name fields, such as `_id` or `email`.")
    if not 1 <= request.lanes <= 16:  # noqa: PLR2004
        raise ImportRefusedError("lanes must be 1 to 16.")
    if unknown := sorted(set(request.columns.values()) - set(flat.KINDS)):
        raise ImportRefusedError(f"There is no column type {', '.join(unknown)}; there are {', '.join(flat.KINDS)}.")
    if not 0 <= request.max_reject_share <= 1 or request.max_rejects < 0:
        raise ImportRefusedError("max_rejects must not be negative, and max_reject_share lies between 0 and 1.")


def _of_keys(
    target: Target, targets: Sequence[ImportTarget], parts: Sequence[ImportPart], request: ImportRequest
) -> Iterator[str]:
    """Yield what to know of keys that no index keeps unique.

    Raises:
        ImportRefusedError: files that are loaded at once could add the same document twice.
    """
    for one in targets if request.adds_by_key else ():
        if catalogue.is_unique(target.db, one.name, request.keys):
            continue
        names = ", ".join(request.keys)
        if sum(part.collection == one.name for part in parts) > 1:
            raise ImportRefusedError(
                f"{one.name} has no unique index on {names}, so several files could add the same document twice. Make the index first."
            )
        yield f"{one.name} has no unique index on {names}: other writers may add the same document meanwhile, and each row reads it whole."


def _of_manifest(target: Target, here: str, collection: CollectionModel, found: ManifestModel) -> ImportTarget:
    if here.startswith(NOT_EXPORTED) or (here.startswith(OWN) and here != collection.name):
        raise ImportRefusedError(
            f"{here} holds mongo-ops's own records; only an export of it is loaded there. Choose another name."
        )
    definition = collection.kind == "view" and not collection.parts
    options: dict[str, Any] = ejson.rich(collection.options)
    kind = "collection" if collection.kind == "view" and not definition else collection.kind
    if collection.kind == "view" and not definition:
        options = {}
    exact = found.file_format == "bson" or (found.file_format == "jsonl" and found.json_mode == "canonical")
    loading = ImportTarget(
        name=here,
        kind=kind,
        exists=False,
        count=0,
        options=options,
        indexes=tuple(ejson.rich(index) for index in collection.indexes),
        content=manifest.content_of(collection.content),
        exact=exact and found.projection is None,
    )
    return _seen(target, loading)


def _plain(target: Target, name: str) -> ImportTarget:
    if name.startswith(OWN):
        raise ImportRefusedError(
            f"{name} holds mongo-ops's own records; only an export of it is loaded there. Choose another name."
        )
    return _seen(target, ImportTarget(name=name, kind="collection", exists=False, count=0, options={}, indexes=()))


def _seen(target: Target, loading: ImportTarget) -> ImportTarget:
    """Add what is there under the name.

    Raises:
        ImportRefusedError: a view, or a collection of another kind.
    """
    info = next(iter(target.db.list_collections(filter={"name": loading.name})), None)
    if info is None:
        return loading
    options = info.get("options", {})
    kind = "capped" if options.get("capped") else str(info["type"])
    if (kind == "view") != (loading.kind == "view"):
        raise ImportRefusedError(f"{loading.name} is a {kind} here and cannot be loaded into. Map it to another name.")
    count = 0 if kind == "view" else target.db[loading.name].estimated_document_count()
    return ImportTarget(**{**_fields(loading), "kind": kind, "exists": True, "count": count, "options": options})


def _fields(loading: ImportTarget) -> dict[str, Any]:
    return {
        name: getattr(loading, name)
        for name in ("name", "kind", "exists", "count", "options", "indexes", "content", "exact")
    }


def _notes(targets: Sequence[ImportTarget], request: ImportRequest) -> tuple[str, ...]:
    notes = [f"{one.name} is there already, with about {one.count:,} documents." for one in targets if one.count]
    for one in targets:
        if one.kind in ("timeseries", "capped") and request.mode != "insert":
            raise ImportRefusedError(f"{one.name} is a {one.kind} collection; only mode insert can load it.")
        if one.kind == "capped" and one.exists and one.count:
            notes.append(f"{one.name} is capped: old documents make room for new ones.")
    return tuple(notes)


def _tally(target: Target, plan: ImportPlan, run_id: str) -> dict[str, Tally]:
    """Return what the checkpoints say, per collection."""
    found: dict[str, Tally] = {}
    for part in plan.parts:
        prefix = f"transfer/{run_id}/{part.number:05d}/"
        points = list(target.db[CHECKPOINTS].find({"_id": {"$gte": prefix, "$lt": f"{prefix}~"}}))
        if not points or not all(point["finished"] and point["plan_digest"] == plan.digest for point in points):
            raise ImportUnfinishedError(f"{part.file} is not loaded yet. Load every part of the plan, then finish.")
        total = sum((Tally.of(point["tally"]) for point in points), Tally())
        found[part.collection] = found.get(part.collection, Tally()) + total
    return found


def _verify(target: Target, plan: ImportPlan, tally: dict[str, Tally]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read back the collections that must hold exactly what was sent to them, and compare digests."""
    verified, differences = [], []
    for loading in plan.targets:
        done = tally.get(loading.name, Tally())
        expected = done.content if done.rejected or done.erased else loading.content
        if loading.kind != "collection" or not loading.exact or plan.request.mode != "insert" or expected is None:
            continue
        if loading.count and target.db[loading.name].estimated_document_count() != expected.count:
            continue  # there were others before, or a retry planned anew: nothing can be said
        there = _content(target, loading.name)
        if there == expected:
            verified.append(loading.name)
        elif not loading.count:
            differences.append(f"{loading.name} holds {there.count:,} documents, {expected.count:,} expected")
    return tuple(verified), tuple(differences)


def _content(target: Target, name: str) -> Content:
    find = {"find": name, "filter": {}, "hint": {"$natural": 1}, "readConcern": {"level": "majority"}}
    total = Content()
    with reading.Ahead(reading.streams(target.db, find, 512.0)) as batches:
        for batch in batches:
            total += content.of_stream(batch)
    return total


def _report_of(known: Document) -> ImportReport:
    names = ("inserted", "matched", "modified", "missing", "rejected", "erased", "content")
    told = known["report"]
    return ImportReport(
        run_id=known["run_id"],
        tally=Tally.of({name: told[name] for name in names}),
        collections=tuple(told["collections"]),
        verified=tuple(told["verified"]),
        differences=tuple(told["differences"]),
        rejects=told["rejects"],
    )


def _tidy(target: Target, run_id: str) -> None:
    prefix = {"_id": {"$gte": f"transfer/{run_id}/", "$lt": f"transfer/{run_id}/~"}}
    target.db[CHECKPOINTS].delete_many(prefix)
    target.db[LEASES].delete_many(prefix)
    rejects.forget(target.db, run_id)
