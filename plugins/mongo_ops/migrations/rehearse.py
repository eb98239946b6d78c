"""Rehearse: the pending migrations up, down and up again on a sampled copy, in a scratch database of the same deployment.

Each migration in turn is applied, undone (which must give the documents and definitions from before) and applied again (which must
give those from after). Since each down leads back exactly, the whole set does. A migration that cannot be undone is named and goes
up only. The real database is only read, through a client that cannot write.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations import engine, history, picture
from mongo_ops.migrations import scratch as copies
from mongo_ops.migrations.engine import Survey
from mongo_ops.migrations.failing import Failure, Search
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import UNRESOLVED, MigrationFile, Outcome, Record
from mongo_ops.migrations.operations.run_python import RunPython
from mongo_ops.migrations.scratch import Copied
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.connection import connect
from mongo_ops.mongo.guard import ReadOnlyGuard, WriteRefusedError
from mongo_ops.mongo.lease import Holder
from mongo_ops.storage import open_folder

if TYPE_CHECKING:
    from mongo_ops.migrations.run import Run
    from mongo_ops.mongo.batches import Progress
    from mongo_ops.mongo.connection import ConnectionSpec, Target
    from mongo_ops.settings import Environment

SAMPLE = 1_000
SHOWN = 20


@dataclass(frozen=True)
class Rehearsed:
    """One migration's part. ``up``, ``down`` and ``again`` are ``done``, ``failed``, ``differs``, ``skipped`` or ``not reached``."""

    name: str
    up: str = "not reached"
    down: str = "not reached"
    again: str = "not reached"
    irreversible: str | None = None
    resumes: bool = False
    error: str | None = None
    differences: tuple[picture.Difference, ...] = ()
    failures: tuple[Failure, ...] = ()
    truncated: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all that can be done with it went well."""
        return self.up == "done" and self.down in ("done", "skipped") and self.again in ("done", "skipped")


@dataclass(frozen=True)
class Stop:
    """Why a migration did not get through; ``refused`` when it tried to write outside of the scratch database."""

    error: str
    refused: bool = False


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found. ``sampled`` says by collection how many documents were copied, of about how many."""

    environment: str
    database: str
    migrations: tuple[Rehearsed, ...]
    sampled: Mapping[str, Copied]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every migration went well."""
        return all(migration.ok for migration in self.migrations)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every document that a migration could not take."""
        return tuple(failure for migration in self.migrations for failure in migration.failures)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values: no value of a document, ``_id`` hashed unless it is an ObjectId, a UUID or an integer."""
        migrations = [{**dataclasses.asdict(migration), "ok": migration.ok} for migration in self.migrations]
        sampled = {name: dataclasses.asdict(copied) for name, copied in self.sampled.items()}
        head = {"environment": self.environment, "database": self.database, "ok": self.ok, "seconds": self.seconds}
        return {**head, "sampled": sampled, "migrations": migrations}

    def as_text(self) -> str:
        """Return it for a terminal."""
        if not self.migrations:
            return f"Nothing to rehearse on {self.environment} ({self.database})."
        copied = (
            ", ".join(f"{name} {one.documents:,} of {one.total:,}" for name, one in self.sampled.items())
            or "no documents"
        )
        lines = [f"Rehearsal of {len(self.migrations)} migrations on a copy of {self.environment} ({copied})", ""]
        lines += [line for migration in self.migrations for line in _lines(migration)]
        return "\n".join([*lines, "", f"{'All went well' if self.ok else 'NOT ready'} ({self.seconds:.1f} s)"])


def _lines(migration: Rehearsed) -> list[str]:
    mark = "ok  " if migration.ok else "FAIL"
    lines = [f"{mark} {migration.name:<44} up {migration.up}, down {migration.down}, up again {migration.again}"]
    lines += [f"       cannot be undone: {migration.irreversible}"] if migration.irreversible else []
    lines += ["       resumes a half-done run, so what was there before it is not known"] if migration.resumes else []
    lines += [f"       {migration.error}"] if migration.error else []
    lines += [f"       {difference}" for difference in migration.differences]
    lines += [
        f"       {failure.collection} {failure.document}: {failure.reason}" for failure in migration.failures[:SHOWN]
    ]
    rest = len(migration.failures) - SHOWN
    return [*lines, *([f"       and {rest:,} more{' at least' if migration.truncated else ''}"] if rest > 0 else [])]


def rehearse(
    spec: ConnectionSpec,
    environment: Environment,
    include: Path,
    *,
    version: str | None = None,
    allow_out_of_order: bool = False,
    sample: int | None = SAMPLE,
) -> Rehearsal:
    """Rehearse what ``migrate`` would do now.

    Args:
        spec: how to reach the deployment; the user must be able to make a database ``<database>_rehearsal_<8 hex digits>``.
        environment: whose database.
        include: the folder above ``migrations``.
        version: up to which migration; None for all.
        allow_out_of_order: as for the plan.
        sample: documents copied per collection that the migrations name; None copies every collection wholly.

    Raises:
        PlanError: there is no valid plan.
        ScratchRefusedError: the user may not make the scratch database.
    """
    began = time.monotonic()
    with connect(spec, environment, listeners=(ReadOnlyGuard(),)) as source:
        facts = engine.survey(source, include)
        plan = engine.plan_forward(source, facts, version=version, allow_out_of_order=allow_out_of_order)
        files = [facts.file(name) for name in plan.names]
        done: list[Rehearsed] = []
        sampled: Mapping[str, Copied] = {}
        if files:
            with copies.opened(spec, environment, source.database) as (scratch, trial):
                copies.sweep(scratch.client, source.database)
                sampled = _copy(source, scratch, facts, files, sample)
                done = _all(scratch, trial, facts, files)
    return Rehearsal(environment.name, source.database, tuple(done), sampled, round(time.monotonic() - began, 3))


def collections_of(files: Sequence[MigrationFile]) -> tuple[str, ...] | None:
    """Return the collections that the migrations read, write or set conditions on; None when one does not say which."""
    migrations = [file.migration for file in files]
    if any(isinstance(op, RunPython) and not op.collections for migration in migrations for op in migration.operations):
        return None
    named = [name for file in files for name in (*file.writes(), *file.reads())]
    conditions = [condition for migration in migrations for condition in (*migration.requires, *migration.ensures)]
    named += [str(getattr(condition, "collection", "")) for condition in conditions]
    return tuple(dict.fromkeys(name for name in named if name and not name.startswith("ops_")))


def _copy(
    source: Target, scratch: Target, facts: Survey, files: Sequence[MigrationFile], sample: int | None
) -> dict[str, Copied]:
    """Copy what the migrations work on, and what the database remembers about them."""
    names = collections_of(files) if sample is not None else None
    if names is None:
        names = tuple(n for n in source.db.list_collection_names() if not n.startswith(("ops_", "system.")))
    copied = {name: copies.copy(source.db, scratch.db, name, sample) for name in sorted(names)}
    engine.prepare(scratch)
    copies.insert(copies.raw(scratch.db, history.MIGRATIONS), copies.raw(source.db, history.MIGRATIONS).find())
    halves = [record for record in facts.records if record.state in UNRESOLVED]
    for record in halves:
        _copy_progress(source, scratch, record, facts.file(record.name))
    return {name: one for name, one in copied.items() if one is not None}


def _copy_progress(source: Target, scratch: Target, record: Record, file: MigrationFile) -> None:
    """Copy a half-done migration's checkpoints, and its before-images of the documents that were copied."""
    base = f"{record.name}.{record.application}"
    mine = {"_id": {"$gte": f"{base}/", "$lt": f"{base}0"}}
    copies.insert(copies.raw(scratch.db, CHECKPOINTS), copies.raw(source.db, CHECKPOINTS).find(mine))
    for index, operation in enumerate(file.migration.operations):
        images = f"ops_before_{base}.{index}"
        if not copies.define(source.db, scratch.db, images):
            continue
        for name in operation.writes():
            for some in copies.chunks(copies.raw(scratch.db, name).find({}, {"_id": 1})):
                there = {"_id": {"$in": [one["_id"] for one in some]}}
                copies.insert(copies.raw(scratch.db, images), copies.raw(source.db, images).find(there))


