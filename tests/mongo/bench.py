"""Run one operation against a real database the way the engine does, without the engine: for tests of operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mongo_ops.migrations.operations.base import Bench, Mode, Operation
from mongo_ops.mongo.batches import Batches, Counts, Step, covered
from mongo_ops.mongo.lease import Holder, acquire


@dataclass
class Workshop:
    """Carries operations out on ``db``; remembers what each observed, as the engine's record does."""

    db: Any
    found: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def forward(self, operation: Operation, limits=None) -> Counts:
        """Observe once, then carry the operation out."""
        self.found.setdefault(id(operation), operation.observe(self.db))
        return self._run(operation, "forward", limits)

    def reverse(self, operation: Operation, limits=None) -> Counts:
        """Undo the operation, then forget it, as the engine does when a migration is rolled back."""
        counts = self._run(operation, "reverse", limits)
        self.found.pop(id(operation), None)
        self.db["ops_checkpoints"].delete_many({"_id": {"$regex": f"^test/{id(operation)}/"}})
        return counts

    def _run(self, operation: Operation, direction: str, limits) -> Counts:
        base = f"test/{id(operation)}"
        walk = f"{base}/forward"
        with acquire(self.db, "test", Holder("tests")) as lease:
            batches = Batches(lease, limits)

            def run(collection, where, apply, digest, name="", end=None):
                step = Step(f"{base}/{direction}{name}", digest, collection, where)
                return batches.run(step, apply, end=end)

            def once(name, body):
                return lease.transaction(body)

            end = covered(self.db, walk)
            point = self.db["ops_checkpoints"].find_one({"_id": walk})
            finished = point is None or point["finished"]

            def bench(session):
                images = self.db[f"ops_before_test_{id(operation)}"]
                return Bench(self.db, session, self.found[id(operation)], run, once, lease.check, images, end, finished)

            act = operation.forward if direction == "forward" else operation.reverse
            if operation.mode is Mode.TRANSACTION:
                return lease.transaction(lambda session: act(bench(session)))
            return act(bench(None))
