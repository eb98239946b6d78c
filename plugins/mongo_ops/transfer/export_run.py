"""Write one part of an export. A part that was killed is written again, over what was left of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bson import MaxKey, Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from mongo_ops import storage
from mongo_ops.errors import PlanError
from mongo_ops.mongo.batches import Progress, Reporter
from mongo_ops.storage import Folder
from mongo_ops.transfer import compression, content, failures, place, reading
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.model import FORMATS, CollectionFacts, ExportPlan, Part, Receipt
from mongo_ops.transfer.place import Claim

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

REPORT_SECONDS = 1.0
log = logging.getLogger(__name__)


class SnapshotGoneError(PlanError):
    """The server no longer has the history of the export's cluster time."""


def write_part(target: Target, folder: Folder, plan: ExportPlan, part: Part, claim: Claim, report: Reporter) -> Receipt:
    """Write a part and its receipt; return the receipt that is there when it was written before.

    Raises:
        SnapshotGoneError: no retry mends it; the message says what does.
        TransferFailedError, StorageFailedError: a retry writes the part again.
    """
    found = place.read_receipt(folder, claim.token, part)
    if found is not None:
        return found
    facts = plan.facts(part.collection)
    moment = None if facts.kind == "capped" else claim.cluster_time
    try:
        receipt = _write(target, folder, plan, part, claim.token, moment, report)
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
        if code not in failures.SNAPSHOT_GONE or moment is None:
            raise failures.explain(error, f"Export of {part.collection}") from None
        if plan.request.consistency != "prefer_snapshot":
            raise _gone(part) from None
        log.warning("%s part %s: the snapshot is gone from the server; read without one.", part.collection, part.index)
        with failures.worded(f"Export of {part.collection}"):
            receipt = _write(target, folder, plan, part, claim.token, None, report)
    place.write_receipt(folder, claim.token, receipt)
    return receipt


def finds(plan: ExportPlan, part: Part, moment: Timestamp | None) -> list[dict[str, Any]]:
    """Return the commands that read a part: by ``_id`` where it is cut or the read is fuzzy, else in natural order.

    The server takes an index bound that is left open as MaxKey, exclusive; the last of several parts asks for that key itself.
    """
    request, facts = plan.request, plan.facts(part.collection)
    level = {"level": "snapshot", "atClusterTime": moment} if moment is not None else {"level": "majority"}
    command: dict[str, Any] = {"find": part.collection, "filter": dict(request.where), "readConcern": level}
    if request.projection is not None:
        command["projection"] = dict(request.projection)
    cut = part.lower is not None or part.upper is not None
    if facts.kind == "collection" and (cut or (request.where and moment is None)):
        command["hint"] = {"_id": 1}  # an index on a field that changes meanwhile could show a document twice
    elif facts.kind in ("collection", "capped") and not request.where:
        command["hint"] = {"$natural": 1}
    ranged = dict(command)
    if part.lower is not None:
        ranged["min"] = {"_id": part.lower.key}
    if part.upper is not None:
        ranged["max"] = {"_id": part.upper.key}
    if part.lower is None or part.upper is not None:
        return [ranged]
    return [ranged, {**command, "filter": {"$and": [dict(request.where), {"_id": MaxKey()}]}}]


def _write(
    target: Target,
    folder: Folder,
    plan: ExportPlan,
    part: Part,
    token: str,
    moment: Timestamp | None,
    report: Reporter,
) -> Receipt:
    facts, request = plan.facts(part.collection), plan.request
    file = place.file_of(plan, part, token)
    teller = Teller(f"{part.collection} part {part.index}", _expected(plan, part, facts), report)
    with storage.writing(place.below(folder, file), overwrite=True) as sink:
        writer = compression.writer(sink, FORMATS[request.format][1])
        encoder = registry.encoder(request, facts.columns, writer)
        done = Content()
        with reading.Ahead(batches(target, plan, part, moment)) as taken:
            for batch in taken:
                done += content.of_stream(batch)
                encoder.write(batch)
                teller.tell(done.count)
        encoder.close()
    teller.tell(done.count, last=True)
    return Receipt(
        part=part,
        file=file,
        bytes=sink.bytes,
        sha256=sink.sha256,
        content=done,
        cluster_time=moment,
        misfits=encoder.misfits,
    )


def batches(target: Target, plan: ExportPlan, part: Part, moment: Timestamp | None) -> Iterator[bytes]:
    """Yield a part's documents as streams of BSON."""
    for command in finds(plan, part, moment):
        yield from reading.streams(target.db, command, plan.facts(part.collection).average)


def _expected(plan: ExportPlan, part: Part, facts: CollectionFacts) -> int:
    siblings = sum(1 for one in plan.parts if one.collection == part.collection)
    return facts.count // max(1, siblings)


class Teller:
    """Tells progress about once a second."""

    def __init__(self, step: str, total: int, report: Reporter) -> None:
        self._step, self._total, self._report = step, total, report
        self._began = self._told = time.monotonic()

    def tell(self, done: int, *, last: bool = False) -> None:
        """Tell how many documents are done, unless it was told just now."""
        now = time.monotonic()
        if last or now - self._told >= REPORT_SECONDS:
            self._told = now
            self._say(done, done if last else max(done, self._total), None)

    def wait(self, done: int, reason: str) -> None:
        """Tell why nothing is done just now."""
        self._say(done, max(done, self._total), reason)

    def _say(self, done: int, total: int, waiting: str | None) -> None:
        rate = done / max(time.monotonic() - self._began, 1e-6)
        self._report(Progress(self._step, done, total, rate, waiting))


def _gone(part: Part) -> SnapshotGoneError:
    return SnapshotGoneError(
        f"{part.collection}: the server no longer keeps the history of this export's cluster time, so no part can be read at "
        "it any more. Discard what was written, raise minSnapshotHistoryWindowInSeconds or take more partitions at once, and "
        "export again; or ask for prefer_snapshot or fuzzy."
    )
