"""Carry a migration out, resuming at the operation it stopped in.

A migration whose operations all fit into a transaction commits wholly with its record; any other goes operation by operation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations import history
from mongo_ops.migrations.conditions import CollectionExists, Condition, IndexExists
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.model import UNRESOLVED, State
from mongo_ops.migrations.operations.base import Mode
from mongo_ops.migrations.passage import Passage, brief
from mongo_ops.mongo.batches import CHECKPOINTS, Counts, step_changed

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.migrations.model import OperationRecord
    from mongo_ops.mongo.documents import Document


class Forward(Passage):
    """One migration going forward."""

    direction, running, finished = "forward", State.RUNNING, State.APPLIED

    def work(self) -> Counts:
        """Begin or resume, walk the operations, check the conditions, record it as applied."""
        todo = self._begin()
        if self.file.migration.in_one_transaction:
            return self.commit(self._all_at_once)
        counts = Counts()
        last = None if self.file.migration.ensures else len(self.operations) - 1  # nothing to check after it
        for index in todo:
            counts += self._one(index, counts if index == last else None)
        if last in todo:
            return counts
        try:
            self._ensure()
        except MigrationRefusedError:
            counts += self._late_comers()
            self._ensure()
        self.commit(lambda session: self._finish(session, counts))
        return counts

    def _late_comers(self) -> Counts:
        """Walk again for documents that others wrote meanwhile, where an operation can tell them from those it changed."""
        counts = Counts()
        for index, operation in enumerate(self.file.migration.operations):
            if operation.takes_late_comers:
                counts += operation.forward(self.bench(index, None, again=f"late{self.attempt}"))
        return counts

    def admit(self) -> None:
        """Refuse an edit of the operation that is half done: neither going on nor going back would fit its other half."""
        if self.record is None or self.record.state not in UNRESOLVED:
            return
        operations = self.file.migration.operations
        for index, old in enumerate(self.record.operations):
            new = operations[index] if index < len(operations) else None
            if old.state != "running" or (new is not None and new.digest() == old.digest):
                continue
            done = self._progress(index)
            same_kind = new is not None and new.kind == old.kind
            if done is not None and not (same_kind and old.kind == "RunPython"):  # whose steps are told apart by name
                raise step_changed(f"{self.base}/forward/{index}", done)
            if done is None and not same_kind and self.record.state is not State.FAILED:  # it may have been carried out
                raise step_changed(f"{self.base}/forward/{index}", 0)

    def _progress(self, index: int) -> int | None:
        """Return how many documents an operation's walks have done; None when none has begun to write."""
        walks = {"_id": {"$gte": f"{self.base}/forward/{index}", "$lt": f"{self.base}/forward/{index}0"}}
        begun = {**walks, "$or": [{"done": {"$gt": 0}}, {"done": {"$exists": False}}]}  # without: a step of ctx.once
        points = list(self.db[CHECKPOINTS].find(begun, {"done": 1}))
        return sum(int(point.get("done", 0)) for point in points) if points else None

    def _begin(self) -> range:
        """Record the start; return the indexes of the operations that are still to do."""
        migration, record = self.file.migration, self.record
        fresh = record is None or record.state not in UNRESOLVED
        self.operations = history.fresh_operations(self.file)
        done = 0
        if record is not None and not fresh:
            done = sum(op.state == "done" for op in record.operations)
            self.operations = [self._resumed(i, new, record.operations) for i, new in enumerate(self.operations)]
        else:
            self.application += 1
            self._require()
        if not migration.in_one_transaction:
            self._observe(done)
            self.commit(self._write_start)
        return range(done, len(migration.operations))

    def _resumed(self, index: int, new: Document, before: Sequence[OperationRecord]) -> Document:
        """Return the operation's record to go on with: what was noted before, unless another operation took its place."""
        if index >= len(before) or before[index].state not in ("done", "running"):
            return new
        old = history.operation_documents(before[index : index + 1])[0]
        if old["digest"] == new["digest"]:
            return old
        steps = {"_id": {"$gt": f"{self.base}/forward/{index}/", "$lt": f"{self.base}/forward/{index}0"}}
        begun = old["kind"] == new["kind"] and self.db[CHECKPOINTS].find_one(steps) is not None
        return {**old, "digest": new["digest"]} if begun else new

    def _write_start(self, _: ClientSession | None = None) -> None:
        if self.record is not None and self.record.state is State.RUNNING:
            self.event("interrupted", found_by_attempt=self.attempt)
        self.state(State.RUNNING, **self.program(),
                   tags=list(self.file.migration.tags), error=None)  # fmt: skip
        self.event("started", operations=brief(self.operations))

    def program(self) -> dict[str, Any]:
        """Return what the record keeps of the file, so that it can be rolled back when the file is gone."""
        helpers = [{"path": path, "source": source} for path, source in self.file.helpers.items()]
        return {"checksum": self.file.checksum, "source": self.file.source, "helpers": helpers}

    def _require(self) -> None:
        for condition in self.file.migration.requires:
            problem = condition.violation(self.db)
            if problem:
                raise MigrationRefusedError(f"{self.file.name} must not start: {problem}.")

    def _ensure(self, session: ClientSession | None = None) -> None:
        for condition in self.file.migration.ensures:
            problem = self._violation(condition, session)
            if problem:
                raise MigrationRefusedError(
                    f"{self.file.name} ran, but {problem}. If other writers did that meanwhile, stop them and run again, or accept "
                    f"it with `mongo-ops mark {self.file.version} --as applied` and add a migration for the rest."
                )

    def _violation(self, condition: Condition, session: ClientSession | None) -> str | None:
        """Check a condition; inside the session's transaction what is not committed yet counts."""
        if session is None:
            return condition.violation(self.db)
        if isinstance(condition, CollectionExists | IndexExists):  # no transaction can read the catalogue
            name = condition.collection
            made_here = isinstance(condition, CollectionExists) and self.db[name].find_one(
                {}, {"_id": 1}, session=session
            )
            return None if made_here else condition.violation(self.db)
        with session.bind(end_session=False):
            return condition.violation(self.db)

    def _observe(self, index: int) -> None:
        """Note what the next operation finds, once, before it first runs."""
        if index < len(self.operations) and self.operations[index]["state"] == "pending":
            found = self.file.migration.operations[index].observe(self.db)
            self.operations[index] |= {"state": "running", "found": dict(found)}

    def _one(self, index: int, before: Counts | None) -> Counts:
        """Carry an operation out and record it; with ``before``, what those before it did, the migration as applied too."""
        operation = self.file.migration.operations[index]
        started = time.monotonic()
        if self.operations[index]["state"] == "pending":  # not noted by the operation before
            self._observe(index)
            self.commit(lambda _: self.state(State.RUNNING))
        if operation.mode is Mode.TRANSACTION:
            return self.commit(lambda session: self._in_transaction(index, session, before))
        self.keep(operation.forward_destroys(), index)
        with self.run.lease.renewing() if operation.mode is Mode.IDEMPOTENT else nullcontext():
            counts = operation.forward(self.bench(index, None))
        self._observe(index + 1)
        self.commit(lambda session: self._close(index, counts, started, before, session))
        return counts

    def _in_transaction(self, index: int, session: ClientSession, before: Counts | None = None) -> Counts:
        started = time.monotonic()
        counts = self.file.migration.operations[index].forward(self.bench(index, session))
        self._close(index, counts, started, before, session)
        return counts

    def _close(self, index: int, counts: Counts, started: float, before: Counts | None, session: ClientSession) -> None:
        """Note an operation as done; the last one in the same transaction as the end of the migration."""
        self.mark(index, "done", counts, time.monotonic() - started)
        if before is not None:
            self._finish(session, before + counts)

    def _all_at_once(self, session: ClientSession) -> Counts:
        """Body and record in one transaction; called again when that is retried."""
        self._write_start()
        counts = Counts()
        for index in range(len(self.operations)):
            self.at = index
            self.operations[index]["found"] = dict(self.file.migration.operations[index].observe(self.db))
            counts += self._in_transaction(index, session)
        self.at = None
        self._ensure(session)
        self._finish(session, counts)
        return counts

    def _finish(self, session: ClientSession, counts: Counts) -> None:
        order = history.next_order(self.db, session)
        seconds = round(time.monotonic() - self.began, 3)
        self.state(State.APPLIED, **self.program(), order=order,
                   seconds=seconds, error=None)  # fmt: skip
        self.event("applied", counts=counts.as_dict(), seconds=seconds, operations=brief(self.operations))
