"""Decide what is to be done: pure, facts in, plan out.

A plan's digest covers what will be done and to which database, not what was counted, so that an approval stays valid while
documents come and go, and lapses when a file, an order or a target changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mongo_ops.errors import PlanError
from mongo_ops.migrations.model import UNRESOLVED, MigrationFile, Record, State


class ChecksumDriftError(PlanError):
    """An applied file was edited."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(tuple(names))
        self.names = tuple(names)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.names)} changed since being applied. Restore the file and put the change into a new migration; "
            "if the database is already as the file says, record that with `mongo-ops mark NAME --as applied --reason ...`."
        )


class OutOfOrderError(PlanError):
    """A file sorts before one that is already applied."""

    def __init__(self, names: Sequence[str], newest: str) -> None:
        super().__init__(tuple(names), newest)
        self.names, self.newest = tuple(names), newest

    def __str__(self) -> str:
        return (
            f"{', '.join(self.names)} would run after {self.newest}, which is already applied. Give it the next free number, or "
            "allow it with allow_out_of_order (--allow-out-of-order)."
        )


class MissingMigrationError(PlanError):
    """The history names a file that is gone."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(tuple(names))
        self.names = tuple(names)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.names)} is applied but its file is gone. Bring the file back, or roll it back with "
            "`mongo-ops rollback` (its source is kept in the database)."
        )


class UnresolvedMigrationError(PlanError):
    """A migration stopped half-way and must be resolved before others go on."""

    def __init__(self, name: str, state: State) -> None:
        super().__init__(name, state)
        self.name, self.state = name, state

    def __str__(self) -> str:
        if self.state is State.ROLLING_BACK:
            return f"{self.name} is half rolled back. Run `mongo-ops rollback --failed` to finish that first."
        return (
            f"{self.name} is {self.state} and was edited in a part that is already done. Undo its done part with "
            "`mongo-ops rollback --failed`, or restore the file and run again to resume."
        )


class UnknownVersionError(PlanError):
    """No migration has the version asked for."""


class IrreversibleError(PlanError):
    """A rollback would have to pass a migration that cannot be undone."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name} cannot be rolled back: {self.reason}"


@dataclass(frozen=True)
class PlanStep:
    """One migration of a plan. ``resumes`` is the number of operations that are done already."""

    name: str
    checksum: str
    operations: tuple[str, ...]
    resumes: int = 0