def _all(scratch: Target, trial: Target, facts: Survey, files: Sequence[MigrationFile]) -> list[Rehearsed]:
    """Rehearse one migration after the other; what comes after one that does not go up is not reached."""
    done: list[Rehearsed] = []
    occasion = Occasion(Actor("rehearsal", "system"), scratch.database)
    with tempfile.TemporaryDirectory(prefix="mongo-ops-rehearsal-") as folder:
        losses = Losses(open_folder(Path(folder).as_uri()))
        with engine.open_run(scratch, occasion, losses, holder=Holder(scratch.database), report=_quietly) as run:
            for file in files:
                record = facts.record(file.name)
                resumes = record is not None and record.state in UNRESOLVED
                reached = all(one.up == "done" and one.again in ("done", "skipped", "differs") for one in done)
                done.append(_one(run, trial, file, resumes=resumes) if reached else Rehearsed(file.name))
    return done


def _one(run: Run, trial: Target, file: MigrationFile, *, resumes: bool) -> Rehearsed:
    """Take one migration up, down and up again."""
    began, db = time.monotonic(), run.target.db
    found = Rehearsed(file.name, irreversible=file.migration.why_irreversible(), resumes=resumes)
    before = picture.take(db)
    outcome = _tried(lambda: run.apply(file))
    if isinstance(outcome, Stop):
        search = Search(db, trial.db, file, history.load_one(db, file.name))
        failures = () if outcome.refused else search.run()
        found = dataclasses.replace(
            found, up="failed", error=outcome.error, failures=failures, truncated=search.truncated
        )
        return dataclasses.replace(found, seconds=round(time.monotonic() - began, 3))
    after = picture.take(db)
    found = dataclasses.replace(found, up="done", counts=dict(outcome.counts))
    if found.irreversible is not None:
        found = dataclasses.replace(found, down="skipped", again="skipped")
    else:
        found = _there_and_back(run, file, found, before, after)
    picture.forget(db, before, after)
    return dataclasses.replace(found, seconds=round(time.monotonic() - began, 3))


