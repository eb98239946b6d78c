"""Carry out one rule for everybody of a run, in exactly-once batches that can be killed at any instant.

Where an index leads to the documents they are found by the people's identifiers, a few people at a time; elsewhere the collection is
walked once for all of them. Each batch asserts the lease and the run (the plan and the data map are still the approved ones) and
looks at the legal holds again, in the same transaction as its writes, its checkpoint and its tally.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import OperationFailure

from mongo_ops.erasure import holds
from mongo_ops.erasure.model import Rule, Tally
from mongo_ops.erasure.selectors import conditions, filter_for, indexed, is_anywhere
from mongo_ops.erasure.survey import Collection, anywhere_names, largest_batch, means, queries, shown
from mongo_ops.erasure.work import Work
from mongo_ops.errors import PlanError
from mongo_ops.mongo.batches import (
    CHECKPOINTS,
    Batches,
    BudgetSpentError,
    Counts,
    Progress,
    Reporter,
    Step,
    is_too_much,
    log_progress,
)
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.throttle import LagProbe, Limits, hold_back, next_size

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection as CollectionOf
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

RUNS, RESULTS = "ops_erasure_runs", "ops_erasure_results"
EXECUTING = "executing"
PEOPLE_BY_INDEX = 1_000
"""People whose documents are found by an index before the next checkpoint."""

FIRST_SIZE = 500
RAW: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)


class RunChangedError(PlanError):
    """The run was stopped, or is not the one that was approved."""


@dataclass(frozen=True)
class Handling:
    """What a run's rules are carried out with."""

    work: Work
    lease: Lease
    plan_digest: str
    limits: Limits = field(default_factory=Limits)
    report: Reporter = log_progress
    sweep: int = 0
    began: float = field(default_factory=time.monotonic)

    def insist_on_budget(self, step: str) -> None:
        """Stop when the time is used up.

        Raises:
            BudgetSpentError: a retry goes on.
        """
        budget = self.limits.budget
        if budget is not None and time.monotonic() - self.began > budget:
            raise BudgetSpentError(
                f"{step}: the time budget of {budget:.0f} s is spent. Run again to go on from there."
            )

    def carry_out(self, rule: Rule, there: Mapping[str, Collection]) -> Tally:
        """Carry a rule out in every collection that it means; go on where a killed try stopped. Return what this rule did in all.

        Raises:
            RunChangedError: the run was stopped meanwhile; nothing more was done.
            LeaseLostError, BudgetSpentError: as batches have them.
        """
        if rule.action != "retain" or rule.changes:
            self.work.prepare(
                whole_documents=is_anywhere(rule.select)
            )  # outside of the batches, which have little time
            for name, collection in sorted(there.items()):
                if means(rule, name):
                    Passage(self, rule, collection).run()
        return tally(self.work.db, (self.work.run,), rule.id)


