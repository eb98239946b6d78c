"""mongo-ops as the engine sees itself: what the CLI and an Airflow task do once they run and are connected."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import Server
from mongo_ops.migrations import engine
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.plan import Plan
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.mongo.lease import Holder
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder


@dataclass(frozen=True)
class Times:
    """Where the engine's seconds went: reading and planning, opening the run, working, closing it."""

    plan: float
    open: float
    work: float
    close: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.plan + self.open + self.work + self.close


@dataclass(frozen=True)
class Engine:
    """An include folder and a storage folder for what rollbacks put aside."""

    include: Path
    storage: Path

    @contextmanager
    def connected(self, server: Server, database: str) -> Iterator[Target]:
        """Yield a connected target. Connecting is not part of any time here."""
        logging.getLogger("mongo_ops").setLevel(logging.ERROR)
        spec = ConnectionSpec("benchmark", server.uri, f"127.0.0.1:{server.port}", database)
        with connect(spec, Environment("development", "benchmark", database=database)) as target:
            yield target

    def migrate(self, target: Target) -> Times:
        """Apply what is pending. Nothing pending ends after the plan, as in the CLI."""
        began = time.perf_counter()
        facts = engine.survey(target, self.include)
        plan = engine.plan_forward(target, facts)
        if not plan.steps:
            return Times(time.perf_counter() - began, 0.0, 0.0, 0.0)
        return self._carry_out(target, facts, plan, began)

    def roll_back(self, target: Target) -> Times:
        """Undo everything, putting aside what is lost."""
        began = time.perf_counter()
        facts = engine.survey(target, self.include)
        return self._carry_out(target, facts, engine.plan_reverse(target, facts, "0"), began)

    def _carry_out(self, target: Target, facts: engine.Survey, plan: Plan, began: float) -> Times:
        occasion = Occasion(Actor("benchmark", "os"), "benchmark", plan.digest)
        planned = time.perf_counter()
        with engine.open_run(
            target, occasion, Losses(open_folder(self.storage.as_uri())), holder=Holder("benchmark")
        ) as run:
            opened = time.perf_counter()
            for _ in (engine.apply_all if plan.direction == "forward" else engine.revert_all)(run, facts, plan.names):
                pass
            worked = time.perf_counter()
        closed = time.perf_counter()
        return Times(planned - began, opened - planned, worked - opened, closed - worked)
