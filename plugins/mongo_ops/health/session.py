"""A whole run against an environment, step by step, for the command line and for the tasks of the DAG alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pymongo
from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from mongo_ops.health import history
from mongo_ops.health.collect import kind_of, take
from mongo_ops.health.model import Check, Earlier, Result, Run
from mongo_ops.health.run import carry_out
from mongo_ops.health.sight import HealthGuard, Outside, Sight
from mongo_ops.health.snapshot import Snapshot
from mongo_ops.health.thresholds import Thresholds
from mongo_ops.health.verdict import judge
from mongo_ops.mongo.connection import DEFAULT_DATABASE, ServerUnreachableError, Target, client_options, connect

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.connection import ConnectionSpec
    from mongo_ops.mongo.documents import Document
    from mongo_ops.settings import Environment

HISTORY_SECONDS, ANYBODY_SECONDS = 10.0, 2.0


@contextmanager
def reach(spec: ConnectionSpec, environment: Environment, guard: HealthGuard) -> Iterator[Target]:
    """Yield a target that can only read, also of a replica set without a primary: that is what somebody has to be told of.

    Raises:
        InvalidConnectionError, CredentialsRefusedError, StandaloneServerError, ServerUnreachableError: as ``connect`` does.
    """
    with ExitStack() as stack:
        try:
            target = stack.enter_context(connect(spec, environment, listeners=(guard,)))
        except ServerUnreachableError:
            client: MongoClient[Document] = MongoClient(
                spec.uri, **client_options(spec.options), event_listeners=[guard]
            )
            stack.enter_context(client)
            with suppress(PyMongoError), pymongo.timeout(ANYBODY_SECONDS):
                client.admin.command("hello", read_preference=ReadPreference.SECONDARY_PREFERRED)
            if not client.nodes:
                raise
            target = Target(environment, client, environment.database or spec.database or DEFAULT_DATABASE)
        yield target


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

    def run(self, run_id: str, checks: Sequence[Check]) -> Run:
        """Do all of it."""
        began = time.monotonic()
        snapshot = self.snapshot()
        made = conclude(run_id, snapshot, self.look(snapshot, checks), self.thresholds, self.target.db)
        return replace(made, commands=self.guard.commands, seconds=time.monotonic() - began)


def conclude(
    run_id: str, snapshot: Snapshot, results: Sequence[Result], thresholds: Thresholds, db: Database[Document] | None
) -> Run:
    """Compare with earlier runs. When the history cannot be read (``db`` is None: no server), everything is new and a note says so."""
    known: Mapping[str, Earlier] = {}
    why = "no server" if db is None else ""
    try:
        with pymongo.timeout(HISTORY_SECONDS):
            known = {} if db is None else history.earlier(db, [one.check for one in results], snapshot.taken_at)
    except PyMongoError as error:
        why = kind_of(error)
    notes = (f"The history could not be read ({why}): everything counts as new.",) if why else ()
    judged = judge(results, known, thresholds.mutes, snapshot.taken_at)
    return Run(run_id, snapshot.environment, snapshot.database, snapshot.taken_at, tuple(results), judged, notes=notes)


def record(target: Target, run: Run, thresholds: Thresholds) -> Run:
    """Store a run through a client that may write; return it with a note when that failed, so that the report is made all the same."""
    try:
        with pymongo.timeout(HISTORY_SECONDS):
            history.record(target.db, run, thresholds.history_days)
    except PyMongoError as error:
        return replace(run, notes=(*run.notes, f"The history could not be written ({kind_of(error)})."))
    return run
