"""A lease with a fencing epoch: one writer per resource, and a zombie that wakes up late changes nothing.

One document per resource in ``ops_leases``. It is taken with one atomic update on the server's clock (``$$NOW``), renewed
by a heartbeat, and every acquisition raises its epoch. Each transaction of a run first writes to that document under the
condition that its own epoch is still there and unexpired; so either the transaction or the next acquisition wins, never both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from mongo_ops.errors import PlanError, RunError

if TYPE_CHECKING:
    from types import TracebackType

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

T = TypeVar("T")
LEASES = "ops_leases"
TTL_SECONDS = 60.0
RELEASE_SECONDS = 10.0
FIRST_RENEWAL_SECONDS = 0.005
EVICTED_KEPT = 50  # owners that the lease document remembers; an evicted run retries for hours, not for ever
NEVER_HELD = datetime(1970, 1, 1, tzinfo=UTC)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. ``owner`` names the run: every process of one run may take the lease over from the other."""

    owner: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


class LeaseHeldError(PlanError):
    """Another run holds the resource."""

    def __init__(self, resource: str, owner: str, host: str, pid: int, since: datetime, expires: datetime) -> None:
        super().__init__(resource, owner, host, pid, since, expires)
        self.resource, self.owner, self.host, self.pid = resource, owner, host, pid
        self.since, self.expires = since, expires

    def __str__(self) -> str:
        return (
            f"{self.resource} is held by {self.owner} (host {self.host}, pid {self.pid}) since {self.since:%Y-%m-%d %H:%M:%S} "
            f"until {self.expires:%H:%M:%S} UTC. Wait for it, or see `mongo-ops unlock --resource {self.resource}`."
        )


class LeaseTakenAwayError(PlanError):
    """The run was evicted by ``mongo-ops unlock --force``; none of its processes may take the lease again."""

    def __init__(self, resource: str, owner: str) -> None:
        super().__init__(resource, owner)
        self.resource, self.owner = resource, owner

    def __str__(self) -> str:
        return f"This run's lease on {self.resource} was taken away by `mongo-ops unlock` (run {self.owner}); start a new run."


class LeaseLostError(RunError):
    """The lease lapsed or passed to another run; nothing of this run may be written any more."""

    def __init__(self, resource: str, epoch: int) -> None:
        super().__init__(resource, epoch)
        self.resource, self.epoch = resource, epoch

    def __str__(self) -> str:
        return f"The lease on {self.resource} (epoch {self.epoch}) is no longer ours; nothing more was written. Run again to resume."


