"""Withdrawn consent (Art. 7(3), 17(1)(b) GDPR): what was processed under it goes, for the persons who withdrew it and nobody else.

Every night looks at everybody whose latest decision is a withdrawal, so nothing that was written late is missed, and nothing has to be
remembered. What depends on a consent, the data map says: retention rules that name it, in collections whose rules lead to the person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure import closure, consent, holds, retention, survey
from mongo_ops.erasure.model import DataMap, Retention, Rule, Subject
from mongo_ops.erasure.paths import ELEMENTS
from mongo_ops.erasure.plan import PlanChangedError
from mongo_ops.erasure.references import NoReferenceError, references_of
from mongo_ops.erasure.run import Handling
from mongo_ops.erasure.selectors import ANYWHERE, branches, identifier_of
from mongo_ops.erasure.work import Work
from mongo_ops.errors import PlanError
from mongo_ops.mongo.throttle import Limits

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.erasure.retention import RetentionPlan
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

PEOPLE = 500
"""People looked at together."""


class UnaddressableConsentError(PlanError):
    """The data map names a consent for documents that no rule leads to."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """One consent: how many people withdrew it, how many of them are held, and what was erased by rule in this run."""

    type: str
    people: int
    held: int
    documents: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"type": self.type, "people": self.people, "held": self.held, "documents": dict(self.documents)}


def types(data_map: DataMap) -> tuple[str, ...]:
    """Return the consents on which documents depend."""
    return tuple(sorted({one.consent for one in retention.entries(data_map) if one.consent is not None}))


def who(db: Database[Document], type: str, at: datetime) -> Iterator[Any]:
    """Yield the ids of the people whose latest decision on a consent, up to a moment, is a withdrawal or a refusal."""
    stages: list[Document] = [
        {"$match": {"type": type, "recorded_at": {"$lte": at}, "user_id": {"$ne": None}}},
        {"$sort": {"user_id": 1, "recorded_at": -1, "_id": -1}},
        {"$group": {"_id": "$user_id", "granted": {"$first": "$granted"}}},
        {"$match": {"granted": False}},
        {"$sort": {"_id": 1}},
    ]
    with db[consent.CONSENT].aggregate(stages, allowDiskUse=True) as cursor:
        for found in cursor:
            yield found["_id"]


def consent_withdrawals(engine: Engine, plan: RetentionPlan) -> tuple[Withdrawn, ...]:
    """Delete or change what was processed under withdrawn consents; a retry goes on where a killed try stopped.

    Raises:
        PlanChangedError: the data map was edited since the plan was made; nothing more was done.
        UnaddressableConsentError: the map cannot be followed; nothing was done.
    """
    if plan.map_digest != engine.data_map.digest:
        raise PlanChangedError("The data map was edited after the plan was made. Start a new run.")
    rules = {one: tuple(rules_of(engine.data_map, one)) for one in types(engine.data_map)}
    with engine.lease("withdrawals") as lease:
        found = tuple(_of_type(engine, plan, lease, one, rules[one]) for one in rules)
        retention.forget(engine.target.db, lease, f"erasure/{plan.run_id}/")
        for one in found:
            facts = {"type": one.type, "people": one.people, "held": one.held, "rules": dict(one.documents)}
            retention.note_once(engine.target.db, plan, lease, f"consent {one.type}", "consent.enforced", facts)
    return found


def rules_of(data_map: DataMap, type: str) -> Iterator[Rule]:
    """Yield, for each retention rule that depends on a consent, the rules that lead from a person to exactly those documents.

    Raises:
        UnaddressableConsentError: none does.
    """
    for entry in data_map.collections.values():
        for one in (one for one in entry.retention if one.consent == type):
            selects = [
                narrowed(branch, one) for rule in entry.rules for branch in branches(rule.select) if _is_own(branch)
            ]
            if not selects:
                raise UnaddressableConsentError(
                    f"{one.id} depends on the consent {type}, and no rule of {entry.name} leads from a person to documents of their own "
                    "(data_map.yaml)."
                )
            select: Mapping[str, Any] = selects[0] if len(selects) == 1 else {"any": selects}
            yield Rule(one.id, entry.name, select, one.action, changes=one.changes, why=one.why)


def narrowed(branch: Mapping[str, Any], one: Retention) -> dict[str, Any]:
    """Return a selection of a person's documents, limited to those that a retention rule is about.

    Raises:
        UnaddressableConsentError: both say something about the same path.
    """
    alternatives = branches(one.where) if one.where else ({},)
    if any(branch.keys() & more.keys() for more in alternatives):
        raise UnaddressableConsentError(
            f"{one.id}: `where` and a rule of {one.collection} both say something about the same field (data_map.yaml)."
        )
    some = [{**branch, **more} for more in alternatives]
    return some[0] if len(some) == 1 else {"any": some}


def _is_own(branch: Mapping[str, Any]) -> bool:
    """Say whether a selection leads to documents of the person's own: no list of several people's, no text that mentions them."""
    asked = [
        path for path, condition in branch.items() if path != ANYWHERE and identifier_of(path, condition) is not None
    ]
    return bool(asked) and ANYWHERE not in branch and not any(ELEMENTS in path for path in asked)


def _of_type(engine: Engine, plan: RetentionPlan, lease: Lease, type: str, rules: Sequence[Rule]) -> Withdrawn:
    db, people, held_people = engine.target.db, 0, 0
    there = survey.collections(db, rules)
    found = who(db, type, plan.at)
    while some := list(islice(found, PEOPLE)):
        held = holds.active(db)
        subjects = [one for one in map(lambda value: _subject(engine, held, value), some) if one is not None]  # noqa: C417
        people, held_people = people + len(some), held_people + len(some) - len(subjects)
        resolved = closure.resolve(db, engine.data_map, subjects).subjects
        work = Work(engine.target, engine.data_map, engine.keyring, resolved, plan.run_id)
        for rule in rules:
            mine = replace(rule, id=f"{rule.id}/{type}")
            Handling(work, lease, plan.digest, _limits(engine), engine.report, _number(subjects)).carry_out(mine, there)
    documents = {rule.id: retention.done_by(db, plan.run_id, f"{rule.id}/{type}") for rule in rules}
    return Withdrawn(type, people, held_people, documents)


def _number(subjects: Sequence[Subject]) -> int:
    """Return a number for the checkpoints of these people: others, after somebody was erased or held meanwhile, begin anew."""
    names = " ".join(one.reference for one in subjects)
    return int.from_bytes(sha256(names.encode()).digest()[:6], "big") + 1


def _subject(engine: Engine, held: holds.Holds, value: Any) -> Subject | None:
    """Return the person, known by reference; None when a hold is on them, under whatever key it was placed."""
    try:
        known = references_of(engine.keyring, engine.data_map.subject, value)
    except NoReferenceError:
        return None
    return None if held.of(*known) else Subject(known[0], known[0], {engine.data_map.subject: (value,)})


def _limits(engine: Engine) -> Limits:
    at = engine.target.environment
    return Limits(max_lag=at.max_lag, batch_seconds=at.batch_seconds, budget=at.budget)