@dataclass(frozen=True)
class Plan:
    """What will be done, in order. ``direction`` is ``forward`` or ``reverse``."""

    environment: str
    database: str
    direction: str
    steps: tuple[PlanStep, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what will be done; approvals bind to it."""
        steps = tuple((step.name, step.checksum) for step in self.steps)
        return hashlib.sha256(repr((self.environment, self.database, self.direction, steps)).encode()).hexdigest()

    def as_value(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, for a task to hand to the next."""
        steps = [dataclasses.asdict(step) | {"operations": list(step.operations)} for step in self.steps]
        return dataclasses.asdict(self) | {"steps": steps}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Plan:
        """Read :meth:`as_value` back."""
        steps = tuple(PlanStep(s["name"], s["checksum"], tuple(s["operations"]), s["resumes"]) for s in value["steps"])
        return cls(value["environment"], value["database"], value["direction"], steps)

    @property
    def names(self) -> tuple[str, ...]:
        """The migrations' names in order."""
        return tuple(step.name for step in self.steps)


def pending(
    files: Sequence[MigrationFile],
    records: Sequence[Record],
    environment: str,
    *,
    target: str | None = None,
    allow_out_of_order: bool = False,
) -> tuple[MigrationFile, ...]:
    """Return what is still to run, oldest first, repeatable ones last. A migration that stopped half-way is among them.

    Raises:
        ChecksumDriftError: an applied file was edited.
        MissingMigrationError: the history names a file that is gone.
        OutOfOrderError: a file sorts before one that is already applied.
        UnresolvedMigrationError: a half-done migration was edited in its done part, or is half rolled back.
        UnknownVersionError: no file has the target version.
    """
    known = {file.name: file for file in files}
    states = {record.name: record for record in records if record.state is not State.ROLLED_BACK}
    _refuse_missing(known, states)
    _refuse_drift(known, states)
    _refuse_unresolved(known, states)
    mine = [file for file in files if file.migration.applies_to(environment)]
    last = _last(mine, target)
    ordered = [file for file in mine if not file.migration.run_always and int(file.version) <= last]
    todo = [file for file in ordered if file.name not in states or states[file.name].state in UNRESOLVED]
    if not allow_out_of_order:
        _refuse_out_of_order(known, states, todo)
    repeated = [file for file in mine if file.migration.run_always and int(file.version) <= last]
    return (*todo, *repeated)


def rollback_path(
    files: Sequence[MigrationFile], records: Sequence[Record], target: str | None, *, failed_only: bool = False
) -> tuple[Record, ...]:
    """Return the records to undo: unresolved ones first, then everything above ``target``, latest applied first.

    Args:
        files: all migrations on disk.
        records: what the database says.
        target: the version to go back to (it stays applied); ``0`` undoes everything.
        failed_only: undo only what stopped half-way.

    Raises:
        UnknownVersionError: neither a file nor a record has the target version.
        IrreversibleError: one of them cannot be undone; nothing is undone then.
        ChecksumDriftError: a file differs from what was applied, so its reverse would undo something else.
    """
    halves = [record for record in records if record.state in UNRESOLVED]
    whole: list[Record] = []
    if not failed_only:
        limit = _rollback_limit(files, records, target)
        whole = [r for r in records if r.state is State.APPLIED and int(r.version) > limit]
        halves = [record for record in halves if int(record.version) > limit] if limit else halves
    known = {file.name: file for file in files}
    path = (*sorted(halves, key=_newest_first), *sorted(whole, key=_newest_first))
    for record in path:
        file = known.get(record.name)
        reason = file.migration.why_irreversible() if file else None
        if reason is None and file is not None and file.migration.run_always and record.application > 1:
            reason = f"it is repeatable and ran {record.application} times; only its last run could be undone"
        if reason is None and record.baseline:
            reason = "it was recorded as applied (a baseline) and did not run here as its file says"
        if reason is not None:
            raise IrreversibleError(record.name, reason)
    drifted = [
        r.name for r in path if r.name in known and known[r.name].checksum != r.checksum and r.state is State.APPLIED
    ]
    if drifted:
        raise ChecksumDriftError(drifted)
    return path


def still_covers(approved: Plan, now: Plan, records: Sequence[Record]) -> bool:
    """Say whether ``now`` is what is left of ``approved``: its steps in order, without those that are finished meanwhile.

    So a retried or cleared run goes on under its approval, and a run whose files or target changed does not.
    """
    gone_to = State.APPLIED if approved.direction == "forward" else State.ROLLED_BACK
    finished = {(record.name, record.checksum) for record in records if record.state is gone_to}
    left = [(step.name, step.checksum) for step in approved.steps if (step.name, step.checksum) not in finished]
    found = [(step.name, step.checksum) for step in now.steps]
    same_place = (approved.environment, approved.database, approved.direction) == (
        now.environment,
        now.database,
        now.direction,
    )
    return same_place and [step for step in found if step not in finished] == left


def missing_in_source(todo: Sequence[MigrationFile], source: Sequence[Record], environment: str) -> tuple[str, ...]:
    """Return which of the migrations the source environment has not applied with the same checksum.

    Migrations that do not apply to the source environment are not asked of it.
    """
    ran = (record for record in source if record.state is State.APPLIED and not record.baseline)
    proven = {record.name: record.checksum for record in ran}
    asked = (file for file in todo if file.migration.applies_to(environment))
    return tuple(file.name for file in asked if proven.get(file.name) != file.checksum)


def done_operations(record: Record | None) -> int:
    """Return how many operations of an unfinished forward run are done."""
    return sum(op.state == "done" for op in record.operations) if record is not None else 0


def _newest_first(record: Record) -> tuple[int, int]:
    return (-record.order, -int(record.version))


def _last(files: Sequence[MigrationFile], target: str | None) -> int:
    versions = [int(file.version) for file in files]
    if target is None:
        return max(versions, default=0)
    number = version_number(target)
    if number not in versions:
        raise UnknownVersionError(
            f"There is no migration {target}; known are {', '.join(file.version for file in files)}."
        )
    return number


def _rollback_limit(files: Sequence[MigrationFile], records: Sequence[Record], target: str | None) -> int:
    if target is None:
        raise UnknownVersionError("Say which version to go back to, e.g. 004; 0 undoes everything.")
    number = version_number(target)
    versions = {int(file.version) for file in files} | {int(record.version) for record in records}
    if number and number not in versions:
        raise UnknownVersionError(f"There is no migration {target} to go back to.")
    return number


def version_number(target: str) -> int:
    """Read ``004``, ``4`` or ``004_name`` as 4.

    Raises:
        UnknownVersionError: it does not start with a number.
    """
    digits = target.strip().partition("_")[0]
    if not digits.isascii() or not digits.isdigit():
        raise UnknownVersionError(f"{target!r} is not a version; give a number such as 004.")
    return int(digits)


def _refuse_missing(known: Mapping[str, MigrationFile], states: Mapping[str, Record]) -> None:
    gone = sorted(set(states) - set(known))
    if gone:
        raise MissingMigrationError(gone)


def _refuse_drift(known: Mapping[str, MigrationFile], states: Mapping[str, Record]) -> None:
    drifted = [
        name
        for name, record in states.items()
        if record.state is State.APPLIED
        and not known[name].migration.run_always
        and known[name].checksum != record.checksum
    ]
    if drifted:
        raise ChecksumDriftError(sorted(drifted))


def _refuse_unresolved(known: Mapping[str, MigrationFile], states: Mapping[str, Record]) -> None:
    for name, record in states.items():
        if record.state is State.ROLLING_BACK or (record.state in UNRESOLVED and record.direction == "reverse"):
            raise UnresolvedMigrationError(name, State.ROLLING_BACK)
        if record.state in UNRESOLVED:
            done = [op.digest for op in record.operations if op.state == "done"]
            now = [op.digest() for op in known[name].migration.operations]
            if now[: len(done)] != done:
                raise UnresolvedMigrationError(name, record.state)


def _refuse_out_of_order(
    known: Mapping[str, MigrationFile], states: Mapping[str, Record], todo: Sequence[MigrationFile]
) -> None:
    applied = [int(r.version) for n, r in states.items() if not known[n].migration.run_always]
    newest = max(applied, default=0)
    late = [file.name for file in todo if int(file.version) < newest and file.name not in states]
    if late:
        raise OutOfOrderError(late, next(name for name, r in states.items() if int(r.version) == newest))