class Lease:
    """A held lease. Use it as a context manager: it renews itself in the background and is released at the end."""

    def __init__(self, db: Database[Document], resource: str, holder: Holder, epoch: int, ttl: float) -> None:
        self.db, self.resource, self.holder, self.epoch, self.ttl = db, resource, holder, epoch, ttl
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {resource}", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Begin to renew in the background."""
        self._heart.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        try:
            with pymongo.timeout(RELEASE_SECONDS):
                self.release()
        except PyMongoError as failure:  # it lapses by itself; the error that ended the work is the one to report
            log.warning(
                "Lease on %s was not released (%s); it lapses by itself.", self.resource, type(failure).__name__
            )

    def let_go(self) -> None:
        """Stop renewing but leave the lease to the run's next process (a later task of the same Airflow run)."""
        self._stop.set()
        if self._heart.is_alive():
            self._heart.join(timeout=5)

    def release(self) -> bool:
        """Give the lease up if it is still ours; say whether it was."""
        done = self.db[LEASES].update_one(self._ours(), [{"$set": {"expires_at": "$$NOW", "released": True}}])
        return done.matched_count == 1

    def renew(self) -> bool:
        """Extend the lease whether it has lapsed or not, unless another acquisition came; say whether it is ours.

        An acquisition may have to wait for the open transaction of a run that was killed (the server ends it after
        ``transactionLifetimeLimitSeconds``), and ``$$NOW`` is the moment when that wait began.
        """
        mine = {"_id": self.resource, "epoch": self.epoch}
        return self.db[LEASES].update_one(mine, self._renewal()).matched_count == 1

    def check(self) -> None:
        """Raise if the lease is no longer ours. For work that no transaction can guard, such as an index build."""
        if self._lost.is_set() or self.db[LEASES].find_one(self._ours()) is None:
            raise LeaseLostError(self.resource, self.epoch)

    def transaction(self, body: Callable[[ClientSession], T]) -> T:
        """Run ``body`` in a transaction that commits only while the lease is ours. ``body`` may be called again.

        Raises:
            LeaseLostError: nothing was written.
        """

        def guarded(session: ClientSession) -> T:
            touched = self.db[LEASES].update_one(self._ours(), self._renewal(), session=session)
            if touched.matched_count != 1:
                raise LeaseLostError(self.resource, self.epoch)
            return body(session)

        with self.db.client.start_session() as session:
            return session.with_transaction(
                guarded, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority")
            )

    @contextlib.contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew at growing intervals during work that no transaction guards, such as an index build.

        That keeps the lease fresh and the build quick: it ends by waiting for its votes to be in the journal, and a server
        that nobody else writes to flushes that only every ``journalCommitInterval`` (100 ms). A majority write flushes it.
        """
        over = threading.Event()

        def renew() -> None:
            pause = FIRST_RENEWAL_SECONDS
            while not over.wait(pause) and self._renew_or_note():
                pause *= 2

        thread = threading.Thread(target=renew, name=f"lease {self.resource}, renewing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=1)  # so that it does not meet the next transaction; a dead server must not hold us up

    def _ours(self) -> dict[str, Any]:
        return {"_id": self.resource, "epoch": self.epoch, "$expr": {"$gt": ["$expires_at", "$$NOW"]}}

    def _renewal(self) -> list[dict[str, Any]]:
        return [{"$set": {"expires_at": {"$add": ["$$NOW", int(self.ttl * 1000)]}, "renewed_at": "$$NOW"}}]

    def _beat(self) -> None:
        while not self._stop.wait(self.ttl / 3) and self._renew_or_note():
            pass

    def _renew_or_note(self) -> bool:
        """Renew in the background. Return False, and note it, when the lease is lost; a failure may pass."""
        try:
            with pymongo.timeout(self.ttl / 3):
                renewed = self.db[LEASES].update_one(self._ours(), self._renewal()).matched_count == 1
        except PyMongoError as error:
            log.warning("Lease on %s was not renewed (%s); trying again.", self.resource, type(error).__name__)
            return True
        if not renewed:
            self._lost.set()
        return renewed


def acquire(
    db: Database[Document], resource: str, holder: Holder, *, ttl: float = TTL_SECONDS, wait: float = 0.0
) -> Lease:
    """Take the lease: when it is free, has lapsed, or belongs to the same run. The epoch grows every time.

    Args:
        db: database with majority concerns.
        resource: what is leased, e.g. ``migrations``.
        holder: who takes it; a process of the same ``owner`` takes over and fences the one before.
        ttl: seconds without a heartbeat after which others may take it.
        wait: seconds to keep trying while another run holds it.

    Raises:
        LeaseHeldError: another run holds it.
        LeaseTakenAwayError: it was taken away from this run; a retry of it must not go on.
    """
    deadline = time.monotonic() + wait
    while True:
        began = time.monotonic()
        taken = _try_acquire(db, resource, holder, ttl)
        if taken is not None:
            lease = Lease(db, resource, holder, int(taken["epoch"]), ttl)
            if time.monotonic() - began < ttl / 4 or lease.renew():
                return lease
            continue  # overtaken meanwhile
        if db[LEASES].find_one({"_id": resource, "evicted": holder.owner}, {"_id": 1}) is not None:
            raise LeaseTakenAwayError(resource, holder.owner)
        current = show(db, resource)
        if current is None:
            _create(db, resource)
            continue
        if time.monotonic() >= deadline:
            raise held_error(current)
        time.sleep(min(0.2, max(0.02, wait / 20)))


def _try_acquire(db: Database[Document], resource: str, holder: Holder, ttl: float) -> Document | None:
    free = {"$or": [{"owner": holder.owner}, {"$expr": {"$lte": ["$expires_at", "$$NOW"]}}]}
    fields: dict[str, Any] = {
        "owner": {"$literal": holder.owner},
        "host": {"$literal": holder.host},
        "pid": holder.pid,
        "epoch": {"$add": [{"$ifNull": ["$epoch", 0]}, 1]},
        "acquired_at": "$$NOW",
        "renewed_at": "$$NOW",
        "expires_at": {"$add": ["$$NOW", int(ttl * 1000)]},
        "released": False,
    }
    return db[LEASES].find_one_and_update(
        {"_id": resource, "evicted": {"$ne": holder.owner}, **free},
        [{"$set": fields}],
        return_document=ReturnDocument.AFTER,
    )


def _create(db: Database[Document], resource: str) -> None:
    """Make the lease document, free. An upsert cannot do it in one step: it allows no ``$expr`` in its filter."""
    with contextlib.suppress(DuplicateKeyError):
        db[LEASES].insert_one({"_id": resource, "epoch": 0, "expires_at": NEVER_HELD})


def show(db: Database[Document], resource: str) -> Document | None:
    """Return the live lease's document, or None when the resource is free."""
    return db[LEASES].find_one({"_id": resource, "$expr": {"$gt": ["$expires_at", "$$NOW"]}})


def unlock(db: Database[Document], resource: str, *, force: bool = False) -> Document | None:
    """Free a resource and return whom it was taken from; None when it was free already.

    The owner is noted in ``evicted`` and gets the lease never again: an Airflow run would retry within seconds.

    Raises:
        LeaseHeldError: the lease is alive and ``force`` is not given.
    """
    current = show(db, resource)
    if current is None:
        return None
    if not force:
        raise held_error(current)
    evicted = {"$concatArrays": [{"$ifNull": ["$evicted", []]}, [{"$literal": current["owner"]}]]}
    fields = {"expires_at": "$$NOW", "released": True, "epoch": {"$add": ["$epoch", 1]}}
    done = db[LEASES].update_one(
        {"_id": resource, "owner": current["owner"]},  # whichever of its processes has it by now
        [{"$set": {**fields, "evicted": {"$slice": [evicted, -EVICTED_KEPT]}}}],
    )
    return current if done.matched_count else unlock(db, resource, force=True)


def free(db: Database[Document], resource: str, owner: str) -> bool:
    """Give up a resource on behalf of its owner, from whichever of the owner's processes; say whether it was held."""
    freed = db[LEASES].update_one(
        {"_id": resource, "owner": owner, "$expr": {"$gt": ["$expires_at", "$$NOW"]}},
        [{"$set": {"expires_at": "$$NOW", "released": True, "epoch": {"$add": ["$epoch", 1]}}}],
    )
    return freed.matched_count == 1


def held_error(current: Document) -> LeaseHeldError:
    """Return the error that names a live lease's holder."""
    return LeaseHeldError(
        current["_id"], current["owner"], current["host"], current["pid"], current["acquired_at"], current["expires_at"]
    )
