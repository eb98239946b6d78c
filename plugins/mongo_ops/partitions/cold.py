"""Plan to archive cold documents: which month begins what stays, how many go, what is held. Reads only."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from mongo_ops.partitions import catalogue, spread
from mongo_ops.partitions.model import PartitionRequest, PartitionStep, Phase, Picture
from mongo_ops.partitions.months import Month
from mongo_ops.partitions.moving import dated
from mongo_ops.partitions.spread import Months

if TYPE_CHECKING:
    from mongo_ops.partitions.work import Work

MOST_BARS = 60
"""More months than these are years: nobody reads them, and of a date of birth a month may be one person's."""


def look(work: Work, request: PartitionRequest) -> tuple[Months, str | None]:
    """Return the documents per month, and why the collection cannot be archived from, or None."""
    kind = catalogue.holdings(work.db, request.collection).kinds.get(request.collection)
    if kind != "collection":
        return (
            Months(),
            f"{request.collection} is {'not there' if kind is None else f'a {kind}'}; cold documents are archived from an ordinary collection.",
        )
    return spread.months(work.db, request.collection, request.key), None


def steps(
    work: Work, request: PartitionRequest, at: datetime, months: Months
) -> tuple[tuple[PartitionStep, ...], tuple[str, ...]]:
    """Return what will be done, and notes."""
    first = Month.of(at) - (request.keep_months or 0)
    number = sum(count for month, count in months.counts.items() if month < first)
    notes = [
        "A document that is changed between its archiving and its deletion stays. Restore with strategy restore and the archive's folder."
    ]
    if months.undated:
        notes.append(f"{months.undated:,} documents have no single date at {request.key}; they stay.")
    held = work.protected(request).count(work.db, request.collection, dated(request.key, first.start)) if number else 0
    if held:
        notes.append(
            f"{held:,} of them are under a legal hold, or belong to somebody who is: they are archived and NOT deleted."
        )
    if not _has_index(work, request):
        notes.append(f"No index begins with {request.key}: the export reads the whole collection.")
    if not number:
        return (), tuple(notes)
    data = {"before": first.start.isoformat()}
    before = f"before {first.start:%Y-%m-%d}"
    archive = PartitionStep(
        phase=Phase.ARCHIVE,
        subject=request.collection,
        sentence=f"write {number:,} documents dated {before} to object storage",
        data=data,
    )
    delete = PartitionStep(
        phase=Phase.REMOVE,
        subject=request.collection,
        sentence=f"delete those that are, byte for byte, in the verified archive ({before})",
        data=data,
    )
    return (archive, delete), tuple(notes)


def picture(request: PartitionRequest, months: Months) -> Picture | None:
    """Return the histogram of documents per month, or per year where there are more than ``MOST_BARS`` months."""
    yearly = len(months.counts) > MOST_BARS
    found: Counter[str] = Counter()
    for month, count in sorted(months.counts.items()):
        found[f"{month.year:04}" if yearly else str(month).replace("_", "-")] += count
    bars = list(found.items())
    if months.undated:
        bars.append(("no date", months.undated))
    title = f"Documents of {request.collection} by {'year' if yearly else 'month'} of {request.key}"
    return Picture(title=title, bars=tuple(bars)) if bars else None


def _has_index(work: Work, request: PartitionRequest) -> bool:
    return any(next(iter(index["key"])) == request.key for index in work.db[request.collection].list_indexes())
