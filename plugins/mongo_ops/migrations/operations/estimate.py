"""What an operation would do to the database as it is now: counts, a scan, refusals by the validator. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations.base import OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.migrations.operations.fields import Filter
    from mongo_ops.mongo.documents import Document

DOCUMENTS_PER_SECOND = 20_000
"""Assumed speed of exactly-once batches: the slow end of what a small replica set shows (docs/benchmarks.md)."""

LOOK_MS = 30_000
"""How long one look of a preview may take on the server before it says that it cannot tell."""


def count(db: Database[Document], collection: str, where: Filter | None) -> int:
    """Return how many documents match; none for a filter of None."""
    return 0 if where is None else db[collection].count_documents(dict(where))


def refuse(reason: str | None) -> None:
    """Stop before the first write when there is a reason.

    Raises:
        OperationError: with that reason.
    """
    if reason:
        raise OperationError(reason)


def estimate(
    db: Database[Document],
    collection: str,
    where: Filter,
    *,
    becomes: Sequence[Mapping[str, Any]] | None = None,
    stop: str | None = None,
    risk: str = "low",
    notes: tuple[str, ...] = (),
) -> Preview:
    """Preview a walk over ``collection`` that writes the documents matching ``where``.

    Args:
        db: the database to look at.
        collection: what would be walked.
        where: whom it would write.
        becomes: aggregation stages that turn a document into what would be written, to ask the validator about it.
        stop: why it would fail, when the operation knows already.
        risk: ``low``, ``medium`` or ``high``.
        notes: further sentences.
    """
    info = next(iter(db.list_collections(filter={"name": collection})), None)
    if info is None:
        return Preview(risk=risk, stop=stop, notes=(*notes, f"{collection} does not exist; nothing would be written."))
    kind = "capped collection" if info.get("options", {}).get("capped") else info["type"]
    if kind != "collection":
        return Preview(risk=risk, stop=f"{collection} is a {kind} and cannot be changed in batches.")
    scanned = db[collection].estimated_document_count()
    matched = _matched(db, collection, where)
    rejected = _rejected(db, collection, where, becomes, info.get("options", {})) if becomes and matched else 0
    if rejected:
        stop = stop or f"{rejected:,} documents of {collection} would be refused by its validator."
    return Preview(
        matched=matched,
        scanned=scanned,
        rejected=rejected,
        seconds=(scanned if matched is None else matched) / DOCUMENTS_PER_SECOND,
        scan=_scans(db, collection, where),
        risk=risk,
        notes=(*notes, *_notes(collection, matched)),
        stop=stop,
    )


def _matched(db: Database[Document], collection: str, where: Filter) -> int | None:
    from pymongo.errors import ExecutionTimeout  # noqa: PLC0415 - keeps pymongo out of the parse path

    try:
        return db[collection].count_documents(dict(where), maxTimeMS=LOOK_MS)
    except ExecutionTimeout:
        return None


def _notes(collection: str, matched: int | None) -> tuple[str, ...]:
    if matched is None:
        return (
            f"Counting the documents of {collection} takes longer than {LOOK_MS // 1000} s; the number is not known.",
        )
    if matched == 0:
        return (f"No document of {collection} matches; check the collection's name and the filter.",)
    return ()


def _scans(db: Database[Document], collection: str, where: Filter) -> bool:
    """Say whether the server would read the whole collection to find the documents."""
    plan = db.command("explain", {"find": collection, "filter": dict(where)}, verbosity="queryPlanner")
    return _mentions(plan["queryPlanner"].get("winningPlan", {}), "COLLSCAN")


def _mentions(plan: Any, stage: str) -> bool:
    if isinstance(plan, Mapping):
        return plan.get("stage") == stage or any(_mentions(part, stage) for part in plan.values())
    return isinstance(plan, list) and any(_mentions(part, stage) for part in plan)


def _rejected(
    db: Database[Document],
    collection: str,
    where: Filter,
    becomes: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> int:
    """Count the documents that the validator would refuse after the change.

    Level ``moderate`` lets documents alone that violate it already; action ``warn`` refuses nothing.
    """
    from pymongo.errors import OperationFailure  # noqa: PLC0415 - keeps pymongo out of the parse path

    validator = options.get("validator")
    if not validator or options.get("validationAction") == "warn" or options.get("validationLevel") == "off":
        return 0
    now_valid = [{"$match": validator}] if options.get("validationLevel") == "moderate" else []
    stages = [{"$match": dict(where)}, *now_valid, *becomes, {"$match": {"$nor": [validator]}}, {"$count": "n"}]
    try:
        return next((int(row["n"]) for row in db[collection].aggregate(stages, maxTimeMS=LOOK_MS)), 0)
    except OperationFailure:  # too slow, or an expression that fails on a document: the run itself will tell
        return 0
