"""The ways out of a state: correct what the database remembers about a migration, without running anything.

Every correction is made under the migrations' lease, needs a reason, and is one transaction together with its history event and
its audit entry. It never touches a document of the application. What each state allows:

==============================  =====================================  ==============  ==============================
state                           goes on by itself with                 mark applied    mark pending
==============================  =====================================  ==============  ==============================
pending, rolled_back            ``migrate``, ``baseline``              yes, baseline   refused: it is pending
running (its process is gone)   ``migrate``, ``rollback --failed``     yes             yes
failed, interrupted             ``migrate``, ``rollback --failed``     yes             yes
rolling_back, or failed on it   ``rollback --failed``                  yes             yes
applied                         ``rollback``                           refused         refused: roll it back
applied, file edited            the file as it was                     yes             refused: as above
applied, file gone              the file, or ``rollback``              refused         when its source cannot be used
applied, cannot be rolled back  (irreversible, or a baseline)          when edited     yes
==============================  =====================================  ==============  ==============================

What is marked as applied counts as a baseline, which no rollback undoes, unless all its operations ran here as the file has them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mongo_ops import audit
from mongo_ops.errors import PlanError
from mongo_ops.migrations import history
from mongo_ops.migrations import plan as planner
from mongo_ops.migrations.discover import MigrationFileError, load_source
from mongo_ops.migrations.model import UNRESOLVED, MigrationFile, Record, State
from mongo_ops.migrations.passage import audit_entry
from mongo_ops.mongo.batches import CHECKPOINTS

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.migrations.run import Run

SHORTEST_REASON = 5


class ReasonMissingError(PlanError):
    """A correction gives no reason."""


class NotResolvableError(PlanError):
    """A migration may not be marked so from the state it is in."""

    def __init__(self, name: str, state: State, problem: str) -> None:
        super().__init__(name, state, problem)
        self.name, self.state, self.problem = name, state, problem

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


@dataclass(frozen=True)
class Resolution:
    """What was corrected.

    ``images`` names the collections with before-images that a half-done migration left behind. They are kept, since they may be
    the only copy of what was there; drop them once nobody needs them, and remember that they hold what the documents held.
    """

    name: str
    was: State
    now: State
    baseline: bool = False
    images: tuple[str, ...] = ()


def mark(run: Run, migration: MigrationFile | str, as_state: Literal["applied", "pending"], reason: str) -> Resolution:
    """Record that a migration really is applied, or really is not.

    Args:
        run: holds the lease.
        migration: its file; its name when the file is gone.
        as_state: what the database really is like; nothing checks that but the person who says it.
        reason: goes into the history and the audit log; at least five characters, and no person's name.

    Raises:
        ReasonMissingError, NotResolvableError: nothing was written.
    """
    run = _because(run, reason)
    name = migration if isinstance(migration, str) else migration.name
    images = _images(run, name)

    def body(session: ClientSession) -> Resolution:
        record = history.load_one(run.target.db, name, session)
        was = record.state if record is not None else State.PENDING
        if as_state == "pending":
            refuse_pending(name, record, migration)
            fields, done = _as_pending(record), Resolution(name, was, State.PENDING, images=images)
        else:
            file = refuse_applied(name, record, migration)
            fields = _as_applied(file, record)
            done = Resolution(name, was, State.APPLIED, fields["baseline"], images if was in UNRESOLVED else ())
        _write(run, session, done, fields, {"checksum": fields.get("checksum", record.checksum if record else None)})
        return done

    return run.lease.transaction(body)


def baseline(run: Run, files: Sequence[MigrationFile], up_to: str, reason: str) -> tuple[Resolution, ...]:
    """Record every pending migration up to a version as applied, without running it; return those recorded.

    For a database that already is as these files would make it. Those of other environments, and repeatable ones, are left out.

    Raises:
        ReasonMissingError: no reason was given.
        UnknownVersionError: no file has that version.
        NotResolvableError: a migration stopped half-way; resolve that first.
    """
    last = planner.version_number(up_to)
    if last not in {int(file.version) for file in files}:
        raise planner.UnknownVersionError(f"There is no migration {up_to} to baseline up to.")
    mine = [f for f in files if f.migration.applies_to(run.target.environment.name) and not f.migration.run_always]
    return record_all(run, [(file, {}) for file in mine if int(file.version) <= last], reason)


def record_all(
    run: Run, chosen: Sequence[tuple[MigrationFile, Mapping[str, Any]]], reason: str
) -> tuple[Resolution, ...]:
    """Record the chosen migrations as applied in the given order, those that are applied already left out; all or none.

    Args:
        run: holds the lease.
        chosen: each file with further facts for its history event.
        reason: goes into the history and the audit log.

    Raises:
        ReasonMissingError, NotResolvableError: nothing was written.
    """
    run = _because(run, reason)

    def body(session: ClientSession) -> tuple[Resolution, ...]:
        found = run.target.db[history.MIGRATIONS].find({}, {"state": 1, "application": 1}, session=session)
        records = {doc["_id"]: (State(doc["state"]), int(doc.get("application", 0))) for doc in found}
        for name, (state, _) in records.items():
            if state in UNRESOLVED:
                raise NotResolvableError(name, state, f"is {state}. Resume it, roll it back or mark it first.")
        made: list[Resolution] = []
        for file, facts in chosen:
            was, application = records.get(file.name, (State.PENDING, 0))
            if was is not State.APPLIED:
                done = Resolution(file.name, was, State.APPLIED, baseline=True)
                told = {"checksum": file.checksum, **facts}
                fields = _as_applied(file, None) | {"application": application}  # never take up old checkpoints
                _write(run, session, done, fields, told, event="baselined")
                made.append(done)
        return tuple(made)

    return run.lease.transaction(body)


def refuse_pending(name: str, record: Record | None, migration: MigrationFile | str) -> None:
    """Refuse to mark as pending what is pending, or what a rollback would undo properly.

    Raises:
        NotResolvableError: says what to do instead.
    """
    if record is None or record.state is State.ROLLED_BACK:
        raise NotResolvableError(name, State.PENDING, "is pending already.")
    if record.state is State.APPLIED and not record.baseline and _can_roll_back(record, migration):
        edited = isinstance(migration, MigrationFile) and migration.checksum != record.checksum
        first = "restore its file as it was, then " if edited else ""
        raise NotResolvableError(
            name,
            record.state,
            f"is applied and can be undone, which marking would not do: {first}run `mongo-ops rollback`.",
        )


def refuse_applied(name: str, record: Record | None, migration: MigrationFile | str) -> MigrationFile:
    """Refuse to mark as applied what is applied from this very file, or what has no file; return the file.

    Raises:
        NotResolvableError: says what to do instead.
    """
    state = record.state if record is not None else State.PENDING
    if isinstance(migration, str):
        raise NotResolvableError(name, state, "has no file. Bring it back first: what is applied must have one.")
    if record is not None and state is State.APPLIED and record.checksum == migration.checksum:
        raise NotResolvableError(name, state, "is applied already, from this very file.")
    return migration


def _can_roll_back(record: Record, migration: MigrationFile | str) -> bool:
    try:
        file = load_source(record) if isinstance(migration, str) else migration
    except MigrationFileError:
        return False
    return file.migration.why_irreversible() is None


def _as_pending(record: Record | None) -> dict[str, Any]:
    application = record.application if record is not None else 0
    fields: dict[str, Any] = {"state": State.ROLLED_BACK.value, "direction": "reverse", "order": 0, "operations": []}
    return fields | {"application": application, "baseline": False, "error": None}


def _as_applied(file: MigrationFile, record: Record | None) -> dict[str, Any]:
    """Return the state document's fields; the order stays when it was applied before."""
    now = [op.digest() for op in file.migration.operations]
    ran = [op.digest for op in record.operations if op.state == "done"] if record is not None else []
    begun = record is not None and record.state is not State.ROLLED_BACK and not record.baseline
    kept = history.operation_documents(record.operations) if record is not None and begun else []
    fields: dict[str, Any] = {"state": State.APPLIED.value, "direction": "forward", "error": None}
    fields["operations"] = kept or history.fresh_operations(file)
    fields["baseline"] = not (begun and ran == now)
    fields |= {"checksum": file.checksum, "source": file.source, "tags": list(file.migration.tags)}
    fields["helpers"] = [{"path": path, "source": source} for path, source in file.helpers.items()]
    fields["application"] = record.application if record is not None else 0
    return fields | ({"order": record.order} if record is not None and record.state is State.APPLIED else {})


