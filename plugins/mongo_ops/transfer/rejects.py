"""Rows that were not imported: kept in ``ops_rejects`` while a run goes on, in one object beside the source's name at its end.

A reject holds the file, line, offset and reason, never the row: whoever mends it finds it in the source, which is never changed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mongo_ops import storage
from mongo_ops.errors import PlanError
from mongo_ops.transfer.formats.base import Reject
from mongo_ops.transfer.import_model import ImportPart, ImportRequest

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.storage import Folder

REJECTS = "ops_rejects"
SHARE_FROM = 1000


class RowRefusedError(PlanError):
    """A row cannot be imported, and the run was asked to stop at the first."""


class TooManyRejectsError(PlanError):
    """More rows were rejected than the run allows."""


def stop_at(part: ImportPart, reject: Reject) -> RowRefusedError:
    """Return the error that ends a run at its first bad row."""
    return RowRefusedError(
        f"{part.file}, row {reject.line:,} (offset {reject.offset:,}): {reject.reason}. Other rows of the file, not all of "
        "them before it, are imported already: start a new run with on_error=reject, or mend the source and remove them (or load by a key)."
    )


def keep(db: Database[Document], session: ClientSession, run_id: str, part: ImportPart, rejects: list[Reject]) -> None:
    """Note rejects in the transaction that moves the checkpoint past them."""
    documents = [
        {
            "_id": f"{run_id}/{part.number:05d}/{one.line:012d}",
            "run_id": run_id,
            "file": part.file,
            "line": one.line,
            "offset": one.offset,
            "reason": one.reason,
        }
        for one in rejects
    ]
    db[REJECTS].insert_many(documents, session=session)


def insist_on_limits(db: Database[Document], run_id: str, request: ImportRequest, rejected: int, rows: int) -> None:
    """Stop the run when too much was rejected.

    Raises:
        TooManyRejectsError: over the number (of the run) or the share (of one lane, from 1000 rows on).
    """
    count = db[REJECTS].count_documents({"run_id": run_id}, limit=request.max_rejects + 1)
    share = rejected / rows if rows >= SHARE_FROM else 0.0
    if count > request.max_rejects or share > request.max_reject_share:
        raise TooManyRejectsError(
            f"{rejected:,} of {rows:,} rows were rejected in one lane and more than {min(count, request.max_rejects):,} in the "
            f"run; the limits are {request.max_rejects:,} rows and {request.max_reject_share:.0%}. Rows before stay imported. Look "
            f"at {REJECTS}, mend the source, and start a new run."
        )


def write_object(db: Database[Document], run_id: str, path: Folder) -> int:
    """Write all rejects of a run as lines of JSON; return how many. No rejects, no file."""
    rows = db[REJECTS].find({"run_id": run_id}, {"_id": 0, "run_id": 0}).sort("_id", 1)
    first = next(rows, None)
    if first is None:
        return 0
    count = 0
    with storage.writing(path, overwrite=True) as sink:
        row: Document | None = first
        while row is not None:
            sink.write(json.dumps(row).encode() + b"\n")
            count += 1
            row = next(rows, None)
    return count


def forget(db: Database[Document], run_id: str) -> None:
    """Remove a run's rejects from the database, once the object is written."""
    db[REJECTS].delete_many({"run_id": run_id})
