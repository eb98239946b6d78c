"""Keep the plan of a run in the database until it is over, for a door without a memory of its own: the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongo_ops.partitions.errors import RequestError
from mongo_ops.partitions.model import PartitionPlan
from mongo_ops.partitions.work import PARTITIONS

if TYPE_CHECKING:
    from mongo_ops.partitions.work import Work


def keep(work: Work, plan: PartitionPlan) -> None:
    """Remember the run's plan."""
    kept = {"_id": _key(work), "plan": plan.as_value()}
    work.db[PARTITIONS].replace_one({"_id": kept["_id"]}, kept, upsert=True)


def kept(work: Work, collection: str) -> PartitionPlan:
    """Return the plan of a run that was stopped.

    Raises:
        RequestError: there is none of that name, or it has ended, or it is about another collection.
    """
    found = work.db[PARTITIONS].find_one({"_id": _key(work)})
    if found is None:
        raise RequestError("There is no unfinished run of that name here. Start a new one, without --resume.")
    plan = PartitionPlan.of(found["plan"])
    if plan.request.collection != collection:
        raise RequestError(
            f"That run is about {plan.request.collection}. Name it, or make a new plan for {collection}."
        )
    return plan


def forget(work: Work) -> None:
    """Forget the plan of a run that is over."""
    work.db[PARTITIONS].delete_one({"_id": _key(work)})


def _key(work: Work) -> str:
    return f"plan/{work.occasion.run_id}"
