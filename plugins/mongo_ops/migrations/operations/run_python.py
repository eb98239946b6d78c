"""Run a function of the migration file, with the same promises as any other operation."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from mongo_ops.migrations.operations.base import Bench, Mode, Operation, OperationError, Preview, apply_update
from mongo_ops.migrations.operations.estimate import DOCUMENTS_PER_SECOND
from mongo_ops.migrations.source import code_of

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.migrations.operations.fields import Filter, Update
    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

IN_TRANSACTION = frozenset(
    [
        "find",
        "find_one",
        "aggregate",
        "count_documents",
        "distinct",
        "insert_one",
        "insert_many",
        "update_one",
        "update_many",
        "replace_one",
        "delete_one",
        "delete_many",
        "bulk_write",
        "find_one_and_update",
        "find_one_and_replace",
        "find_one_and_delete",
    ]
)
"""What a collection can do inside a transaction. Everything else would act outside of it, or fail."""

DIRECT_WRITE = "writes directly; in the plan only reads, ctx.in_batches and ctx.once are possible"

Work = Callable[["ClientSession", Mapping[str, Any]], Any]
"""A batch's work: gets the session and the filter for the batch's documents; returns Counts, a pymongo result or None."""


class BoundCollection:
    """A collection whose every call takes part in the transaction that runs, if one does.

    Inside a transaction, what cannot take part in it (index builds, drops, ``with_options``) is refused, so that no
    write escapes by a forgotten ``session=``. Outside of one it is the plain collection.
    """

    def __init__(self, context: PythonContext, name: str) -> None:
        self._context, self._name = context, name

    def __call__(self, *_args: Any, **_named: Any) -> NoReturn:
        """Explain what ``ctx.db.command(...)`` and the like run into.

        Raises:
            OperationError: always.
        """
        raise OperationError(f"ctx.db has collections only, no {self._name}(); use an operation made for it.")

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._context._plain[self._name], name)  # noqa: SLF001 - context and collection are one thing
        session = self._context.session
        if session is None or name in ("name", "full_name"):
            return plain
        if name not in IN_TRANSACTION:
            raise OperationError(
                f"{self._name}.{name} is not possible inside the migration's transaction. Use batched=True and call it "
                "outside of ctx.in_batches and ctx.once, or an operation made for it."
            )

        @functools.wraps(plain)
        def in_transaction(*args: Any, **kwargs: Any) -> Any:
            if kwargs.setdefault("session", session) is not session:
                raise OperationError(f"{self._name}.{name} was given another session than the migration's.")
            return plain(*args, **kwargs)

        return in_transaction


class BoundDatabase:
    """The environment's database as a migration function sees it: collections by name, nothing else."""

    def __init__(self, context: PythonContext) -> None:
        self._context = context

    def __getitem__(self, name: str) -> BoundCollection:
        return BoundCollection(self._context, name)

    def __getattr__(self, name: str) -> BoundCollection:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]


