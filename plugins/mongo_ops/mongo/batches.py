"""Exactly-once batches: long work over a collection that can be killed at any instant and goes on where it stopped.

The collection is walked by ``_id``. A batch's writes and its checkpoint commit in one transaction that also asserts the
lease, so each document is changed once, even by ``$inc``, and a zombie changes none. The walk covers the documents that
existed when it began: its upper end is fixed then, so that inserts cannot keep it running for ever. The first batch brings
the checkpoint into being; a walk that was killed before that has changed nothing and begins anew. A batch that cannot
commit at its size (too long or too large for the server) is halved, down to single documents.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo import keyrange
from mongo_ops.mongo.keyrange import End
from mongo_ops.mongo.throttle import LagProbe, Limits, next_size, reason_to_wait

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

CHECKPOINTS = "ops_checkpoints"
FIRST_SIZE = 1000
BATCH_BYTES = 8 * 1024 * 1024
PATIENCE_SECONDS = 10.0
TOO_MUCH = frozenset({50, 251, 257, 262, 290, 10334, 17280, 17419, 17420})
"""MaxTimeMSExpired, NoSuchTransaction, TransactionTooLarge, ExceededTimeLimit, TransactionExceededLifetimeLimitSeconds,
BSONObjectTooLarge, and what a document gets that grows too large: a smaller batch may pass."""
TOO_MUCH_NAMES = frozenset({"TransactionTooLargeForCache"})  # its code differs between versions
REPORT_SECONDS = 5.0
WAIT_SECONDS = 0.5
log = logging.getLogger(__name__)


class BudgetSpentError(RunError):
    """The time budget is used up; the retry goes on from the checkpoint."""


class StepChangedError(PlanError):
    """A half-done step was edited, so its checkpoint says nothing about the new one."""


def step_changed(step_id: str, done: int) -> StepChangedError:
    """Return the error that says how to go on after an edit of a half-done step."""
    return StepChangedError(
        f"{step_id} stopped after {done:,} documents and was edited since. Undo its done part with "
        "`mongo-ops rollback --failed`, or restore the file as it was and run again."
    )


class _TooMuchError(Exception):
    """A batch of several documents does not commit at its size. Never leaves this module."""


class NotWalkableError(PlanError):
    """The collection has no ``_id`` index to walk (a view, a time series), or no transaction may write to it (capped)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was done to documents."""

    matched: int = 0
    modified: int = 0
    inserted: int = 0
    deleted: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.matched + other.matched,
            self.modified + other.modified,
            self.inserted + other.inserted,
            self.deleted + other.deleted,
        )

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, zeros left out."""
        named = {"matched": self.matched, "modified": self.modified, "inserted": self.inserted, "deleted": self.deleted}
        return {name: count for name, count in named.items() if count}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Counts:
        """Read counts back from a checkpoint or a history entry."""
        return cls(*(int(document.get(name, 0)) for name in ("matched", "modified", "inserted", "deleted")))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a step is: documents walked, of about how many, how fast, and about how long it will still take."""

    step: str
    done: int
    total: int
    rate_per_s: float
    waiting: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """Return the estimate, or None while the rate is unknown."""
        return max(0, self.total - self.done) / self.rate_per_s if self.rate_per_s > 0 else None

    def __str__(self) -> str:
        share = f"{100 * self.done / self.total:.0f} %" if self.total else "100 %"
        left = f", about {self.seconds_left:.0f} s left" if self.seconds_left is not None else ""
        wait = f"; waiting: {self.waiting}" if self.waiting else ""
        return f"{self.step}: {self.done:,} of {self.total:,} documents ({share}), {self.rate_per_s:,.0f}/s{left}{wait}"


Reporter = Callable[[Progress], None]


def log_progress(progress: Progress) -> None:
    """Write progress to the log."""
    log.info("%s", progress)


@dataclass(frozen=True)
class Step:
    """A named piece of work. ``digest`` says what is done, so that an edited step is not taken for the one begun."""

    id: str
    digest: str
    collection: str
    where: Mapping[str, Any] = field(default_factory=dict)


Apply = Callable[["ClientSession", Mapping[str, Any]], Counts]
"""A batch's work: gets the session and the filter that selects the batch's documents, returns what it did."""


class Batches:
    """Runs a step in batches, resuming from its checkpoint."""

    def __init__(
        self,
        lease: Lease,
        limits: Limits | None = None,
        report: Reporter = log_progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease, self._db = lease, lease.db
        self._limits = limits or Limits()
        self._report, self._clock = report, clock
        self._probe = LagProbe(self._db.client)
        self._began = clock()
        self._reported_at = float("-inf")

    def run(self, step: Step, apply: Apply, *, end: End | None = None) -> Counts:
        """Apply the step to every document that exists now and return the totals, earlier tries included.

        Args:
            step: what to walk.
            apply: the work of one batch; called again when its transaction is retried.
            end: where to stop instead of at the largest key. Used to undo exactly what a killed run had done.

        Raises:
            LeaseLostError: another run took over; nothing more was written.
            BudgetSpentError: the time budget is used up; run again.
            PyMongoError: the server is gone, refuses the work, or cannot commit even a single document.
            StepChangedError: the checkpoint belongs to a different step.
        """
        collection = self._db[step.collection]
        point = self._checkpoint(step, end)
        while not point["finished"]:
            self._hold_back(step, point)
            point = self._one_batch(collection, step, apply, point)
        return Counts.of(point)

    def _checkpoint(self, step: Step, end: End | None) -> Document:
        found = self._db[CHECKPOINTS].find_one({"_id": step.id})
        if found is not None:
            if found["digest"] != step.digest and not found["done"]:
                nothing_done = {"_id": step.id, "done": 0}
                self._lease.transaction(lambda session: self._db[CHECKPOINTS].delete_one(nothing_done, session=session))
                return self._begin(step, end)
            if found["digest"] != step.digest:
                raise step_changed(step.id, found["done"])
            log.info("%s resumes after %s documents.", step.id, f"{found['done']:,}")
            return found
        return self._begin(step, end)

    def _begin(self, step: Step, end: End | None) -> Document:
        """Return a walk's first checkpoint, which the first batch writes; written here only when there is no batch."""
        collection = self._db[step.collection]
        self._refuse_unwalkable(step)
        ends = keyrange.bounds(collection)
        end = end or (End(ends[1]) if ends else None)
        largest, total = self._extent(collection)
        point: Document = {"_id": step.id, "digest": step.digest, "collection": step.collection}
        point |= {
            "size": min(FIRST_SIZE, largest),
            "largest": largest,
            "done": 0,
            "total": total,
            "batches": 0,
            "seconds": 0.0,
            "finished": ends is None,
        }
        if ends is not None and end is not None:
            return point | {"next": ends[0], "upper": end.key, "upper_inclusive": end.inclusive}
        nothing = {**point, "total": 0, "epoch": self._lease.epoch}
        self._lease.transaction(lambda session: self._save(session, point, nothing))
        return nothing

    def _refuse_unwalkable(self, step: Step) -> None:
        info = next(iter(self._db.list_collections(filter={"name": step.collection})), None)
        kind = (
            "capped collection"
            if info and info.get("options", {}).get("capped")
            else info["type"]
            if info
            else "collection"
        )
        if kind != "collection":
            raise NotWalkableError(f"{step.collection} is a {kind} and cannot be changed in batches.")

    def _one_batch(self, collection: Collection[Document], step: Step, apply: Apply, point: Document) -> Document:
        started = self._clock()
        span = keyrange.next_range(
            collection, point["next"], End(point["upper"], inclusive=point["upper_inclusive"]), point["size"]
        )
        selected = {"$and": [span.filter, step.where]} if step.where else span.filter

        def body(session: ClientSession) -> Document:
            counts = Counts.of(point) + apply(session, selected)
            walked = collection.count_documents(span.filter, session=session) if span.final else point["size"]
            after = {**point, **counts.as_dict(), "done": point["done"] + walked, "batches": point["batches"] + 1}
            after |= {"finished": span.final, "epoch": self._lease.epoch}
            after["next"] = point["next"] if span.final else span.stop
            seconds = self._clock() - started
            after |= {"seconds": point["seconds"] + seconds, "rate_per_s": walked / max(seconds, 1e-6)}
            after |= _sized(point, next_size(point["size"], seconds, self._limits.batch_seconds))
            self._save(session, point, after)
            return after

        try:
            after = self._lease.transaction(self._impatient(body) if point["size"] > 1 else body)
        except (_TooMuchError, PyMongoError) as error:
            if point["size"] == 1 or not _blames_size(error):
                raise
            return self._shrink(point, error)
        self._tell(step, after)
        return after

    def _impatient(self, body: Callable[[ClientSession], Document]) -> Callable[[ClientSession], Document]:
        """Give a batch up when its size may be what makes it fail, instead of repeating it as it is for two minutes.

        One try gets ``patience`` seconds of the server's time; after that time it is not tried again at this size. A lost
        connection does not count: the driver waits for the next primary as ever, and in the end the error surfaces.
        """
        patience = max(PATIENCE_SECONDS, 20 * self._limits.batch_seconds)
        began, tries = time.monotonic(), 0

        def attempt(session: ClientSession) -> Document:
            nonlocal tries
            tries += 1
            if tries > 1 and time.monotonic() - began > patience:
                raise _TooMuchError(f"{tries - 1} tries in {time.monotonic() - began:.0f} s")
            started = time.monotonic()
            try:
                with pymongo.timeout(patience):
                    return body(session)
            except PyMongoError as error:
                if is_too_much(error) or time.monotonic() - started >= patience:
                    raise _TooMuchError(_reason(error)) from error
                raise

        return attempt

    def _shrink(self, point: Document, error: Exception) -> Document:
        """Halve the size in the checkpoint, so that a later run starts small too, and return the checkpoint.

        The commit may have arrived although its answer did not; the checkpoint then has moved on and is taken as it is.
        """
        size = point["size"] // 2

        def write(session: ClientSession) -> Document | None:
            found = self._db[CHECKPOINTS].find_one({"_id": point["_id"]}, session=session)
            if found is None and point["batches"] == 0:
                found = point
            if found is None or found["batches"] != point["batches"]:
                return found
            smaller = {**found, "size": size, "ceiling": size, "epoch": self._lease.epoch}
            self._save(session, point, smaller)
            return smaller

        now = self._lease.transaction(write)
        if now is None:
            raise RunError(f"The checkpoint of {point['_id']} is gone; run again.") from None
        if now["batches"] == point["batches"]:
            log.warning(
                "%s: a batch of %s documents did not commit (%s); going on with %s.",
                point["_id"], f"{point['size']:,}", _reason(error), f"{size:,}",
            )  # fmt: skip
        return now

    @staticmethod
    def _extent(collection: Collection[Document]) -> tuple[int, int]:
        """Return how many documents of average size make up ``BATCH_BYTES`` (a batch never has more), and how many there are."""
        shown = {"average": "$storageStats.avgObjSize", "count": "$storageStats.count"}
        try:
            found = list(collection.aggregate([{"$collStats": {"storageStats": {}}}, {"$project": shown}]))
        except OperationFailure:  # no right to see it
            return BATCH_BYTES, collection.estimated_document_count()
        average = max((float(one.get("average") or 0) for one in found), default=0)
        return max(1, int(BATCH_BYTES / max(average, 1))), sum(int(one.get("count") or 0) for one in found)

    def _save(self, session: ClientSession, before: Document, after: Document) -> None:
        """Move the checkpoint on; before the first batch there is none yet, or one that a batch too large has left."""
        fields = {key: {"$literal": value} for key, value in after.items() if key != "_id"}
        saved = self._db[CHECKPOINTS].update_one(
            {"_id": before["_id"], "batches": before["batches"]},
            [{"$set": {**fields, "updated_at": "$$NOW"}}],
            upsert=before["batches"] == 0,
            session=session,
        )
        if saved.matched_count != 1 and saved.upserted_id is None:
            raise RunError(f"The checkpoint of {before['_id']} moved under this run; run again to resume.")

    def _tell(self, step: Step, point: Document, waiting: str | None = None) -> None:
        now = self._clock()
        if waiting or point["finished"] or now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            rate = point["done"] / max(point["seconds"], 1e-6)
            self._report(Progress(step.id, point["done"], max(point["total"], point["done"]), rate, waiting))

    def _hold_back(self, step: Step, point: Document) -> None:
        """Wait while the throttle gives a reason; stop when the time budget is spent."""
        told = None
        while True:
            if self._limits.budget is not None and self._clock() - self._began > self._limits.budget:
                raise BudgetSpentError(
                    f"{step.id}: the time budget of {self._limits.budget:.0f} s is spent after {point['done']:,} of about "
                    f"{point['total']:,} documents. Run again to go on from there."
                )
            reason = reason_to_wait(self._probe.sample(), self._limits)
            if reason is None:
                return
            self._lease.check()
            if reason != told:
                self._tell(step, point, waiting=reason)
                told = reason
            time.sleep(WAIT_SECONDS)