@dataclass(frozen=True)
class Passage:
    """One rule in one collection."""

    handling: Handling
    rule: Rule
    collection: Collection

    def run(self) -> None:
        """Choose the way and go it."""
        if is_anywhere(self.rule.select):
            self._walk("", conditions(self.rule.select))
        elif indexed(self.rule.select, self.collection.keys, self.work.data_map.identifiers):
            self._by_index()
        else:
            for number, query in enumerate(queries(self.work, self.rule, self.collection)):
                self._walk(f"/{number}", query)

    @property
    def work(self) -> Work:
        """The run's people."""
        return self.handling.work

    @cached_property
    def step_id(self) -> str:
        """The name of its checkpoint. A new plan begins anew: what is done already is not selected any more."""
        at = self.handling
        sweep = f"/sweep{at.sweep}" if at.sweep else ""
        return f"erasure/{self.work.run}/{at.plan_digest[:16]}/{self.rule.id}/{self.collection.name}{sweep}"

    def _walk(self, part: str, where: Mapping[str, Any]) -> None:
        at = self.handling
        step = Step(f"{self.step_id}{part}", at.plan_digest, self.collection.name, where)
        Batches(at.lease, at.limits, at.report).run(step, self._treat)

    def _by_index(self) -> None:
        """Find the documents of a few people at a time. The checkpoint says how many people are done.

        A killed try begins again with the same few people, and finds what it had not done yet.
        """
        people = self.work.subjects
        found = self.work.db[CHECKPOINTS].find_one({"_id": self.step_id})
        done = int(found["people"]) if found else 0
        while done < len(people):
            some_people = self.work.closure_of(done, PEOPLE_BY_INDEX)
            query = filter_for(self.rule.select, some_people, self.work.data_map.identifiers)
            there = query is not None and self._treat_found(query, done)
            done = min(len(people), done + PEOPLE_BY_INDEX)
            if there:
                self._save(done)
            self._tell(done)

    def _treat_found(self, query: Mapping[str, Any], done: int) -> bool:
        """Treat all that a filter finds; say whether there was anything."""
        at, ids, size = self.handling, self._ids(query), FIRST_SIZE
        some = list(islice(ids, size))
        if not some:
            return False
        probe, largest = LagProbe(self.work.db.client), largest_batch(self.work.db, self.collection.name)
        while some:
            at.insist_on_budget(self.step_id)
            hold_back(probe, at.limits, at.lease.check, lambda reason: self._tell(done, reason))
            started = time.monotonic()
            for start in range(0, len(some), largest):
                self._treat_ids(some[start : start + largest], query)
            size = next_size(size, time.monotonic() - started, at.limits.batch_seconds, largest=largest)
            some = list(islice(ids, size))
        return True

    def _treat_ids(self, some: Sequence[Any], query: Mapping[str, Any]) -> None:
        """Treat documents in one transaction, or in two halves where that is too much for the server."""
        selected = {"$and": [{"_id": {"$in": list(some)}}, query]}
        try:
            self.handling.lease.transaction(lambda session: self._treat(session, selected))
        except OperationFailure as error:
            if len(some) == 1 or not is_too_much(error):
                raise
            for half in (some[: len(some) // 2], some[len(some) // 2 :]):
                self._treat_ids(half, query)

    def _ids(self, query: Mapping[str, Any]) -> Iterator[Any]:
        return (row["_id"] for row in self.work.db[self.collection.name].find(query, {"_id": 1}))

    def _save(self, done: int) -> None:
        def write(session: ClientSession) -> None:
            after = {"people": done, "finished": done == len(self.work.subjects), "epoch": self.handling.lease.epoch}
            self.work.db[CHECKPOINTS].update_one({"_id": self.step_id}, {"$set": after}, upsert=True, session=session)

        self.handling.lease.transaction(write)

    def _tell(self, done: int, waiting: str | None = None) -> None:
        self.handling.report(Progress(self.step_id, done, len(self.work.subjects), 0.0, waiting))

    def _treat(self, session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        """Delete or change the selected documents, each for those of its owners who are not under a legal hold."""
        self._insist(session)
        held = holds.active(self.work.db, session)
        excluded = held.exclusion(self.collection.name)
        query = {"$and": [selected, excluded]} if excluded else selected
        found = 0
        theirs: list[tuple[Document, frozenset[str]]] = []
        for document, owners in self._owned(query, session):
            found += 1
            whose = frozenset(one for one in owners if not held.of(self.work.references[one]))
            if whose:
                theirs.append((document, whose))
        done = self._delete(theirs, session) if self.rule.action == "delete" else self._change(theirs, session)
        if done:
            counts = Counter(request for whose in done for request in whose)
            tallied = {
                "run": self.work.run,
                "rule": self.rule.id,
                "collection": self.collection.name,
                "documents": len(done),
            }
            tallied |= {
                "plan_digest": self.handling.plan_digest,
                "sweep": self.handling.sweep,
                "counts": [[request, number] for request, number in counts.items()],
            }
            self.work.db[RESULTS].insert_one(tallied, session=session)
        deleted = len(done) if self.rule.action == "delete" else 0
        return Counts(matched=found, modified=len(done) - deleted, deleted=deleted)

    def _insist(self, session: ClientSession) -> None:
        """Refuse to go on when the run was stopped or another plan took its place."""
        wanted = {"_id": self.work.run, "state": EXECUTING, "plan_digest": self.handling.plan_digest}
        wanted |= {"map_digest": self.work.data_map.digest}
        if self.work.db[RUNS].find_one(wanted, {"_id": 1}, session=session) is None:
            raise RunChangedError(
                f"The run {self.work.run} was stopped, or its plan or the data map changed since it was approved. What is done stays "
                "done; plan and approve it again to go on."
            )

    def _owned(self, query: Mapping[str, Any], session: ClientSession) -> Iterator[tuple[Document, frozenset[str]]]:
        if not is_anywhere(self.rule.select):
            fields = shown(self.rule) if self.rule.action == "delete" else None  # whole documents where they change
            for document in self.work.db[self.collection.name].find(query, fields, session=session):
                yield document, self.work.owners(document, self.rule)
            return
        names = anywhere_names(self.rule)
        for raw in _raw(self.work.db, self.collection.name).find(query, session=session):
            owners = frozenset(
                o.request_id for o in self.work.haystack.owners_in(bytes(raw.raw)) if o.identifier in names
            )
            if owners:
                yield bson.decode(raw.raw, CODEC), owners

    def _delete(
        self, theirs: Sequence[tuple[Document, frozenset[str]]], session: ClientSession
    ) -> list[frozenset[str]]:
        ids = [document["_id"] for document, _ in theirs]
        if ids:
            self.work.db[self.collection.name].delete_many({"_id": {"$in": ids}}, session=session)
        return [whose for _, whose in theirs]

    def _change(
        self, theirs: Sequence[tuple[Document, frozenset[str]]], session: ClientSession
    ) -> list[frozenset[str]]:
        writes, done = [], []
        for document, whose in theirs:
            update = self.work.update(document, self.rule, whose)
            if update is not None:
                writes.append(UpdateOne({"_id": document["_id"]}, update))
                done.append(whose)
        if writes:  # a document that broke the validator before must not keep its person
            collection = self.work.db[self.collection.name]
            collection.bulk_write(writes, ordered=False, bypass_document_validation=True, session=session)
        return done


def documents_done(work: Work, plan_digest: str, sweep: int) -> int:
    """Return how many documents the rules of a run have deleted or changed in one of its sweeps."""
    mine = {"run": work.run, "plan_digest": plan_digest, "sweep": sweep}
    return sum(int(one["documents"]) for one in work.db[RESULTS].find(mine, {"documents": 1}))


def _raw(db: Database[Document], name: str) -> CollectionOf[RawBSONDocument]:
    return db[name].with_options(codec_options=RAW)


def tally(db: Database[Document], runs: Sequence[str], rule: str) -> Tally:
    """Add up what a rule did in some runs, over all their tries, sweeps and plans."""
    counts: Counter[str] = Counter()
    documents = 0
    for result in db[RESULTS].find({"run": {"$in": list(runs)}, "rule": rule}):
        documents += result["documents"]
        counts.update(dict(result["counts"]))
    return Tally(rule, documents, dict(counts))
