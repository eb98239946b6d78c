"""Plan and carry out month collections: make the coming ones, lead the readers' view, move closed months, let old ones go.

Writers name the month collection themselves (``collection_for``). The source keeps what was never moved and what has no date; the view
shows it together with the months.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mongo_ops.partitions import catalogue, privileges, spread
from mongo_ops.partitions.catalogue import Holdings, Shape
from mongo_ops.partitions.model import MOST_MONTHS, PartitionPlan, PartitionRequest, PartitionStep, Phase
from mongo_ops.partitions.months import RETIRED, Month, name_of, span
from mongo_ops.partitions.privileges import Grant
from mongo_ops.partitions.spread import Months
from mongo_ops.settings import load_personal_fields

if TYPE_CHECKING:
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.protecting import Protected
    from mongo_ops.partitions.work import Work

LONGEST = 255
"""Bytes of a namespace: https://www.mongodb.com/docs/manual/reference/limits/."""


@dataclass(frozen=True)
class Facts:
    """What a plan is made of."""

    request: PartitionRequest
    database: str
    now: Month
    there: Holdings
    shape: Shape
    months: Months
    grants: tuple[Grant, ...] | None
    protected: Protected

    @property
    def source(self) -> str:
        """The collection itself."""
        return self.request.collection

    @property
    def has_source(self) -> bool:
        """Whether it is there, as an ordinary collection."""
        return self.there.is_collection(self.source)

    @property
    def moved(self) -> tuple[Month, ...]:
        """The closed months that documents are moved to."""
        return tuple(one for one in self.months.counts if one < self.now) if self.request.move else ()

    @property
    def oldest(self) -> Month | None:
        """The oldest month that is kept; None when all are."""
        return None if self.request.keep_months is None else self.now - self.request.keep_months

    @property
    def coming(self) -> tuple[Month, ...]:
        """The current month and those made in advance."""
        return tuple(span(self.now, self.now + self.request.months_ahead))


def look(work: Work, request: PartitionRequest, at: datetime) -> Facts:
    """Look at the source, its months, who may use them, and what is protected. Reads only."""
    db, source = work.db, request.collection
    there = catalogue.holdings(db, source)
    shape, grants = _pattern(work, source, there)
    months = spread.months(db, source, request.key) if there.is_collection(source) else Months()
    return Facts(request, db.name, Month.of(at), there, shape, months, grants, work.protected(request))


def _pattern(work: Work, source: str, there: Holdings) -> tuple[Shape, tuple[Grant, ...] | None]:
    """Return what months are made like, and who may use them: the source, or the newest month when the source is gone."""
    newest = name_of(source, there.months[-1]) if there.months else None
    template = source if there.is_collection(source) else newest
    if template is None:
        return Shape(), ()
    return catalogue.shape_of(work.db, template, there.options[template]), privileges.grants(work.db, template)


def steps(work: Work, facts: Facts) -> tuple[tuple[PartitionStep, ...], tuple[str, ...]]:
    """Return what will be done, and notes on what will not."""
    held: list[str] = []
    old = tuple(_old(work, facts, held))
    found = [*_creations(work, facts), *_view(facts, old), *_move(facts), *_goodbyes(facts, old)]
    return tuple(found), (*held, *_notes(facts))


def blockers(facts: Facts) -> Iterator[str]:
    """Yield reasons for which nothing may be done."""
    request, kinds = facts.request, facts.there.kinds
    kind = kinds.get(facts.source)
    if kind not in (None, "collection"):
        yield f"{facts.source} is a {kind}; month collections need an ordinary collection, or none yet."
    view = request.view_name
    if view in kinds and not (kinds[view] == "view" and catalogue.routes(facts.there.options[view])):
        yield f"{view} is there already and is no router view. Name another one (view)."
    names = (name_of(facts.source, month) for month in sorted({*facts.coming, *facts.moved}))
    for name in (one for one in names if kinds.get(one, "collection") != "collection"):
        yield f"{name} is a {kinds[name]} and cannot be a month of {facts.source}. Rename it first."
    longest = f"{facts.database}.{name_of(facts.source, facts.now)}{RETIRED}"
    if len(longest.encode()) > LONGEST:
        yield f"The months of {facts.source} would have names that are too long: a database and a collection together have {LONGEST} bytes."
    if len({*facts.there.months, *facts.moved, *facts.coming}) > MOST_MONTHS:
        yield f"That would be more than {MOST_MONTHS} months. Archive the oldest documents first (strategy archive)."
    uncovered = _uncovered(facts)
    if uncovered:
        yield (
            f"data_map.yaml names personal fields of {facts.source} but no {uncovered}: an erasure would not find people there. Name "
            f"it {facts.source}* in the data map first."
        )


def _uncovered(facts: Facts) -> str | None:
    named = load_personal_fields() or {}
    example = name_of(facts.source, facts.now)
    covered = any(fnmatchcase(example, one) for one in named)
    return example if any(fnmatchcase(facts.source, one) for one in named) and not covered else None