def _write(
    run: Run,
    session: ClientSession,
    done: Resolution,
    fields: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    event: str = "marked",
) -> None:
    """Write state, history event and audit entry of one correction."""
    db, name, occasion = run.target.db, done.name, run.occasion
    values = {**fields, "epoch": run.lease.epoch, "run_id": occasion.run_id}
    if done.now is State.APPLIED:
        values.setdefault("order", history.next_order(db, session))
    now = ("applied_at",) if done.now is State.APPLIED and done.was is not State.APPLIED else ()
    history.save(db, session, name, values, now)
    if done.now is State.PENDING:
        base = f"{name}.{fields['application']}"
        db[CHECKPOINTS].delete_many({"_id": {"$gte": f"{base}/", "$lt": f"{base}0"}}, session=session)
    told = {"was": done.was.value, "now": done.now.value, "baseline": done.baseline, **facts}
    told["images_kept"] = list(done.images)
    history.append(db, session, [history.event(name, event, occasion, epoch=run.lease.epoch, **told)])
    environment = run.target.environment.name
    audit.append(db, session, audit_entry(environment, occasion, name, f"migration.{event}", "done", told))


def _because(run: Run, reason: str) -> Run:
    """Return the run with the reason for the correction."""
    if len(reason.strip()) < SHORTEST_REASON:
        raise ReasonMissingError("Give a reason of a few words, for the history and the audit log. Name no person.")
    return dataclasses.replace(run, occasion=dataclasses.replace(run.occasion, reason=reason.strip()))


def _images(run: Run, name: str) -> tuple[str, ...]:
    found = run.target.db.list_collection_names(filter={"name": {"$regex": f"^ops_before_{re.escape(name)}\\."}})
    return tuple(sorted(found))
