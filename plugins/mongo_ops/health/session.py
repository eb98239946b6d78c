"""A whole run against an environment, step by step, for the command line and for the tasks of the DAG alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import pymongo
from pymongo.errors import PyMongoError

from mongo_ops.health import history
from mongo_ops.health.collect import kind_of, take
from mongo_ops.health.model import Check, Earlier, Result, Run
from mongo_ops.health.run import carry_out
from mongo_ops.health.sight import HealthGuard, Outside, Sight
from mongo_ops.health.snapshot import Snapshot
from mongo_ops.health.thresholds import Thresholds
from mongo_ops.health.verdict import judge

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import ConnectionSpec, Target

HISTORY_SECONDS = 10.0


@dataclass(frozen=True)
class Session:
    """An open environment, whose client goes through ``guard``, with its thresholds and what other features know."""

    target: Target
    spec: ConnectionSpec
    guard: HealthGuard
    thresholds: Thresholds
    outside: Outside

    def snapshot(self) -> Snapshot:
        """Take the facts."""
        return take(self.target, self.thresholds.sample_seconds)

    def look(self, snapshot: Snapshot, checks: Sequence[Check]) -> tuple[Result, ...]:
        """Carry the checks out."""
        db = self.target.db
        sight = Sight(
            self.target, self.spec, snapshot, self.guard, outside=self.outside, past=lambda *of: history.past(db, *of)
        )
        return carry_out(sight, checks, self.thresholds)

    def conclude(self, run_id: str, at: datetime, results: Sequence[Result], began: float) -> Run:
        """Compare with earlier runs. When the history cannot be read, everything is new and a note says so."""
        notes: tuple[str, ...] = ()
        known: dict[str, Earlier] = {}
        try:
            with pymongo.timeout(HISTORY_SECONDS):
                known = history.earlier(self.target.db, [result.check for result in results], at)
        except PyMongoError as error:
            notes = (f"The history could not be read ({kind_of(error)}): everything counts as new.",)
        return Run(
            run_id, self.target.environment.name, self.target.database, at, tuple(results),
            judge(results, known, self.thresholds.mutes, at), self.guard.commands, time.monotonic() - began, notes,
        )  # fmt: skip

    def run(self, run_id: str, checks: Sequence[Check]) -> Run:
        """Do all of it."""
        began = time.monotonic()
        snapshot = self.snapshot()
        return self.conclude(run_id, snapshot.taken_at, self.look(snapshot, checks), began)


def record(target: Target, run: Run, thresholds: Thresholds) -> Run:
    """Store a run through a client that may write; return it with a note when that failed, so that the report is made all the same."""
    try:
        with pymongo.timeout(HISTORY_SECONDS):
            history.record(target.db, run, thresholds.history_days)
    except PyMongoError as error:
        return replace(run, notes=(*run.notes, f"The history could not be written ({kind_of(error)})."))
    return run
