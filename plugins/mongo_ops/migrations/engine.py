"""The engine's front: survey a database, plan, open a run under the lease. Airflow and the CLI both enter here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mongo_ops import audit
from mongo_ops.errors import PlanError
from mongo_ops.migrations import history
from mongo_ops.migrations import plan as planner
from mongo_ops.migrations.discover import discover, load_source
from mongo_ops.migrations.history import Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import UNRESOLVED, MigrationFile, Outcome, Record, State
from mongo_ops.migrations.plan import Plan, PlanStep
from mongo_ops.migrations.run import Run
from mongo_ops.mongo.batches import Reporter, log_progress
from mongo_ops.mongo.lease import Holder, acquire, free
from mongo_ops.mongo.throttle import Limits

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target
    from mongo_ops.settings import Environment

RESOURCE = "migrations"


class PlanChangedError(PlanError):
    """What would run now is not what was approved."""

    def __init__(self, approved: str, found: str) -> None:
        super().__init__(approved, found)
        self.approved, self.found = approved, found

    def __str__(self) -> str:
        return (
            f"The plan changed since it was made or approved (digest {self.approved:.12}, now {self.found:.12}). "
            "Nothing was done; look at the new plan and approve that."
        )


class OutOfTurnError(PlanError):
    """A migration would run before one that comes earlier."""

    def __init__(self, name: str, ahead: Sequence[str]) -> None:
        super().__init__(name, tuple(ahead))
        self.name, self.ahead = name, tuple(ahead)

    def __str__(self) -> str:
        return (
            f"{self.name} must not run now: {', '.join(self.ahead)} is pending and comes first. Another run undid it meanwhile; "
            "trigger a new run."
        )


@dataclass(frozen=True)
class Survey:
    """What is on disk and what the database says, read at one moment."""

    files: tuple[MigrationFile, ...]
    records: tuple[Record, ...]

    def record(self, name: str) -> Record | None:
        """Return what the database says about a migration."""
        return next((record for record in self.records if record.name == name), None)

    def file(self, name: str) -> MigrationFile:
        """Return a migration's file; the source kept in the database when the file is gone."""
        for file in self.files:
            if file.name == name:
                return file
        record = self.record(name)
        if record is None:
            raise planner.UnknownVersionError(f"There is no migration {name}.")
        return load_source(record)

    def as_it_ran(self, name: str) -> MigrationFile:
        """Return what is to be undone: the file, or its recorded source when it was edited after it stopped half-way."""
        record, file = self.record(name), self.file(name)
        edited = record is not None and record.state in UNRESOLVED and record.checksum != file.checksum
        return load_source(record) if record is not None and edited else file


def survey(target: Target, folder: Path) -> Survey:
    """Read the folder ``migrations`` below ``folder`` and the database's records. Writes nothing."""
    return Survey(discover(folder / "migrations"), history.load_all(target.db))


def plan_forward(
    target: Target, facts: Survey, *, version: str | None = None, allow_out_of_order: bool = False
) -> Plan:
    """Return the plan that brings the database up to ``version`` (None: to the newest).

    Raises:
        PlanError: drift, order, missing files, half-done migrations; see :func:`mongo_ops.migrations.plan.pending`.
    """
    environment = target.environment.name
    todo = planner.pending(
        facts.files, facts.records, environment, target=version, allow_out_of_order=allow_out_of_order
    )
    steps = tuple(_step(file, facts.record(file.name)) for file in todo)
    return Plan(environment, target.database, "forward", steps)


def plan_reverse(target: Target, facts: Survey, version: str | None, *, failed_only: bool = False) -> Plan:
    """Return the plan that takes the database back to ``version``, latest applied first.

    Raises:
        PlanError: an unknown version, an irreversible migration, drift; see :func:`~mongo_ops.migrations.plan.rollback_path`.
    """
    path = planner.rollback_path(facts.files, facts.records, version, failed_only=failed_only)
    steps = tuple(_undo_step(facts.as_it_ran(record.name)) for record in path)
    return Plan(target.environment.name, target.database, "reverse", steps)


def insist(approved: Plan, now: Plan, records: Sequence[Record]) -> None:
    """Refuse to go on when what is to be done now is not what is left of the approved plan.

    Raises:
        PlanChangedError: a file, the order or the target changed.
    """
    if not planner.still_covers(approved, now, records):
        raise PlanChangedError(approved.digest, now.digest)


