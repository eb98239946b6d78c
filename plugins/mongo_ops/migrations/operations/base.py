"""What every operation is: data that knows how to go forward, go back, be previewed, be recognised as done, and be linted.

An operation never opens a connection, takes a lease or writes the history; the run gives it a :class:`Bench` to work on.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mongo_ops.errors import PlanError
from mongo_ops.migrations.source import code_of

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Apply, Counts
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.keyrange import End


PLAIN = frozenset({str, int, float, bool, type(None)})


class OperationError(PlanError):
    """An operation cannot be carried out on the database as it is."""


class Mode(enum.Enum):
    """How an operation can be made safe to kill."""

    TRANSACTION = "transaction"  # its writes and its record commit together
    BATCHES = "batches"  # many transactions, each with its checkpoint
    IDEMPOTENT = "idempotent"  # no transaction possible (DDL): recognised as done, safe to repeat


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding of the linter. ``code`` is stable (docs/lint.md explains each)."""

    code: str
    message: str


@dataclass(frozen=True)
class Preview:
    """What an operation would do to the database as it is now.

    Attributes:
        matched: documents that would be written; None when it cannot be told beforehand.
        scanned: documents that have to be read.
        rejected: documents that a validator would refuse.
        seconds: estimated duration.
        scan: True when a whole collection is scanned without an index that serves the filter.
        risk: ``low``, ``medium`` or ``high``.
        notes: sentences for the reader; each stands alone.
        stop: why the operation would fail on this data, or None.
    """

    matched: int | None = 0
    scanned: int = 0
    rejected: int = 0
    seconds: float = 0.0
    scan: bool = False
    risk: str = "low"
    notes: tuple[str, ...] = ()
    stop: str | None = None


@dataclass(frozen=True)
class Bench:
    """Where an operation works.

    Attributes:
        db: the environment's database; majority concerns.
        session: the transaction to write in (mode TRANSACTION), else None.
        found: what :meth:`Operation.observe` saw before the operation first ran; survives kills.
        forward_end: for a reverse: up to which key the forward walk had come (None: it walked nothing).
        forward_finished: for a reverse: whether the forward direction was carried out wholly.
        once: run a body in one transaction, exactly once by name, whatever is killed: ``once(name, body)``.
        batches: run a walk in exactly-once batches: ``batches(collection, where, apply, digest, name="", end=None)``.
        check: raise when the lease is lost; called right before work that no transaction guards.
        images: the collection for before-images of this operation.
    """

    db: Database[Document]
    session: ClientSession | None
    found: Mapping[str, Any]
    batches: Callable[..., Counts]
    once: Callable[[str, Callable[[ClientSession], Counts]], Counts]
    check: Callable[[], None]
    images: Collection[Document]
    forward_end: End | None = None
    forward_finished: bool = True


@dataclass(frozen=True, kw_only=True)
class Operation(ABC):
    """Base of all operations: a frozen value. Its public fields are its specification and make up its digest."""

    mode: ClassVar[Mode] = Mode.IDEMPOTENT
    irreversible: str | None = field(default=None)
    """Why this operation cannot be undone; None when it can."""

    @property
    def kind(self) -> str:
        """The operation's name as written in migration files."""
        return type(self).__name__

    @property
    def takes_late_comers(self) -> bool:
        """Whether it may walk the collection again for documents that came meanwhile, leaving those it changed alone."""
        return False

    @property
    def keeps_images(self) -> bool:
        """Whether the way back reads before-images that the forward direction took."""
        return self.mode is Mode.BATCHES

    @abstractmethod
    def describe(self) -> str:
        """Return one line that says exactly what will happen, in the imperative."""

    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """Return the names of collections it writes to (for lineage and the plan)."""

    def reads(self) -> tuple[str, ...]:
        """Return the names of collections it reads besides those it writes."""
        return ()

    def why_irreversible(self) -> str | None:
        """Return why it cannot be undone, or None. Operations that lose data without a declared way back say so here."""
        return self.irreversible

    def destroys(self) -> tuple[Loss, ...]:
        """Return what the *reverse* would destroy and therefore is snapshotted before it."""
        return ()

    def forward_destroys(self) -> tuple[Loss, ...]:
        """Return what going *forward* would destroy and therefore is snapshotted before it."""
        return ()

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:  # noqa: ARG002 - most have nothing to note
        """Note facts about the database before the first run that the reverse will need. BSON-able, small."""
        return {}

    @abstractmethod
    def forward(self, at: Bench) -> Counts:
        """Carry it out. Called again after a kill."""

    @abstractmethod
    def reverse(self, at: Bench) -> Counts:
        """Undo it. Called again after a kill; never called when :meth:`why_irreversible` gives a reason."""

    def not_begun(self, db: Database[Document], found: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Say whether a forward run that was cut short surely changed nothing, so that there is nothing to undo."""
        return False

    def is_done(self, db: Database[Document]) -> bool | None:  # noqa: ARG002
        """Say whether the database looks as after ``forward``; None when looking cannot tell."""
        return None

    def is_undone(self, db: Database[Document]) -> bool | None:  # noqa: ARG002
        """Say whether the database looks as before ``forward``; None when looking cannot tell."""
        return None

    def preview(self, db: Database[Document]) -> Preview:  # noqa: ARG002
        """Look at the database (reads only) and say what ``forward`` would do."""
        return Preview()

    def lint(self) -> Iterable[Fault]:
        """Yield what is doubtful about it, without a database."""
        return ()

    def digest(self) -> str:
        """Return the SHA-256 (hex) of what it does: kind and fields, functions by their normalised source."""
        return hashlib.sha256(repr((self.kind, _plain(_fields(self)))).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that an operation removes: a whole collection, or some fields of the documents matching ``where``."""

    collection: str
    where: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None


def _fields(operation: Operation) -> Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(operation):
        yield item.name, getattr(operation, item.name)


def _plain(value: Any) -> Any:
    """Turn a field's value into nested tuples whose repr is stable across runs and machines."""
    if type(value) in PLAIN:  # nearly all of them; what follows is slow
        return (type(value).__name__, repr(value))
    if callable(value):
        return ("code", code_of(value))
    if isinstance(value, Mapping):
        return tuple((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return tuple(_plain(item) for item in value)
    return (type(value).__name__, repr(value))


def apply_update(db: Database[Document], collection: str, update: Any) -> Apply:
    """Return the batch work that applies one update (operators or pipeline) to the batch's documents."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    def apply(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        done = db[collection].update_many(selected, update, session=session, hint=[("_id", 1)])
        return Counts(matched=done.matched_count, modified=done.modified_count)

    return apply
