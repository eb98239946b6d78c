"""The door to partitions, for Airflow's tasks and the command line alike.

``plan`` reads only. ``carry_out`` does one phase of a plan; the phases run in the order of ``Phase``. It may be killed at any instant
and called again with the same plan and run: the result is as if nothing had happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mongo_ops.partitions import (
    archiving,
    by_time,
    cluster,
    cold,
    moving,
    restoring,
    retiring,
    sharding,
    shardkey,
    time_series,
)
from mongo_ops.partitions.errors import RefusedError, RequestError
from mongo_ops.partitions.model import PartitionPlan, PartitionRequest, PartitionStep, Phase, Picture, Strategy
from mongo_ops.storage import show
from mongo_ops.transfer import failures

if TYPE_CHECKING:
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.work import Work

__all__ = ["PartitionPlan", "PartitionRequest", "Phase", "Strategy", "carry_out", "plan"]
Draft = tuple[Sequence[PartitionStep], Sequence[str], Sequence[str], Sequence[Picture | None]]
"""Steps, notes, blockers, pictures."""
Act = Callable[["Work", PartitionPlan, PartitionStep, "Lease"], Mapping[str, int]]


def plan(work: Work, request: PartitionRequest, at: datetime | None = None) -> PartitionPlan:
    """Look and say what would be done. Writes nothing. ``at`` is the present, which decides about months.

    Raises:
        RequestError: what is asked is not well-formed.
        NothingToRestoreError, ExportCorruptError: there is nothing to restore.
        HeldError: nobody can say whose documents there are.
    """
    moment = at or datetime.now(UTC)
    with failures.worded(f"Planning {request.strategy} of {request.collection}"):
        steps, notes, blockers, pictures = _DRAFTS[request.strategy](work, request, moment)
    return PartitionPlan(
        environment=work.target.environment.name,
        database=work.target.database,
        request=request,
        at=moment,
        destination=show(work.folder),
        steps=tuple(steps),
        notes=tuple(notes),
        pictures=tuple(one for one in pictures if one is not None),
        blockers=tuple(blockers),
    )


def insist_on_possible(made: PartitionPlan) -> None:
    """Refuse a plan that names reasons against itself.

    Raises:
        RefusedError: with the reasons.
    """
    if made.blockers:
        raise RefusedError(made.blockers)


def carry_out(work: Work, made: PartitionPlan, phase: Phase) -> dict[str, int]:
    """Carry out one phase of a plan under the collection's lease; return what it did, by name.

    Raises:
        RefusedError: the plan may not be carried out.
        RequestError: the plan is for another database or destination.
        LeaseHeldError: another run is at this collection.
        BudgetSpentError: run again; it goes on.
    """
    insist_on_possible(made)
    _insist_on_place(work, made)
    steps = made.of_phase(phase)
    done: Counter[str] = Counter()
    if not steps:
        return {}
    act = _ACTS[made.request.strategy, phase]
    with failures.worded(f"{phase} of {made.request.collection}"), work.lease(made.request.collection) as lease:
        for step in steps:
            done.update(act(work, made, step, lease))
    return dict(done)


def _insist_on_place(work: Work, made: PartitionPlan) -> None:
    """Refuse to write somewhere else than the plan says: an approval is for its destination."""
    if (made.database, made.destination) != (work.target.database, show(work.folder)):
        raise RequestError(
            f"The plan is for database {made.database} and destination {made.destination}. Name the same ones, or make a new plan."
        )


def _by_time(work: Work, request: PartitionRequest, at: datetime) -> Draft:
    facts = by_time.look(work, request, at)
    steps, notes = by_time.steps(work, facts)
    return steps, notes, tuple(by_time.blockers(facts)), [cold.picture(request, facts.months)]


def _archive(work: Work, request: PartitionRequest, at: datetime) -> Draft:
    months, against = cold.look(work, request)
    if against is not None:
        return (), (), (against,), ()
    steps, notes = cold.steps(work, request, at, months)
    return steps, notes, (), [cold.picture(request, months)]


def _restore(work: Work, request: PartitionRequest, at: datetime) -> Draft:
    del at
    steps, notes = restoring.steps(work, request)
    return steps, notes, (), ()


def _sharding(work: Work, request: PartitionRequest, at: datetime) -> Draft:
    del at
    facts = cluster.look(work, request)
    shown = shardkey.picture(facts.spread, request.key) if facts.spread is not None else None
    steps = sharding.steps(request, facts, work.target.database)
    return steps, tuple(sharding.notes(request, facts)), tuple(sharding.blockers(request, facts)), [shown]


def _time_series(work: Work, request: PartitionRequest, at: datetime) -> Draft:
    del at
    months = time_series.look(work, request)
    blockers = tuple(time_series.blockers(work, request, months))
    return (), tuple(time_series.notes()), blockers, [cold.picture(request, months)]


_DRAFTS: Mapping[Strategy, Callable[[Work, PartitionRequest, datetime], Draft]] = {
    Strategy.BY_TIME: _by_time,
    Strategy.ARCHIVE: _archive,
    Strategy.RESTORE: _restore,
    Strategy.SHARDING: _sharding,
    Strategy.TIME_SERIES: _time_series,
}
_ACTS: Mapping[tuple[Strategy, Phase], Act] = {
    (Strategy.BY_TIME, Phase.CREATE): by_time.create,
    (Strategy.BY_TIME, Phase.MOVE): moving.move,
    (Strategy.BY_TIME, Phase.ARCHIVE): retiring.archive_month,
    (Strategy.BY_TIME, Phase.REMOVE): retiring.drop_month,
    (Strategy.ARCHIVE, Phase.ARCHIVE): archiving.archive_cold,
    (Strategy.ARCHIVE, Phase.REMOVE): archiving.delete_cold,
    (Strategy.RESTORE, Phase.RESTORE): restoring.restore,
    (Strategy.SHARDING, Phase.COMMAND): cluster.send,
}
