"""Move documents of closed months out of the source, each into its month collection, exactly once. A batch is one transaction.

Insert and delete commit together, so that no instant exists at which a document is in neither or in both places. Writers that change a
document of a closed month must address its month collection: what still goes to the source finds nothing there after the move.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mongo_ops.mongo.batches import Batches, Counts, Step
from mongo_ops.partitions import catalogue, raw
from mongo_ops.partitions.errors import MoveIncompleteError
from mongo_ops.partitions.model import Phase
from mongo_ops.partitions.months import Month, name_of
from mongo_ops.partitions.spread import FIRST

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.model import PartitionPlan, PartitionStep
    from mongo_ops.partitions.protecting import Protected
    from mongo_ops.partitions.work import Work


def dated(key: str, before: datetime) -> dict[str, Any]:
    """Return the filter of documents with a single date at ``key`` that lies before a moment. An index on the key serves it."""
    return {key: {"$gte": FIRST, "$lt": before}, "$expr": {"$eq": [{"$type": f"${key}"}, "date"]}}


def closed(key: str, before: datetime, protected: Protected, source: str) -> dict[str, Any]:
    """Return the filter of what is moved: dated before the current month and under no hold on documents."""
    excluded = protected.exclusion(source)
    return {"$and": [dated(key, before), excluded]} if excluded else dated(key, before)


def move(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Carry out the plan's move; a retry goes on where the last try stopped. Return {moved}.

    Raises:
        MoveIncompleteError: documents of closed months stayed, because of others of the same key or of writers that go on.
        BudgetSpentError: run again.
    """
    source, run_id = plan.request.collection, work.occasion.run_id
    key, prefix = f"{source}/moved/{run_id}", f"partition/{run_id}/move/"
    known = work.noted(key, "moved")
    if known is not None:
        return {"moved": int(known["moved"])}
    before = datetime.fromisoformat(step.data["before"])
    protected = work.protected(plan.request)
    where = closed(plan.request.key, before, protected, source)
    walk = Step(f"{prefix}{source}", plan.digest, source, where)
    passage = _Passage(work.db, source, plan.request.key, protected, ready(work, plan))
    done = Batches(lease, work.limits, work.report).run(walk, passage.treat)
    left = work.db[source].count_documents(where)
    facts = {"collection": source, "moved": done.deleted, "left": left}
    work.note(lease, key, "moved_in_part" if left else "moved", facts, plan_digest=plan.digest, forget=prefix)
    if left:
        raise MoveIncompleteError(
            f"{done.deleted:,} documents were moved; {left:,} of closed months are still in {source}: "
            f"{done.matched - done.deleted:,} have a namesake with other content in their month (the same _id; keep one of the two), the "
            "others were written since by somebody who does not use the month collections yet, or are of months that the plan did not know. Nothing is lost and the view shows "
            "them all. Then run again."
        )
    return {"moved": done.deleted}


def ready(work: Work, plan: PartitionPlan) -> frozenset[str]:
    """Return the month collections that documents may be moved to: those that the view shows, and those that go in this run."""
    view = next(iter(work.db.list_collections(filter={"name": plan.request.view_name, "type": "view"})), {})
    going = (step.subject for step in plan.of_phase(Phase.REMOVE))
    return frozenset({*catalogue.routes(view.get("options", {})), *going})


@dataclass(frozen=True)
class _Passage:
    """The batches of one move."""

    db: Database[Document]
    source: str
    key: str
    protected: Protected
    ready: frozenset[str]

    def treat(self, session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        """Move one batch. A document of a month that is not ready stays: nobody would see it there."""
        self.protected.insist_on_unchanged(self.db, session)
        found = raw.find(self.db, self.source, selected, session)
        by_month: dict[Month, list[RawBSONDocument]] = defaultdict(list)
        for document in found:
            month = month_of(document, self.key)
            if month is not None and name_of(self.source, month) in self.ready:
                by_month[month].append(document)
        gone = [key for month, some in by_month.items() for key in self._into(month, some, session)]
        if gone:
            self.db[self.source].delete_many({"_id": {"$in": gone}}, session=session)
        return Counts(matched=len(found), inserted=len(gone), deleted=len(gone))

    def _into(self, month: Month, documents: Sequence[RawBSONDocument], session: ClientSession) -> list[Any]:
        """Put documents into their month; return the keys of those that are there now, as they were."""
        name = name_of(self.source, month)
        there = raw.namesakes(self.db, name, documents, session)
        fresh = [one for one in documents if raw.key_of(one) not in there]
        if fresh:
            raw.collection_of(self.db, name).insert_many(fresh, bypass_document_validation=True, session=session)
        return [one["_id"] for one in documents if there.get(raw.key_of(one), one) == one]


def month_of(document: Mapping[str, Any], path: str) -> Month | None:
    """Return the month of a document's date field, or None when there is no single date that Python can hold."""
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return Month.of(value) if isinstance(value, datetime) else None
