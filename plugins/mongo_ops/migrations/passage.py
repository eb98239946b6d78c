"""What going forward and going back share: every change of state is one transaction that asserts the lease."""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from mongo_ops import audit
from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import history
from mongo_ops.migrations.faults import explain
from mongo_ops.migrations.history import Occasion
from mongo_ops.migrations.losses import remember
from mongo_ops.migrations.model import MigrationFile, Outcome, Record, State
from mongo_ops.migrations.operations.base import Bench, Loss
from mongo_ops.mongo.batches import CHECKPOINTS, Batches, BudgetSpentError, Counts, Step, covered, step_changed
from mongo_ops.mongo.lease import LeaseLostError

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.migrations.run import Run
    from mongo_ops.mongo.documents import Document

T = TypeVar("T")
RECORD_SECONDS = 15.0
log = logging.getLogger(__name__)
AUDITED = {"applied": "done", "rolled_back": "done", "failed": "failed", "interrupted": "interrupted"}


class Passage(ABC):
    """What forward and reverse share: begin, walk the operations, finish; record each step under the lease."""

    direction: ClassVar[str]
    running: ClassVar[State]
    finished: ClassVar[State]

    def __init__(self, run: Run, file: MigrationFile, record: Record | None) -> None:
        self.run, self.file, self.db = run, file, run.target.db
        self.operations: list[Document] = []
        self._state: Document = {}
        self._events: list[Document] = []
        self.record = record
        self.application = record.application if record else 0
        self.at: int | None = None  # the operation of a migration in one transaction, for error texts
        self.attempt = record.attempt + 1 if record else 1
        self.began = time.monotonic()

    @property
    def base(self) -> str:
        """Prefix of this application's checkpoints."""
        return f"{self.file.name}.{self.application}"

    def carry_out(self) -> Outcome:
        """Work; whatever happens, leave a state that the next run understands."""
        self.admit()
        try:
            counts = self.work()
        except LeaseLostError:
            raise
        except (KeyboardInterrupt, SystemExit):
            self.stop(State.INTERRUPTED, "stopped from outside")
            raise
        except BudgetSpentError as error:
            self.stop(State.INTERRUPTED, str(error))
            raise
        except Exception as error:
            fault = explain(error, self.where())
            self.stop(State.FAILED, str(fault))
            if fault is error:
                raise
            raise fault from None
        return Outcome(self.file.name, self.direction, counts.as_dict(), time.monotonic() - self.began)

    def admit(self) -> None:  # noqa: B027 - going back has nothing to refuse
        """Raise when this must not even begin; the record then stays as it is."""

    @abstractmethod
    def work(self) -> Counts:
        """Do it all and return what was done in this run."""

    def program(self) -> dict[str, Any]:
        """Return what the record keeps of the file; nothing new when going back."""
        return {}

    def where(self) -> str:
        """Name the operation that is running, for error texts."""
        at = next((i for i, o in enumerate(self.operations) if o["state"] == "running"), self.at)
        if at is None:
            return self.file.name
        return f"{self.file.name}, operation {at + 1} of {len(self.operations)} ({self.operations[at]['kind']})"

    def state(self, state: State, **fields: Any) -> None:
        """Note the migration's state, to be written when the transaction's body is through."""
        self._state |= {**fields, "state": state.value}

    def event(self, name: str, **facts: Any) -> None:
        """Note an event for the history; for the audit log too when an auditor would ask for it."""
        facts |= {"direction": self.direction, "attempt": self.attempt, "checksum": self.file.checksum}
        self._events.append(history.event(self.file.name, name, self.run.occasion, epoch=self.run.lease.epoch, **facts))

    def _write(self, session: ClientSession) -> None:
        """Write what was noted: one state document, the events, the audit entries."""
        if self._state:
            fields = {
                **self._state,
                "direction": self.direction,
                "operations": self.operations,
                "attempt": self.attempt,
            }
            fields |= {
                "application": self.application,
                "run_id": self.run.occasion.run_id,
                "epoch": self.run.lease.epoch,
            }
            now = ("applied_at",) if self._state["state"] == State.APPLIED else ()
            history.save(self.db, session, self.file.name, fields, now)
        if self._events:
            history.append(self.db, session, self._events)
        for one in self._events:
            if one["event"] in AUDITED:
                environment, event = self.run.target.environment.name, one["event"]
                entry = audit_entry(
                    environment,
                    self.run.occasion,
                    self.file.name,
                    f"migration.{event}",
                    AUDITED[event],
                    _auditable(one),
                )
                audit.append(self.db, session, entry)

    def stop(self, state: State, error: str) -> None:
        """Record that it stopped; when even that is impossible the next run finds it running and knows.

        A transaction may have committed although its answer never came. So what is stored of this very try is the truth,
        not what this process remembers; and a try that turns out to have finished is left as finished.
        """

        def write(session: ClientSession) -> None:
            stored = self.db[history.MIGRATIONS].find_one({"_id": self.file.name}, session=session) or {}
            if (stored.get("attempt"), stored.get("epoch")) == (self.attempt, self.run.lease.epoch):
                if stored["state"] == self.finished:
                    return
                self.operations = stored["operations"]
            self.state(state, error=error, **self.program())
            self.event(state.value, error=error, operations=brief(self.operations))

        try:
            with pymongo.timeout(RECORD_SECONDS):
                self.commit(write)
        except (PyMongoError, MongoOpsError) as failure:  # the first error is the one to report
            log.warning("%s: its state could not be recorded (%s).", self.file.name, type(failure).__name__)

    def commit(self, body: Callable[[ClientSession], T]) -> T:
        """Run a body in a transaction and write what it noted; that, and ``operations``, count only if it commits."""
        before = copy.deepcopy(self.operations)

        def fresh(session: ClientSession) -> T:
            self.operations, self._state, self._events = copy.deepcopy(before), {}, []
            result = body(session)
            self._write(session)
            return result

        try:
            return self.run.lease.transaction(fresh)
        except BaseException:
            self.operations = before
            raise

    def keep(self, losses: Sequence[Loss], index: int) -> None:
        """Snapshot what an operation is about to destroy; record what going forward destroys before it does."""
        step = f"{self.base}/{self.direction}/{index}"
        kept = self.run.losses.keep(self.db, losses, step, self.attempt, self.run.occasion.run_id)
        if losses and self.direction == "forward":
            self.operations[index]["found"] = remember(self.operations[index]["found"], kept)
            self.commit(lambda _: self.state(self.running))

    def bench(self, index: int, session: ClientSession | None, again: str = "") -> Bench:
        """Lay out the place of work of one operation; ``again`` names a further walk of the same operation."""
        walk = f"{self.base}/forward/{index}"
        end = covered(self.db, walk) if self.direction == "reverse" else None
        batches = Batches(self.run.lease, self.run.limits, self.run.report)

        def in_batches(
            collection: str, where: Mapping[str, Any], apply: Any, digest: str, name: str = "", end: Any = None
        ) -> Counts:
            parts = (self.base, self.direction, str(index), name, again)
            if name:
                self._insist_on_order(index, "/".join(part for part in parts if part))
            step = Step("/".join(part for part in parts if part), digest, collection, where)
            return batches.run(step, apply, end=end)

        def once(name: str, body: Callable[[ClientSession], Counts]) -> Counts:
            return self._once(f"{self.base}/{self.direction}/{index}/{name}", body)

        return Bench(
            db=self.db, session=session, found=self.operations[index]["found"], batches=in_batches, once=once,
            check=self.run.lease.check, images=self.db[f"ops_before_{self.base}.{index}"],
            forward_end=end, forward_finished=self.operations[index]["state"] == "done",
        )  # fmt: skip

    def _insist_on_order(self, index: int, step_id: str) -> None:
        """Refuse a named step while another one of the operation is half done: its name was changed since."""
        prefix = f"{self.base}/{self.direction}/{index}/"
        half = {
            "_id": {"$gte": prefix, "$lt": f"{prefix[:-1]}0", "$ne": step_id},
            "finished": False,
            "done": {"$gt": 0},
        }
        other = self.db[CHECKPOINTS].find_one(half)
        if other is not None:
            raise step_changed(other["_id"], other["done"])

    def _once(self, step_id: str, body: Callable[[ClientSession], Counts]) -> Counts:
        """Run a body in one transaction, exactly once by name."""

        def guarded(session: ClientSession) -> Counts:
            done = self.db[CHECKPOINTS].find_one({"_id": step_id}, session=session)
            if done is not None:
                return Counts.of(done)
            counts = body(session)
            self.db[CHECKPOINTS].insert_one({"_id": step_id, "finished": True, **counts.as_dict()}, session=session)
            return counts

        return self.run.lease.transaction(guarded)

    def mark(self, index: int, state: str, counts: Counts, seconds: float) -> None:
        """Note an operation as done or undone."""
        self.operations[index] |= {"state": state, "counts": counts.as_dict(), "seconds": round(seconds, 3)}
        self.state(self.running)
        self.event("operation", index=index, kind=self.operations[index]["kind"], state=state,
                   counts=counts.as_dict(), seconds=round(seconds, 3))  # fmt: skip


def audit_entry(
    environment: str, occasion: Occasion, name: str, action: str, result: str, details: Mapping[str, Any]
) -> audit.AuditEntry:
    """Make the audit log's entry for something that happened to a migration."""
    return audit.AuditEntry(
        action=action, entity_type="migration", entity_id=name, actor=occasion.actor.name, actor_kind=occasion.actor.kind,
        environment=environment, plan_digest=occasion.plan_digest, run_id=occasion.run_id, result=result,
        details={**details, **({"reason": occasion.reason} if occasion.reason else {})}, personal={},
    )  # fmt: skip


def _auditable(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        key: facts[key] for key in ("direction", "attempt", "checksum", "counts", "seconds", "error") if key in facts
    }


def brief(operations: list[Document]) -> list[Document]:
    """Return the operations' records without what only the engine needs."""
    return [{key: op[key] for key in ("kind", "state", "counts", "seconds")} for op in operations]
