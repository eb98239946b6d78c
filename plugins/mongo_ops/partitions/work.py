"""What a run of a partitioning holds in its hands, and its evidence in ``ops_partitions`` and the audit log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mongo_ops import audit
from mongo_ops.migrations.history import Occasion
from mongo_ops.mongo import lease as leases
from mongo_ops.mongo.batches import CHECKPOINTS, Reporter, log_progress
from mongo_ops.mongo.lease import Holder, Lease
from mongo_ops.mongo.throttle import Limits
from mongo_ops.partitions.protecting import Protected, look_up

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document
    from mongo_ops.partitions.model import PartitionRequest
    from mongo_ops.storage import Folder

PARTITIONS = "ops_partitions"
Refusal = Callable[[str], "Callable[[bytes], bool] | None"]
"""For a collection: what says of a document (BSON) that it was erased and must not come back; None where nobody was."""


def resource_of(collection: str) -> str:
    """Return the name of the lease on a collection's partitions."""
    return f"partition:{collection}"


@dataclass(frozen=True)
class Work:
    """One environment, and on whose behalf its partitions are changed.

    Attributes:
        target: the environment.
        folder: where archives go; for a restore, the archive's own folder.
        occasion: who, in which run, why.
        holder: who holds the lease: the Airflow run, or the command.
        erasure: erasure on the environment, for legal holds; None where there is no data map.
        refusal: keeps erased people out of a restore; None where nobody asks.
        report: gets the progress.
    """

    target: Target
    folder: Folder
    occasion: Occasion
    holder: Holder
    erasure: Engine | None = None
    refusal: Refusal | None = None
    report: Reporter = field(default=log_progress, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @property
    def db(self) -> Database[Document]:
        """The environment's database."""
        return self.target.db

    @property
    def limits(self) -> Limits:
        """What the environment allows."""
        at = self.target.environment
        return Limits(max_lag=at.max_lag, batch_seconds=at.batch_seconds, budget=at.budget)

    @contextmanager
    def lease(self, collection: str) -> Iterator[Lease]:
        """Hold the lease on a collection's partitions.

        Raises:
            LeaseHeldError: another run is at it.
        """
        ttl = self.target.environment.lease_ttl
        with leases.acquire(self.db, resource_of(collection), self.holder, ttl=ttl) as lease:
            yield lease

    def protected(self, request: PartitionRequest) -> Protected:
        """Look up what must stay."""
        return look_up(self.db, self.erasure, (request.collection, request.view_name))

    def note(
        self,
        lease: Lease,
        key: str,
        event: str,
        facts: Mapping[str, Any],
        *,
        plan_digest: str,
        forget: str | None = None,
    ) -> None:
        """Write down, once, that something is done: in ``ops_partitions`` and in the audit log, in one transaction.

        Args:
            lease: the run's.
            key: what it was done to.
            event: what was done, e.g. ``dropped``.
            facts: names, counts, digests.
            plan_digest: the plan's.
            forget: checkpoints whose names begin so are no longer needed.
        """
        db = self.db
        entry = audit.AuditEntry(
            action=f"partition.{event}", entity_type="partition", entity_id=key, actor=self.occasion.actor.name,
            actor_kind=self.occasion.actor.kind, environment=self.target.environment.name, plan_digest=plan_digest,
            run_id=self.occasion.run_id, result="done", details=dict(facts),
        )  # fmt: skip

        def body(session: ClientSession) -> None:
            found = db[PARTITIONS].find_one({"_id": key}, {"events": 1}, session=session)
            if forget is not None:
                beyond = forget[:-1] + chr(ord(forget[-1]) + 1)
                db[CHECKPOINTS].delete_many({"_id": {"$gte": forget, "$lt": beyond}}, session=session)
            if found is not None and event in found["events"]:
                return
            where = {"run_id": self.occasion.run_id, "plan_digest": plan_digest}
            fields = {name: {"$literal": value} for name, value in {**facts, **where}.items()}
            events = {"$concatArrays": [{"$ifNull": ["$events", []]}, [event]]}
            change = [{"$set": {**fields, "state": event, "events": events, "updated_at": "$$NOW"}}]
            db[PARTITIONS].update_one({"_id": key}, change, upsert=True, session=session)
            audit.append(db, session, entry)

        audit.prepare(db)
        lease.transaction(body)

    def noted(self, key: str, event: str) -> Document | None:
        """Return what was written down about something that is done, or None."""
        return self.db[PARTITIONS].find_one({"_id": key, "events": event})
