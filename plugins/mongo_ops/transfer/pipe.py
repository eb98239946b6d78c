"""One collection as one stream, for pipes: no manifest, no resuming, the same readers and formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from mongo_ops.transfer import compression, export, export_run, failures, survey
from mongo_ops.transfer.content import Content, of_stream
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.model import FORMATS, ExportPlan, ExportRequest, Part
from mongo_ops.transfer.plan import check_request

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


def export_stream(target: Target, request: ExportRequest, out: Any) -> Content:
    """Write the request's one collection to ``out`` (anything with ``write``), read at one moment unless it is fuzzy.

    Raises:
        ExportRefusedError: it cannot be done as asked.
        TransferFailedError: the server went away; what was written is not complete.
    """
    check_request(request)
    with failures.worded("Export to a stream"):
        (facts,) = (export.with_columns(target, one, request) for one in survey.collections(target.db, request))
        plan = ExportPlan(
            environment=target.environment.name,
            database=target.database,
            destination="-",
            request=request,
            collections=(facts,),
            parts=(Part(0, facts.name, 0),),
        )
        fuzzy = request.consistency == "fuzzy" or facts.kind == "capped"
        moment = None if fuzzy else survey.now(target.db)
        writer = compression.writer(cast("Any", out), FORMATS[request.format][1])
        encoder = registry.encoder(request, facts.columns, writer)
        done = Content()
        for batch in export_run.batches(target, plan, plan.parts[0], moment):
            done += of_stream(batch)
            encoder.write(batch)
        encoder.close()
    return done