def _creations(work: Work, facts: Facts) -> Iterator[PartitionStep]:
    """What is made or brought alike: the coming months, and months that documents are moved to. Others stay as they are."""
    for month in sorted({*facts.coming, *facts.moved}):
        name = name_of(facts.source, month)
        lacking = facts.grants or ()
        if facts.there.is_collection(name):
            here = catalogue.shape_of(work.db, name, facts.there.options[name])
            lacking = privileges.missing(privileges.grants(work.db, name) or (), facts.grants or ())
            if not lacking and (month < facts.now or here.alike(facts.shape)):
                continue
            sentence = f"bring {name} alike"
        else:
            sentence = f"make {name}"
        roles = f", privileges of {len(lacking)} roles" if lacking else ""
        yield PartitionStep(
            phase=Phase.CREATE,
            subject=name,
            sentence=f"{sentence}: validator, {len(facts.shape.indexes)} indexes{roles}",
        )


def _view(facts: Facts, old: tuple[Month, ...]) -> Iterator[PartitionStep]:
    names = {*facts.there.months, *facts.coming, *facts.moved} - set(old)
    members = [*([facts.source] if facts.has_source else []), *(name_of(facts.source, one) for one in sorted(names))]
    view = facts.request.view_name
    if list(catalogue.routes(facts.there.options.get(view, {}))) != members:
        yield PartitionStep(
            phase=Phase.CREATE,
            subject=view,
            sentence=f"lead the view {view} over {len(members)} collections",
            data={"members": members},
        )


def _move(facts: Facts) -> Iterator[PartitionStep]:
    if facts.moved:
        number = sum(facts.months.counts[one] for one in facts.moved)
        yield PartitionStep(
            phase=Phase.MOVE, subject=facts.source, sentence=f"move {number:,} documents of {len(facts.moved)} closed months out of {facts.source}",
            data={"before": facts.now.start.isoformat()},
        )  # fmt: skip


def _old(work: Work, facts: Facts, held: list[str]) -> Iterator[Month]:
    """Yield the months that go, and those that an earlier run began to take away; note those that a hold keeps."""
    oldest = facts.oldest
    beyond = (one for one in (*facts.there.months, *facts.moved) if oldest is not None and one < oldest)
    for month in sorted({*facts.there.retired, *beyond}):
        name = name_of(facts.source, month)
        name = f"{name}{RETIRED}" if month in facts.there.retired else name
        number = facts.protected.count(work.db, name) if facts.there.is_collection(name) else 0
        if number:
            held.append(
                f"{name} stays: {number:,} of its documents are under a legal hold, or belong to somebody who is."
            )
        else:
            yield month


def _goodbyes(facts: Facts, old: tuple[Month, ...]) -> Iterator[PartitionStep]:
    for month in old:
        name = name_of(facts.source, month)
        uuid = facts.there.uuids.get(f"{name}{RETIRED}") or facts.there.uuids.get(name)
        if facts.request.archive:
            yield PartitionStep(
                phase=Phase.ARCHIVE,
                subject=name,
                sentence=f"take {name} out of use and write it to object storage",
                data={"uuid": uuid},
            )
        kept = "when its archive is verified" if facts.request.archive else "WITHOUT an archive"
        yield PartitionStep(phase=Phase.REMOVE, subject=name, sentence=f"drop {name}, {kept}", data={"uuid": uuid})


def _notes(facts: Facts) -> Iterator[str]:
    unique = [index["name"] for index in facts.shape.indexes if index.get("unique")]
    yield (
        "Uniqueness ends at a month: _id"
        + (f" and {', '.join(unique)}" if unique else "")
        + " are unique within each month collection only, not across months."
    )
    if any("expireAfterSeconds" in index for index in facts.shape.indexes):
        yield "A TTL index is copied to the months: the server deletes there by itself, without an archive and without asking for holds."
    if facts.grants is None:
        yield "The user may not see roles, so no privileges are copied: grant them on the months, or on the database."
    if facts.months.undated:
        yield f"{facts.months.undated:,} documents of {facts.source} have no single date at {facts.request.key}; they stay where they are."
    closed = sum(count for month, count in facts.months.counts.items() if month < facts.now)
    if closed and not facts.request.move:
        yield f"{closed:,} documents of closed months stay in {facts.source}; move them once all writers use the month collections."
    if facts.moved:
        yield (
            "Only closed months are moved. A writer that still changes their documents in the source finds nothing there afterwards: let all "
            "writers use the month collections first."
        )
    late = [one for one in facts.there.retired if one in facts.there.months]
    if late:
        yield f"{len(late)} months were written to after they had been taken out of use; the next run takes them out again."


def create(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Make one month collection, or lead the view. What this run has made is not made again: it may be dropped by now."""
    source, key = plan.request.collection, f"{step.subject}/made/{work.occasion.run_id}"
    if work.noted(key, "made") is not None:
        return {}
    shape, grants = _pattern(work, source, catalogue.holdings(work.db, source))
    if "members" in step.data:
        catalogue.define(work.db, step.subject, step.data["members"], shape.options.get("collation"), lease)
        grants, counts = privileges.reading(grants or ()), {"led": 1}
    else:
        new = catalogue.make(work.db, step.subject, shape, lease)
        counts = {"made": int(new), "brought_alike": int(not new)}
    lacking = privileges.missing(privileges.grants(work.db, step.subject) or (), grants or ())
    privileges.grant(work.db, step.subject, lacking)
    details = {"collection": step.subject, "roles": len(lacking)}
    work.note(lease, key, "made", details, plan_digest=plan.digest)
    return counts
