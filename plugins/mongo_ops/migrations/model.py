"""Migrations as values: what a file declares, what was found on disk, what the database says about it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mongo_ops.migrations.conditions import Condition
from mongo_ops.migrations.operations.base import Mode, Operation

TransactionChoice = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Migration:
    """What a migration file declares as its one ``migration`` value.

    Attributes:
        operations: carried out in this order; undone in the opposite order.
        tags: ``core`` or ``advanced`` decide the task group; further tags are free.
        environments: names it applies to; None means all.
        transaction: ``auto`` puts the whole body and its record in one transaction when every operation allows it;
            ``always`` insists (lint refuses it when one does not); ``never`` records operation by operation.
        run_always: a repeatable migration: run by every ``migrate``, after all others.
        irreversible: why it can never be undone; a rollback past it refuses with this reason.
        requires: conditions that must hold before; checked when the migration starts for the first time.
        ensures: conditions that must hold afterwards; a migration whose conditions fail counts as failed.
        allow: lint codes that are accepted here, each with the reason.
    """

    operations: Sequence[Operation]
    tags: tuple[str, ...] = ("core",)
    environments: tuple[str, ...] | None = None
    transaction: TransactionChoice = "auto"
    run_always: bool = False
    irreversible: str | None = None
    requires: Sequence[Condition] = ()
    ensures: Sequence[Condition] = ()
    allow: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_one_transaction(self) -> bool:
        """Whether body and record commit together."""
        return self.transaction != "never" and all(op.mode is Mode.TRANSACTION for op in self.operations)

    def applies_to(self, environment: str) -> bool:
        """Say whether it runs on this environment."""
        return self.environments is None or environment in self.environments

    def why_irreversible(self) -> str | None:
        """Return the first reason against undoing it, or None."""
        reasons = (op.why_irreversible() for op in self.operations)
        return self.irreversible or next((reason for reason in reasons if reason), None)


@dataclass(frozen=True)
class MigrationFile:
    """A migration found on disk.

    ``name`` is the file's stem (``003_add_status``), ``version`` its number (``003``), ``title`` the docstring's first line;
    ``helpers`` are the sources of the local modules it imports, by their path in the folder.
    """

    name: str
    path: Path
    docstring: str
    source: str
    checksum: str
    migration: Migration
    helpers: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The number in front, as written."""
        return self.name.partition("_")[0]

    @property
    def title(self) -> str:
        """The docstring's first line."""
        return self.docstring.strip().splitlines()[0] if self.docstring.strip() else ""

    @property
    def group(self) -> str:
        """The task group: ``advanced`` when tagged so, else ``core``."""
        return "advanced" if "advanced" in self.migration.tags else "core"

    def writes(self) -> tuple[str, ...]:
        """The collections it writes, each once, in order of first mention."""
        return tuple(dict.fromkeys(name for op in self.migration.operations for name in op.writes()))

    def reads(self) -> tuple[str, ...]:
        """The collections it only reads."""
        named = (name for op in self.migration.operations for name in op.reads())
        return tuple(name for name in dict.fromkeys(named) if name not in self.writes())


class State(enum.StrEnum):
    """The state of a migration in a database. ``pending`` is the absence of a record."""

    PENDING = "pending"
    RUNNING = "running"
    APPLIED = "applied"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


UNRESOLVED = frozenset({State.RUNNING, State.FAILED, State.INTERRUPTED, State.ROLLING_BACK})


@dataclass(frozen=True)
class OperationRecord:
    """What the database remembers of one operation: ``state`` is ``pending``, ``running``, ``done`` or ``undone``."""

    kind: str
    digest: str
    state: str
    found: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Record:
    """The current state of one migration, from ``ops_migrations``.

    ``order`` is the place in the order of application (latest is largest); ``application`` counts how often this migration
    was begun afresh, so that a repeated run never takes an earlier run's checkpoints for its own.
    """

    name: str
    state: State
    checksum: str
    direction: str = "forward"
    order: int = 0
    application: int = 0
    operations: tuple[OperationRecord, ...] = ()
    attempt: int = 0
    error: str | None = None
    applied_at: datetime | None = None
    baseline: bool = False
    source: str = ""
    helpers: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The number in front of the name."""
        return self.name.partition("_")[0]


@dataclass(frozen=True)
class Outcome:
    """What became of one migration in this run.

    ``counts`` are documents by what was done to them, ``seconds`` this run's share; ``already`` means nothing was left to do.
    """

    name: str
    direction: str
    counts: Mapping[str, int]
    seconds: float
    already: bool = False
