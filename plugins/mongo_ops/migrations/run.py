"""One run of migrations: what it works with, and the two things it can do with a migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongo_ops.migrations import history
from mongo_ops.migrations.faults import MigrationRefusedError
from mongo_ops.migrations.forward import Forward
from mongo_ops.migrations.history import Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import MigrationFile, Outcome, State
from mongo_ops.migrations.reverse import Reverse
from mongo_ops.mongo.batches import Reporter, log_progress
from mongo_ops.mongo.lease import Lease
from mongo_ops.mongo.throttle import Limits

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


@dataclass(frozen=True)
class Run:
    """Everything a run works with: the target, its lease, on whose behalf, how gently, where snapshots go."""

    target: Target
    lease: Lease
    occasion: Occasion
    losses: Losses
    limits: Limits
    report: Reporter = log_progress

    def apply(self, file: MigrationFile) -> Outcome:
        """Apply one migration, or go on with it where it stopped.

        Raises:
            MongoOpsError: with what happened; the migration is recorded as failed unless the lease was lost.
        """
        record = history.load_one(self.target.db, file.name)
        if record is not None and record.state is State.APPLIED and not file.migration.run_always:
            if record.checksum != file.checksum:
                raise MigrationRefusedError(f"{file.name} is applied with another checksum; run `mongo-ops plan`.")
            return Outcome(file.name, "forward", {}, 0.0, already=True)
        return Forward(self, file, record).carry_out()

    def revert(self, file: MigrationFile) -> Outcome:
        """Undo one migration, or go on undoing it.

        Raises:
            MongoOpsError: with what happened; the migration is recorded as failed in reverse unless the lease was lost.
        """
        record = history.load_one(self.target.db, file.name)
        if record is None or record.state is State.ROLLED_BACK:
            return Outcome(file.name, "reverse", {}, 0.0, already=True)
        return Reverse(self, file, record).carry_out()
