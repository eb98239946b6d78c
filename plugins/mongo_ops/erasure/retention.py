"""How long documents are kept: nightly, what the data map gives a period goes when the period is over. The same care as an erasure.

Documents under a legal hold stay, and so does what belongs to a person who is held or whose own request is open. Exactly-once batches;
a kill at any instant and a retry give the result as if nothing had happened. What a person asks for is the business of other rooms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from mongo_ops.erasure import holds, ledger, periods, register, survey
from mongo_ops.erasure.changes import transform
from mongo_ops.erasure.forms import Index
from mongo_ops.erasure.model import BlastRadius, DataMap, Retention
from mongo_ops.erasure.paths import ELEMENTS, plain
from mongo_ops.erasure.plan import PlanChangedError
from mongo_ops.erasure.protection import Protection, protection
from mongo_ops.erasure.run import EXECUTING, RESULTS, RUNS
from mongo_ops.erasure.selectors import conditions
from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo.batches import CHECKPOINTS, Batches, Counts, Step
from mongo_ops.mongo.documents import digest
from mongo_ops.mongo.throttle import Limits

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

PREFIX = "et"


class TooMuchDueError(PlanError):
    """A rule would take a larger share of a collection than a night may."""


class HoldsChangedError(RunError):
    """A hold was placed or released; what is protected must be looked up again."""


@dataclass(frozen=True, slots=True)
class Due:
    """What one rule of the data map would do now.

    ``before`` is the moment of ``start`` up to which documents go; ``held`` of the ``documents`` are under a hold on documents;
    ``undated`` have no date at ``start``, so they never become due. ``stops`` says why it is not carried out.
    """

    id: str
    collection: str
    action: str
    before: datetime
    documents: int
    held: int = 0
    undated: int = 0
    stops: str = ""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What a night will do. ``at`` is its moment, the same for all its steps; ``notes`` are for a person to read."""

    run_id: str
    environment: str
    database: str
    at: datetime
    due: tuple[Due, ...]
    map_digest: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Binds what will be done: the rules, the moment, the place."""
        named = {"environment": self.environment, "database": self.database, "map": self.map_digest, "at": self.at}
        return digest({**named, "rules": [one.id for one in self.due], "run": self.run_id})

    def as_value(self) -> dict[str, Any]:
        """Return it for what passes between tasks."""
        value = asdict(self)
        due = [{**one, "before": one["before"].isoformat()} for one in value["due"]]
        return {**value, "at": self.at.isoformat(), "due": due}

    @classmethod
    def of_value(cls, value: Mapping[str, Any]) -> RetentionPlan:
        """Return what ``as_value`` gave."""
        due = tuple(Due(**{**one, "before": datetime.fromisoformat(one["before"])}) for one in value["due"])
        rest = {"at": datetime.fromisoformat(value["at"]), "due": due, "notes": tuple(value["notes"])}
        return cls(**{**value, **rest})


# Plan ---------------------------------------------------------------------------------------------------------------------


def plan(engine: Engine, *, only: bool = False, at: datetime | None = None) -> RetentionPlan:
    """Count what is due; unless ``only``, remember the run, so that all its steps and retries share one moment."""
    db, data_map = engine.target.db, engine.data_map
    known = db[RUNS].find_one({"kind": "retention", "run_id": engine.run_id})
    moment = known["begun_at"] if known else (at or datetime.now(UTC)).replace(microsecond=0)
    run = known["_id"] if known else register.new_id(PREFIX)
    held = holds.active(db)
    due = tuple(_due(db, one, moment, held, data_map.limits) for one in entries(data_map))
    made = RetentionPlan(
        run,
        engine.target.environment.name,
        engine.target.database,
        moment,
        due,
        data_map.digest,
        tuple(_notes(db, data_map)),
    )
    if not only and known is None:
        facts = {"kind": "retention", "run_id": engine.run_id, "begun_at": moment, "state": EXECUTING}
        db[RUNS].insert_one(
            {"_id": run, **facts, "map_digest": data_map.digest, "plan_digest": made.digest, "done": []}
        )
    return made


def entries(data_map: DataMap) -> tuple[Retention, ...]:
    """Return the retention rules of a map, by id."""
    found = (one for entry in data_map.collections.values() for one in entry.retention)
    return tuple(sorted(found, key=lambda one: one.id))


def query_of(one: Retention, at: datetime) -> dict[str, Any]:
    """Return the filter of what is over: a date at ``start`` before the period, and what the rule demands besides."""
    over = {plain(one.start): {"$lt": periods.before(at, one.period)}}
    demanded = conditions(one.where) if one.where else {}
    return {"$and": [over, demanded]} if demanded else over


def _due(db: Database[Document], one: Retention, at: datetime, held: holds.Holds, limits: BlastRadius) -> Due:
    before = periods.before(at, one.period)
    documents = under_hold = undated = 0
    stops = ""
    if ELEMENTS in one.start:
        stops = f"{one.start} leads through an array: which of several dates counts? Name a field of the document (data_map.yaml)."
    for name in names(db, one) if not stops else ():
        query, free = query_of(one, at), held.exclusion(name)
        number = db[name].count_documents(query)
        documents += number
        under_hold += number - db[name].count_documents({"$and": [query, free]}) if free else 0
        undated += db[name].count_documents({**conditions(one.where), plain(one.start): {"$not": {"$type": "date"}}})
        total = db[name].estimated_document_count()
        if total >= survey.LARGE and number > limits.share * total:
            stops = f"{number:,} of {total:,} documents of {name} are due, above the limit of {100 * limits.share:.0f} % (data_map.yaml, limits)."
    return Due(one.id, one.collection, one.action, before, documents, under_hold, undated, stops)


def names(db: Database[Document], one: Retention) -> list[str]:
    """Return the collections that a retention rule means and that can be walked."""
    infos = db.list_collections(filter={"type": "collection"})
    found = (str(info["name"]) for info in infos if not info.get("options", {}).get("capped"))
    wanted = one.collection.removesuffix("*")
    fits = (
        name for name in found if name == one.collection or (one.collection.endswith("*") and name.startswith(wanted))
    )
    return sorted(fits)


def _notes(db: Database[Document], data_map: DataMap) -> Iterator[str]:
    """Say where the server itself deletes by age: it asks no hold and leaves no evidence."""
    there = set(db.list_collection_names())
    for name in sorted({one.collection for one in entries(data_map)} & there):
        if any("expireAfterSeconds" in index for index in db[name].list_indexes()):
            yield f"{name} has a TTL index: the server deletes there without asking for legal holds. Use one only where nothing can be held."


# Run ----------------------------------------------------------------------------------------------------------------------


def carry_out(engine: Engine, plan: RetentionPlan, entry_id: str, *, beyond_limits: bool = False) -> int:
    """Carry one rule out; return how many documents it deleted or changed in this run, all tries together.

    Raises:
        TooMuchDueError: the share is above the limit and ``beyond_limits`` is not given; nothing was done.
        PlanChangedError: the data map was edited since; nothing more was done.
    """
    if plan.map_digest != engine.data_map.digest:
        raise PlanChangedError("The data map was edited after the plan was made. Start a new run.")
    due = next(one for one in plan.due if one.id == entry_id)
    if due.stops and (not beyond_limits or not due.documents):
        raise TooMuchDueError(
            f"{entry_id}: {due.stops} Nothing was done. If that is right, run once beyond the limits; if not, mend the rule."
        )
    db, one = engine.target.db, next(one for one in entries(engine.data_map) if one.id == entry_id)
    with engine.lease(f"retention.{entry_id}") as lease:
        for name in names(db, one):
            while not _passed(engine, plan, one, name, lease):
                pass
        return _done(db, plan, one, lease)


def _passed(engine: Engine, plan: RetentionPlan, one: Retention, name: str, lease: Lease) -> bool:
    """Walk one collection; say whether it came to the end. It does not when a hold comes: then it begins anew with it."""
    db = engine.target.db
    query = query_of(one, plan.at)
    if db[name].find_one(query, {"_id": 1}) is None:
        return True
    passage = Passage(engine, plan, one, name, protection(engine, name))
    at = engine.target.environment
    limits = Limits(max_lag=at.max_lag, batch_seconds=at.batch_seconds, budget=at.budget)
    step = Step(f"retention/{plan.run_id}/{one.id}/{name}/{passage.protected.holds[:16]}", plan.digest, name, query)
    try:
        Batches(lease, limits, engine.report).run(step, passage.treat)
    except HoldsChangedError:
        return False
    return True


@dataclass(frozen=True)
class Passage:
    """One rule in one collection, with who is protected there."""

    engine: Engine
    plan: RetentionPlan
    retention: Retention
    collection: str
    protected: Protection

    def treat(self, session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        """Delete or change the documents of a batch that nothing protects."""
        db = self.engine.target.db
        held = holds.active(db, session)
        if held.digest != self.protected.holds:
            raise HoldsChangedError("A legal hold was placed or released; looking again at what is protected.")
        free = held.exclusion(self.collection)
        query = {"$and": [selected, free]} if free else dict(selected)
        found = self.protected.free(db, self.collection, query, session)
        done = self._delete(found, session) if self.retention.action == "delete" else self._change(found, session)
        if done:
            tallied = {
                "run": self.plan.run_id,
                "rule": self.retention.id,
                "collection": self.collection,
                "documents": done,
            }
            db[RESULTS].insert_one({**tallied, "counts": []}, session=session)
        deleted = done if self.retention.action == "delete" else 0
        return Counts(matched=len(found), modified=done - deleted, deleted=deleted)

    def _delete(self, found: Sequence[Any], session: ClientSession) -> int:
        collection = self.engine.target.db[self.collection]
        return collection.delete_many({"_id": {"$in": list(found)}}, session=session).deleted_count if found else 0

    def _change(self, found: Sequence[Any], session: ClientSession) -> int:
        collection = self.engine.target.db[self.collection]
        writes = []
        for document in collection.find({"_id": {"$in": list(found)}}, session=session):
            update = transform(document, self.retention.changes, self._nobody, {}, str)
            if update is not None:
                writes.append(UpdateOne({"_id": document["_id"]}, update))
        if writes:
            collection.bulk_write(writes, ordered=False, bypass_document_validation=True, session=session)
        return len(writes)

    @cached_property
    def _nobody(self) -> Index:
        return Index(self.engine.data_map.identifiers)


def done_by(db: Database[Document], run: str, rule: str) -> int:
    """Return how many documents a rule has deleted or changed in a run."""
    return sum(int(one["documents"]) for one in db[RESULTS].find({"run": run, "rule": rule}, {"documents": 1}))


def _done(db: Database[Document], plan: RetentionPlan, one: Retention, lease: Lease) -> int:
    """Note what was done, once; take the checkpoints away, which name documents by key."""
    number = done_by(db, plan.run_id, one.id)
    forget(db, lease, f"retention/{plan.run_id}/{one.id}/")
    facts = {"rule": one.id, "action": one.action, "documents": number, "before": periods.before(plan.at, one.period)}
    note_once(db, plan, lease, one.id, "retention.done", {**facts, "map_digest": plan.map_digest})
    return number


def note_once(
    db: Database[Document], plan: RetentionPlan, lease: Lease, key: str, what: str, facts: Mapping[str, Any]
) -> None:
    """Write a step's evidence into the ledger when it was done for the first time in this run."""
    ledger.prepare(db)

    def body(session: ClientSession) -> None:
        first = db[RUNS].update_one(
            {"_id": plan.run_id, "done": {"$ne": key}}, {"$push": {"done": key}}, session=session
        )
        if first.modified_count:
            event = ledger.Event(what, plan.run_id, plan.environment, plan_digest=plan.digest, facts=facts)
            ledger.note(db, session, [event])

    lease.transaction(body)


def forget(db: Database[Document], lease: Lease, prefix: str) -> None:
    """Delete the checkpoints whose names begin so."""
    after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    lease.transaction(
        lambda session: db[CHECKPOINTS].delete_many({"_id": {"$gte": prefix, "$lt": after}}, session=session)
    )
