"""Find every document that a failed migration cannot take, not only the first: by trying on, in a scratch database.

An operation that walks its collection goes on where it failed, a batch that fails is halved until the documents that fail stand
alone, and all others are really changed, so that documents which only fail together are told apart. An operation that refuses
before it changes anything is tried on ever smaller sets of documents in a second database. Definitions (indexes, validators) are
made on an empty collection, into which the documents are then inserted: the server refuses exactly those that do not fit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure

from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import scratch as copies
from mongo_ops.migrations.conditions import NoneMatch
from mongo_ops.migrations.faults import explain
from mongo_ops.migrations.model import MigrationFile, Record
from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Mode, Operation
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.picture import shown
from mongo_ops.mongo.batches import CHECKPOINTS, Counts

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

T = TypeVar("T")
CAP = 1_000
CHUNK = 100
SECONDS = 120.0
EMPTY_OPTIONS = ("collation", "clusteredIndex")


@dataclass(frozen=True)
class Failure:
    """One document that a migration cannot take: its ``_id`` as :func:`~mongo_ops.migrations.picture.shown`, and why."""

    migration: str
    operation: str
    collection: str
    document: str
    reason: str

    def __str__(self) -> str:
        return f"{self.migration}: {self.collection} {self.document}: {self.reason}"


class _EnoughError(Exception):
    """So many documents fail, or the search took so long, that the rest is left unsaid."""


@dataclass
class Search:
    """Looks for the documents that one migration fails on. ``truncated`` once it gave up before the end."""

    db: Database[Document]
    trial: Database[Document]
    file: MigrationFile
    record: Record | None
    found: dict[tuple[str, str], Failure] = field(default_factory=dict)
    truncated: bool = False
    operation: str = ""
    deadline: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def run(self) -> tuple[Failure, ...]:
        """Go on from the operation that failed to the first that cannot be finished; return every document in the way."""
        operations = self.file.migration.operations
        states = [op.state for op in self.record.operations] if self.record else []
        first = next((i for i, state in enumerate(states) if state != "done"), len(states))
        try:
            if not states or first == 0:
                self._conditions(self.file.migration.requires)
            for index in range(first, len(operations)):
                self.operation = operations[index].describe()
                if not self._go_on(index, operations[index]):
                    return tuple(self.found.values())
            self.operation = "conditions afterwards"
            self._conditions(self.file.migration.ensures)
        except _EnoughError:
            self.truncated = True
        return tuple(self.found.values())

    def _go_on(self, index: int, operation: Operation) -> bool:
        """Carry the operation out on all documents that it can take; say whether it could finish for the others."""
        try:
            if operation.mode is Mode.TRANSACTION:
                _transaction(self.db, lambda session: operation.forward(self._bench(index, operation, session)))
            else:
                operation.forward(self._bench(index, operation, None))
        except (_EnoughError, ConnectionFailure):
            raise
        except Exception:  # noqa: BLE001 - a user's function may raise anything
            if operation.mode is Mode.IDEMPOTENT:
                self._by_insertion(operation)
            elif isinstance(operation, InsertDocuments):
                self._by_given_document(operation)
            else:
                self._by_subsets(operation)
            return False
        return True

    def _bench(self, index: int, operation: Operation, session: ClientSession | None) -> Bench:
        base = f"{self.file.name}.{self.record.application if self.record else 1}"
        known = self.record.operations[index].found if self.record and index < len(self.record.operations) else {}

        def batches(
            collection: str, where: Mapping[str, Any], apply: Any, digest: str, *, name: str = "", end: Any = None
        ) -> Counts:
            del digest, end
            self._walk(f"{base}/forward/{index}{'/' + name if name else ''}", collection, where, apply)
            return Counts()

        return dataclasses.replace(
            bench(self.db, session, known or operation.observe(self.db)),
            batches=batches,
            images=self.db[f"ops_before_{base}.{index}"],
        )

    def _walk(self, step: str, collection: str, where: Mapping[str, Any], apply: Any) -> None:
        """Walk on from the step's checkpoint."""
        point = self.db[CHECKPOINTS].find_one({"_id": step}) or {}
        if point.get("finished"):
            return
        rows = self.db[collection].find({}, {"_id": 1}).hint([("_id", 1)])
        if "next" in point:
            rows = rows.min([("_id", point["next"])])

        def attempt(keys: Sequence[Any]) -> str | None:
            selected = {"$and": [{"_id": {"$in": list(keys)}}, dict(where)]}
            return self._told(lambda: _transaction(self.db, lambda session: apply(session, selected)))

        for some in _chunks(row["_id"] for row in rows):
            self._halve(collection, some, attempt)

    def _halve(self, collection: str, keys: Sequence[Any], attempt: Callable[[Sequence[Any]], str | None]) -> None:
        """Find the single keys that the attempt fails on."""
        if time.monotonic() > self.deadline:
            raise _EnoughError
        reason = attempt(keys)
        if reason is None:
            return
        if len(keys) == 1:
            self._note(collection, keys[0], reason)
            return
        middle = len(keys) // 2
        self._halve(collection, keys[:middle], attempt)
        self._halve(collection, keys[middle:], attempt)

    def _by_subsets(self, operation: Operation) -> None:
        """Try the operation on ever smaller sets of documents, in the trial database."""
        names = tuple(dict.fromkeys((*operation.reads(), *operation.writes())))
        for name in names:
            copies.define(self.db, self.trial, name)

        def attempt(keys: Sequence[Any]) -> str | None:
            for name in names:
                self.trial[name].delete_many({})
                copies.insert(
                    copies.raw(self.trial, name), copies.raw(self.db, name).find({"_id": {"$in": list(keys)}})
                )
            self.trial["ops_before_trial"].delete_many({})
            return self._told(lambda: self._try_out(operation))

        if attempt(()) is not None:
            return  # it fails on no document at all
        for name in names:
            for some in _chunks(row["_id"] for row in self.db[name].find({}, {"_id": 1})):
                self._halve(name, some, attempt)

    def _try_out(self, operation: Operation) -> None:
        found = operation.observe(self.trial)
        if operation.mode is Mode.TRANSACTION:
            _transaction(self.trial, lambda session: operation.forward(bench(self.trial, session, found)))
        else:
            operation.forward(bench(self.trial, None, found))

    def _by_insertion(self, operation: Operation) -> None:
        """Make the definition on an empty collection, then insert: the server names who does not fit."""
        for name in operation.writes():
            listed = catalogue.collection(self.db, name)
            if listed is None or listed.type != "collection":
                continue
            self.trial.drop_collection(name)
            options = {key: value for key, value in listed.options.items() if key in EMPTY_OPTIONS}
            self.trial.command({"create": name, **catalogue.recreate_options(options)})
            if self._told(lambda: self._try_out(operation)) is not None:
                return
            for some in copies.chunks(copies.raw(self.db, name).find()):
                self._insert(name, some)

    def _insert(self, name: str, some: Sequence[Any]) -> None:
        try:
            copies.raw(self.trial, name).insert_many(some, ordered=False)
        except BulkWriteError as error:
            for one in error.details["writeErrors"]:
                refused = OperationFailure("", one["code"], one)
                self._note(name, some[one["index"]]["_id"], str(explain(refused, self.file.name)))

    def _by_given_document(self, operation: InsertDocuments) -> None:
        """Try the file's own documents one by one."""
        for given in operation.documents:
            alone = dataclasses.replace(operation, documents=(given,))
            reason = self._told(lambda one=alone: _transaction(self.db, lambda s: one.forward(bench(self.db, s, {}))))  # type: ignore[misc]
            if reason is not None:
                key = {name: given.get(name) for name in operation.key}
                self._note(operation.collection, given.get("_id", key), reason)

    def _conditions(self, conditions: Iterable[Any]) -> None:
        for condition in conditions:
            if isinstance(condition, NoneMatch):
                for row in self.db[condition.collection].find(dict(condition.where), {"_id": 1}).limit(CAP + 1):
                    self._note(condition.collection, row["_id"], f"matches {sorted(condition.where)}, none should")

    def _told(self, act: Callable[[], Any]) -> str | None:
        """Do something; return why it failed, without values."""
        try:
            act()
        except (_EnoughError, ConnectionFailure):
            raise
        except MongoOpsError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return str(explain(error, self.file.name))
        return None

    def _note(self, collection: str, key: Any, reason: str) -> None:
        failure = Failure(self.file.name, self.operation, collection, shown(key), reason)
        self.found.setdefault((collection, failure.document), failure)
        if len(self.found) >= CAP:
            raise _EnoughError


def bench(db: Database[Document], session: ClientSession | None, found: Mapping[str, Any]) -> Bench:
    """Lay out a place of work without lease, checkpoints or resumption, for trials only."""

    def batches(
        collection: str, where: Mapping[str, Any], apply: Any, digest: str, *, name: str = "", end: Any = None
    ) -> Counts:
        del collection, digest, name, end
        return Counts.of(_transaction(db, lambda session: apply(session, dict(where))).as_dict())

    def once(name: str, body: Callable[[ClientSession], Counts]) -> Counts:
        del name
        return _transaction(db, body)

    return Bench(
        db=db,
        session=session,
        found=dict(found),
        batches=batches,
        once=once,
        check=lambda: None,
        images=db["ops_before_trial"],
    )


def _transaction(db: Database[Document], body: Callable[[ClientSession], T]) -> T:
    with db.client.start_session() as session:
        return session.with_transaction(body)


def _chunks(keys: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(keys)
    while some := list(islice(rest, CHUNK)):
        yield some