class PythonContext:
    """What a migration function gets.

    Attributes:
        db: the database; every call on its collections takes part in the transaction that runs.
        session: that transaction's session; None outside of one.
        counting: True while the plan is made: nothing is written, ``in_batches`` counts, ``once`` does nothing.
    """

    def __init__(self, db: Database[Document], at: Bench | None, *, batched: bool) -> None:
        from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

        self._plain, self._at, self._batched = db, at, batched
        self._names: set[str] = set()
        self.db = BoundDatabase(self)
        self.session: ClientSession | None = at.session if at else None
        self.counting = at is None
        self.counts = Counts()

    def in_batches(self, name: str, collection: str, where: Filter, apply: Work | Update) -> Counts:
        """Walk the matching documents in exactly-once batches; go on where a killed run stopped.

        Args:
            name: the step's name, unique in the function; its checkpoint goes by it.
            collection: what to walk.
            where: whom to select, besides the batch's range.
            apply: an update, or a function of (session, filter) that writes to the documents the filter selects. It may
                be called again when its transaction is retried.

        Raises:
            OperationError: the operation is not ``batched``, or the name was used before.
        """
        if not self._batched:
            raise OperationError("ctx.in_batches needs RunPython(..., batched=True); all else runs in one transaction.")
        self._take(name)
        if self._at is None:
            return self._add(_counts(matched=self._plain[collection].count_documents(dict(where))))
        work: Work = apply if callable(apply) else apply_update(self._plain, collection, apply)
        said = code_of(apply) if callable(apply) else repr(apply)
        step = hashlib.sha256(repr((collection, where, said)).encode()).hexdigest()

        def one_batch(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
            return self._during(session, lambda: work(session, selected))

        return self._add(self._at.batches(collection, where, one_batch, step, name=name))

    def once(self, name: str, body: Callable[[ClientSession], Any]) -> Counts:
        """Run ``body`` in a transaction of its own, exactly once by name; without ``batched`` in the transaction that runs.

        Args:
            name: the step's name, unique in the function.
            body: gets the session; may be called again when the transaction is retried.

        Raises:
            OperationError: the name was used before.
        """
        self._take(name)
        if self._at is None:
            return _counts()
        if self.session is not None:
            return self._add(counts_of(body(self.session)))
        return self._add(self._at.once(name, lambda session: self._during(session, lambda: body(session))))

    def count(self, name: str, n: int = 1) -> None:
        """Add to the operation's counts: ``matched``, ``modified``, ``inserted`` or ``deleted``."""
        self._add(_counts(**{name: n}))

    def _during(self, session: ClientSession, work: Callable[[], Any]) -> Counts:
        self.session = session
        try:
            return counts_of(work())
        finally:
            self.session = None

    def _take(self, name: str) -> None:
        if name in self._names:
            raise OperationError(
                f"The step name {name!r} is used twice; checkpoints go by name, so each needs its own."
            )
        self._names.add(name)

    def _add(self, counts: Counts) -> Counts:
        self.counts += counts
        return counts


def _counts(**named: int) -> Counts:
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    return Counts(**named)


def counts_of(result: Any) -> Counts:
    """Return the counts of a pymongo result; Counts as they are; none for anything else."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    if isinstance(result, Counts):
        return result
    ids = getattr(result, "inserted_ids", [result.inserted_id] if hasattr(result, "inserted_id") else [])
    return Counts(
        matched=getattr(result, "matched_count", 0),
        modified=getattr(result, "modified_count", 0),
        inserted=getattr(result, "inserted_count", len(ids)),
        deleted=getattr(result, "deleted_count", 0),
    )


@dataclass(frozen=True, init=False)
class RunPython(Operation):
    """Run ``forward(ctx)``, a function of the migration file; ``reverse(ctx)`` undoes it.

    By default the function runs inside one transaction together with the record of it: all or nothing. It is called
    again when the server asks for the transaction to be retried, so it must not change anything but the database.

    With ``batched`` it runs outside of a transaction and is called again from its start after a kill. What it does
    through ``ctx.in_batches`` and ``ctx.once`` happens exactly once; everything else it does must bear repetition. Its
    reverse may find a forward run that a kill has cut short, and must cope with that.
    """

    function: Callable[[PythonContext], Any]
    undo: Callable[[PythonContext], Any] | None
    collections: tuple[str, ...]
    batched: bool

    def __init__(
        self,
        forward: Callable[[PythonContext], Any],
        *,
        reverse: Callable[[PythonContext], Any] | None = None,
        collections: Sequence[str] = (),
        batched: bool = False,
        irreversible: str | None = None,
    ) -> None:
        stored: dict[str, Any] = {
            "function": forward,
            "undo": reverse,
            "collections": tuple(collections),
            "batched": batched,
        }
        # Both directions are methods of every operation, hence other names; the mode is this value's own.
        stored |= {"irreversible": irreversible, "mode": Mode.BATCHES if batched else Mode.TRANSACTION}
        for name, value in stored.items():
            object.__setattr__(self, name, value)

    @property
    def keeps_images(self) -> bool:
        """Return False: what its functions keep is their own business."""
        return False

    def describe(self) -> str:
        """Say which function runs, and how."""
        how = "in exactly-once steps" if self.batched else "in one transaction"
        which = f" on {', '.join(self.collections)}" if self.collections else ""
        return f"Run {_name(self.function)}{which}, {how}"

    def writes(self) -> tuple[str, ...]:
        """Return the declared collections."""
        return self.collections

    def why_irreversible(self) -> str | None:
        """Without ``reverse`` there is no way back."""
        if self.irreversible or self.undo is not None:
            return self.irreversible
        return f"RunPython {_name(self.function)} declares no reverse"

    def forward(self, at: Bench) -> Counts:
        """Call the function."""
        return self._call(self.function, at)

    def reverse(self, at: Bench) -> Counts:
        """Call the other function.

        Raises:
            OperationError: there is none.
        """
        if self.undo is None:
            raise OperationError(self.why_irreversible())
        return self._call(self.undo, at)

    def preview(self, db: Database[Document]) -> Preview:
        """Call the function with a context that counts instead of writing.

        A direct write stops a ``batched`` function, where it would not be exactly-once. In one transaction it is the
        ordinary way, and the preview only says that the number of documents is not known beforehand.
        """
        from mongo_ops.mongo.guard import WriteRefusedError  # noqa: PLC0415 - keeps pymongo out of the parse path

        context = PythonContext(db, None, batched=self.batched)
        name, risk = _name(self.function), "medium" if self.why_irreversible() is None else "high"
        try:
            self.function(context)
        except WriteRefusedError:
            if self.batched:
                return Preview(matched=None, risk=risk, stop=f"{name} {DIRECT_WRITE}")
            return Preview(matched=None, risk=risk, notes=(f"{name} {DIRECT_WRITE}; it will run in one transaction.",))
        except OperationError as error:
            return Preview(matched=None, risk=risk, stop=str(error))
        except Exception as error:  # noqa: BLE001 - it may need what earlier operations will have made
            note = f"{name} cannot be previewed on the database as it is ({type(error).__name__})."
            return Preview(matched=None, risk=risk, notes=(note,))
        matched = context.counts.matched
        return Preview(matched=matched, scanned=matched, seconds=matched / DOCUMENTS_PER_SECOND, risk=risk)

    def _call(self, function: Callable[[PythonContext], Any], at: Bench) -> Counts:
        context = PythonContext(at.db, at, batched=self.batched)
        function(context)
        return context.counts


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return f"{getattr(function, '__name__', type(function).__name__)}()"