def _there_and_back(
    run: Run,
    file: MigrationFile,
    found: Rehearsed,
    before: Mapping[str, picture.Face],
    after: Mapping[str, picture.Face],
) -> Rehearsed:
    """Undo it, which must lead back to ``before``; apply it again, which must lead to ``after``."""
    db = run.target.db
    undone = _tried(lambda: run.revert(file))
    if isinstance(undone, Stop):
        return dataclasses.replace(found, down="failed", error=undone.error)
    back = picture.take(db)
    different = () if found.resumes else picture.differences(db, before, back)
    again = _tried(lambda: run.apply(file))
    if isinstance(again, Stop):
        return dataclasses.replace(found, down="done", again="failed", error=again.error, differences=different)
    twice = picture.take(db)
    other = picture.differences(db, after, twice)
    picture.forget(db, back, twice)
    down, up = ("differs" if different else "done"), ("differs" if other else "done")
    return dataclasses.replace(found, down=down, again=up, differences=(*different, *other))


def _tried(act: Callable[[], Outcome]) -> Outcome | Stop:
    """Do something; return what came of it, or why it failed."""
    try:
        return act()
    except MongoOpsError as error:
        return Stop(str(error))
    except WriteRefusedError as error:
        return Stop(f"The rehearsal refused it: {error.command} reaches {error.collection}.", refused=True)


def _quietly(progress: Progress) -> None:
    del progress
