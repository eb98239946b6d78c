"""Look whether a collection can become a time series, and say what stands in the way. Changes nothing.

The ghost mode of online migrations carries a collection over while writers go on. It writes and replays in transactions and finds documents
by ``_id``: a time series takes part in no transaction that inserts, has no unique index, and deletes by its meta field only. So a live
collection cannot be carried into one without risking a write; the plan says so and names the way that is safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mongo_ops.partitions import catalogue, spread
from mongo_ops.partitions.model import PartitionRequest

if TYPE_CHECKING:
    from mongo_ops.partitions.spread import Months
    from mongo_ops.partitions.work import Work

GRANULARITIES = ("seconds", "minutes", "hours")
LIVE = (
    "A live collection is not carried into a time series: the server allows no inserts into one within a transaction, no unique index on _id and no "
    "deletes by time, so a copy that writers go on changing could not be kept right exactly once."
)


def look(work: Work, request: PartitionRequest) -> Months:
    """Count documents per month, where the collection can be read."""
    there = catalogue.holdings(work.db, request.collection)
    return (
        spread.months(work.db, request.collection, request.key)
        if there.is_collection(request.collection)
        else spread.Months()
    )


def blockers(work: Work, request: PartitionRequest, months: Months) -> Iterator[str]:
    """Yield what stands in the way; the last sentence always does."""
    there = catalogue.holdings(work.db, request.collection)
    name = request.collection
    if not there.is_collection(name):
        yield f"{name} is {'a ' + there.kinds[name] if name in there.kinds else 'not there'}."
    else:
        shape = catalogue.shape_of(work.db, name, there.options[name])
        unique = [index["name"] for index in shape.indexes if index.get("unique")]
        if unique:
            yield f"A time series has no unique index: {', '.join(unique)}."
        if shape.options.get("validator"):
            yield "A time series has no validator."
        if months.undated:
            yield f"{months.undated:,} documents have no single date at {request.key}, which every document of a time series must have."
    if request.granularity not in GRANULARITIES:
        yield f"granularity must be one of {', '.join(GRANULARITIES)}."
    meta = f', "metaField": "{request.meta_field}"' if request.meta_field else ""
    yield (
        f'{LIVE} Make it beside the collection (create with timeseries {{"timeField": "{request.key}"{meta}, "granularity": '
        f'"{request.granularity}"}}), let writers write new measurements there, then bring the old ones over with `mongo-ops export` and '
        "`mongo-ops import`, which loads a time series exactly once. Strategy by_time gives drops of months without these limits."
    )


def notes() -> Iterator[str]:
    """Yield the limits of a time series."""
    yield "A time series has no change streams, no transactions that insert, no updates but of its meta field; MongoDB 6.0 deletes by meta field only."
    yield "Legal holds and erasure need deletes of single documents: a time series with personal fields outside of its meta field cannot give them."
