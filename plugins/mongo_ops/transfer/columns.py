"""Choose the columns of csv and parquet from a sample of the collection. Reads only."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mongo_ops.transfer.formats import flat
from mongo_ops.transfer.model import CollectionFacts, ExportRequest

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

SAMPLE = 2000


def infer(db: Database[Document], facts: CollectionFacts, request: ExportRequest) -> CollectionFacts:
    """Return the facts with columns: of the fields asked for, or of all that a random sample shows."""
    pipeline: list[dict[str, Any]] = [{"$match": dict(request.where)}] if request.where else []
    chosen = {"$limit": SAMPLE} if facts.kind in ("view", "timeseries") else {"$sample": {"size": SAMPLE}}
    shown = [{"$project": dict(request.projection)}] if request.projection else []
    coll = db.get_collection(facts.name, codec_options=flat.READ)
    rows = coll.aggregate([*pipeline, chosen, *shown])
    return dataclasses.replace(facts, columns=flat.columns(rows, request.fields))
