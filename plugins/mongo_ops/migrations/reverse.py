"""Undo a migration, latest operation first, resuming where undoing stopped. What a reverse destroys is snapshotted before."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mongo_ops.migrations import history
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.model import State
from mongo_ops.migrations.operations.base import Mode, Operation
from mongo_ops.migrations.passage import Passage, brief
from mongo_ops.mongo.batches import CHECKPOINTS, Counts

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession


class Reverse(Passage):
    """One migration going back."""

    direction, running, finished = "reverse", State.ROLLING_BACK, State.ROLLED_BACK

    def admit(self) -> None:
        """Refuse while snapshots of what it destroyed are missing: it would look undone with nothing brought back."""
        steps = zip(self.record.operations, self.file.migration.operations, strict=False) if self.record else ()
        for index, (done, operation) in enumerate(steps):
            if done.state in ("done", "running"):
                where = f"Operation {index + 1} of {self.file.name}"
                self.run.losses.insist(self.db, done, operation.forward_destroys(), where)

    def work(self) -> Counts:
        """Undo what is done, drop the before-images, record it as rolled back."""
        if self.record is None:
            raise MigrationRefusedError(f"{self.file.name} has no record to roll back.")
        self.operations = history.operation_documents(self.record.operations)
        todo = [i for i, op in reversed(list(enumerate(self.operations))) if op["state"] in ("done", "running")]
        self.commit(self._write_start)
        counts = Counts()
        for index in todo:
            counts += self._one(index)
        for index in range(len(self.operations)):  # of no use any more; a kill later on would leave them behind
            self.run.lease.check()
            self.bench(index, None).images.drop()
        self.commit(lambda session: self._finish(session, counts))
        return counts

    def _write_start(self, _: ClientSession | None = None) -> None:
        self.state(State.ROLLING_BACK, error=None)
        self.event("rolling_back", operations=brief(self.operations))

    def _one(self, index: int) -> Counts:
        operation = self._operation(index)
        started = time.monotonic()
        if operation.mode is Mode.TRANSACTION and self.operations[index]["state"] == "running":
            return Counts()  # its transaction never committed
        if self.operations[index]["state"] == "running" and operation.not_begun(
            self.db, self.operations[index]["found"]
        ):
            self.commit(lambda _: self.mark(index, "undone", Counts(), time.monotonic() - started))
            return Counts()
        if not self.operations[index]["found"].get("existed"):  # what was there before it is left there
            self.keep(operation.destroys(), index)
        if operation.mode is Mode.TRANSACTION:
            return self.commit(lambda session: self._in_transaction(operation, index, session))
        self._insist_on_images(operation, index)
        with self.run.lease.renewing() if operation.mode is Mode.IDEMPOTENT else nullcontext():
            counts = operation.reverse(self.bench(index, None))
        found = self.operations[index]["found"]
        self.run.losses.bring_back(self.db, operation.forward_destroys(), found, self.run.lease)
        self.commit(lambda _: self.mark(index, "undone", counts, time.monotonic() - started))
        return counts

    def _insist_on_images(self, operation: Operation, index: int) -> None:
        """Refuse to undo changes whose before-images are gone: nothing would come back, and it would look undone."""
        counts = Counts.of(self.operations[index]["counts"])
        changed = counts.modified + counts.inserted + counts.deleted
        images = self.bench(index, None).images.name
        if operation.keeps_images and changed and not self.db.list_collection_names(filter={"name": images}):
            raise MigrationRefusedError(
                f"Operation {index + 1} of {self.file.name} changed {changed:,} documents, but its before-images ({images}) are "
                "gone, so it cannot be undone. Restore them, or record the state by hand with `mongo-ops mark`."
            )

    def _operation(self, index: int) -> Operation:
        """Return the operation to undo; refuse one that was edited since it ran."""
        operations = self.file.migration.operations
        if index >= len(operations) or operations[index].digest() != self.operations[index]["digest"]:
            raise MigrationRefusedError(
                f"Operation {index + 1} of {self.file.name} was edited since it ran, so its reverse would undo something else. "
                "Restore the file, roll back, then edit it."
            )
        return operations[index]

    def _in_transaction(self, operation: Operation, index: int, session: ClientSession) -> Counts:
        started = time.monotonic()
        counts = operation.reverse(self.bench(index, session))
        self.mark(index, "undone", counts, time.monotonic() - started)
        return counts

    def _finish(self, session: ClientSession, counts: Counts) -> None:
        seconds = round(time.monotonic() - self.began, 3)
        self.state(State.ROLLED_BACK, order=0, seconds=seconds, error=None)
        self.db[CHECKPOINTS].delete_many({"_id": {"$gte": f"{self.base}/", "$lt": f"{self.base}0"}}, session=session)
        self.event("rolled_back", counts=counts.as_dict(), seconds=seconds, operations=brief(self.operations))