def limits_of(environment: Environment) -> Limits:
    """Return the environment's throttle."""
    return Limits(max_lag=environment.max_lag, batch_seconds=environment.batch_seconds, budget=environment.budget)


def prepare(target: Target) -> None:
    """Create what runs write to. Called before the first write of any kind."""
    history.prepare(target.db)
    audit.prepare(target.db)


@contextmanager
def open_run(
    target: Target,
    occasion: Occasion,
    losses: Losses,
    *,
    holder: Holder,
    report: Reporter = log_progress,
    wait: float = 0.0,
    keep_lease: bool = False,
) -> Iterator[Run]:
    """Yield a run that holds the migrations' lease.

    Args:
        target: where to run.
        occasion: on whose behalf, in which run, for which plan.
        losses: where data goes that an operation destroys.
        holder: the lease's holder; processes with the same owner take over from each other.
        report: gets progress.
        wait: seconds to wait for another run's lease.
        keep_lease: leave the lease to the run's next process instead of releasing it.

    Raises:
        LeaseHeldError: another run is at work.
    """
    history.prepare(target.db)
    lease = acquire(target.db, RESOURCE, holder, ttl=target.environment.lease_ttl, wait=wait)
    run = Run(target, lease, occasion, losses, limits_of(target.environment), report)
    if not keep_lease:
        with lease:
            audit.prepare(target.db)  # by one run at a time
            yield run
        return
    lease.start()
    try:
        audit.prepare(target.db)
        yield run
    finally:
        lease.let_go()


def _step(file: MigrationFile, record: Record | None) -> PlanStep:
    resumes = planner.done_operations(record) if record is not None and record.state is not State.APPLIED else 0
    return PlanStep(file.name, file.checksum, tuple(op.describe() for op in file.migration.operations), resumes)


def _undo_step(file: MigrationFile) -> PlanStep:
    reason = file.migration.why_irreversible()
    if reason is not None:  # of a file that is gone, which the planner could not look into
        raise planner.IrreversibleError(file.name, reason)
    return PlanStep(
        file.name, file.checksum, tuple(f"undo: {op.describe()}" for op in reversed(file.migration.operations))
    )


def apply_all(run: Run, facts: Survey, names: Sequence[str]) -> Iterator[Outcome]:
    """Apply migrations in the given order, yielding each outcome as it lands."""
    for name in names:
        yield run.apply(facts.file(name))


def revert_all(run: Run, facts: Survey, names: Sequence[str]) -> Iterator[Outcome]:
    """Undo migrations in the given order, yielding each outcome as it lands."""
    for name in names:
        yield run.revert(facts.as_it_ran(name))


def insist_on_step(approved: Plan, now: Plan, facts: Survey, name: str) -> None:
    """Refuse to apply a file that changed since the plan was made, or before one that is to run earlier.

    The lease lives on its time to live between two tasks, so another run may have come and undone something.

    Raises:
        PlanChangedError: its checksum is not the plan's.
        OutOfTurnError: an earlier migration is pending (again).
    """
    planned = next(step.checksum for step in approved.steps if step.name == name)
    found = facts.file(name).checksum
    if planned != found:
        raise PlanChangedError(planned, found)
    if name in now.names:
        ahead = [n for n in now.names[: now.names.index(name)] if not facts.file(n).migration.run_always]
        if ahead:
            raise OutOfTurnError(name, ahead)


def finished_in_run(target: Target, run_id: str, name: str, direction: str) -> Outcome | None:
    """Return what an earlier try of the same run has finished, if it did and that still holds."""
    done = State.APPLIED if direction == "forward" else State.ROLLED_BACK
    record = history.load_one(target.db, name)
    event = target.db[history.HISTORY].find_one(
        {"migration": name, "event": done.value, "run_id": run_id}, sort=[("at", -1)]
    )
    if event is None or record is None or record.state is not done:
        return None
    return Outcome(name, direction, event["counts"], event["seconds"])


def release(target: Target, holder: Holder) -> bool:
    """Give up a run's lease from whichever process; say whether the run still had it."""
    return free(target.db, RESOURCE, holder.owner)