def _sized(point: Document, wanted: int) -> Document:
    """Return the next size and its ceiling. After a failure the ceiling rises slowly, lest the next batches fail as well."""
    size = max(1, min(wanted, point.get("largest", wanted)))
    ceiling = point.get("ceiling")
    if ceiling is None:
        return {"size": size}
    return {"size": min(size, ceiling), "ceiling": ceiling + max(1, ceiling // 8)}


def is_too_much(error: PyMongoError) -> bool:
    """Say whether a smaller batch may pass."""
    if not isinstance(error, OperationFailure):
        return False
    details = error.details or {}
    faults = [{"code": error.code, **details}, *details.get("writeErrors", ())]
    return any(fault.get("code") in TOO_MUCH or fault.get("codeName") in TOO_MUCH_NAMES for fault in faults)


def _blames_size(error: Exception) -> bool:
    """Whether a smaller batch may pass: it was too much, or was aborted again and again until the driver gave up."""
    if isinstance(error, _TooMuchError):
        return True
    cause = error.__cause__ if isinstance(error.__cause__, PyMongoError) else error  # the driver wraps the last failure
    if not isinstance(cause, PyMongoError) or isinstance(cause, ConnectionFailure):
        return False
    return is_too_much(cause) or cause.has_error_label("TransientTransactionError")


def _reason(error: Exception) -> str:
    """Describe a failure without its text, which may hold values."""
    if isinstance(error, _TooMuchError):
        return str(error)
    code = getattr(error, "code", None)
    return f"{type(error).__name__}{f', code {code}' if code else ''}"


def covered(db: Database[Document], step_id: str) -> End | None:
    """Return up to where a step has come; None when it walked nothing (not begun, or an empty collection)."""
    point = db[CHECKPOINTS].find_one({"_id": step_id})
    if point is None or "next" not in point:
        return None
    if point["finished"]:
        return End(point["upper"], inclusive=point["upper_inclusive"])
    return End(point["next"], inclusive=False)
