"""Consent: grant, withdraw, prove, report, over the reference model's ``consent`` collection.

One document per decision, never updated; the latest per person and type counts. ``users.consents`` is the application's quick copy and
moves in the same transaction. What a proof says is named as in ISO/IEC TS 27560:2023 (record, pii_processing, event), as far as
it is known here. Withdrawal says what must be deleted now; it deletes nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo.errors import WriteError

from mongo_ops import audit
from mongo_ops.erasure.model import Actor, DataMap, Retention
from mongo_ops.errors import PlanError
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

CONSENT, USERS = "consent", "users"
SCHEMA_VERSION = "ISO/IEC TS 27560:2023"
VALIDATION = 121
TICK = timedelta(milliseconds=1)  # the resolution of a BSON date
LATEST = [("recorded_at", -1), ("_id", -1)]
_TYPE = re.compile(r"[a-z][a-z_]{1,59}")


class ConsentRefusedError(PlanError):
    """A decision cannot be recorded. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided: which text they saw (version, SHA-256, language) and through which channel."""

    type: str
    policy_version: str
    source: str
    policy_digest: str | None = None
    language: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A recorded withdrawal, and the retention rules whose documents of this person lost their ground and must go now."""

    record_id: ObjectId
    type: str
    delete: tuple[Retention, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a consent was in force at a moment, with the record as ISO/IEC TS 27560 names it (JSON values)."""

    type: str
    valid: bool
    record: Mapping[str, Any]


def grant(
    db: Database[Document], environment: str, user_id: ObjectId, decision: Decision, *, actor: Actor, now: datetime
) -> ObjectId:
    """Record that a person consents; return the record's id.

    Raises:
        ConsentRefusedError: no such user, or the model's validator does not let the decision in.
    """
    return _decide(db, environment, user_id, decision, granted=True, actor=actor, now=now)


def withdraw(
    db: Database[Document],
    environment: str,
    data_map: DataMap,
    user_id: ObjectId,
    decision: Decision,
    *,
    actor: Actor,
    now: datetime,
) -> Withdrawal:
    """Record that a person withdraws (or refuses) a consent. That is never refused for lack of one: Art. 7(3) GDPR.

    Raises:
        ConsentRefusedError: no such user, or the model's validator does not let the decision in.
    """
    record_id = _decide(db, environment, user_id, decision, granted=False, actor=actor, now=now)
    return Withdrawal(record_id, decision.type, depends_on(data_map, decision.type))


def depends_on(data_map: DataMap, type: str) -> tuple[Retention, ...]:
    """Return the retention rules whose documents were processed under a consent."""
    rules = (rule for entry in data_map.collections.values() for rule in entry.retention if rule.consent == type)
    return tuple(sorted(rules, key=lambda rule: rule.id))


def prove(
    db: Database[Document],
    data_map: DataMap,
    type: str,
    *,
    at: datetime,
    user_id: ObjectId | None = None,
    subject_ref: str | None = None,
) -> Proof | None:
    """Return what a person had decided at a moment, with the events that led there; None when they never decided.

    Give ``user_id``, or ``subject_ref`` for somebody whose account is erased.
    """
    query = {**_whose(user_id, subject_ref), "type": type, "recorded_at": {"$lte": at}}
    decisions = list(db[CONSENT].find(query).sort(LATEST))
    if not decisions:
        return None
    latest = decisions[0]
    return Proof(type, _state(latest, at) == "given", _record(data_map, decisions, at))


def report(
    db: Database[Document],
    data_map: DataMap,
    *,
    at: datetime,
    user_id: ObjectId | None = None,
    subject_ref: str | None = None,
) -> tuple[Proof, ...]:
    """Return all of a person's consents at a moment, by type."""
    types = db[CONSENT].distinct("type", {**_whose(user_id, subject_ref), "recorded_at": {"$lte": at}})
    proofs = (prove(db, data_map, one, at=at, user_id=user_id, subject_ref=subject_ref) for one in sorted(types))
    return tuple(proof for proof in proofs if proof is not None)


def without(db: Database[Document], type: str, *, at: datetime) -> Iterator[Any]:
    """Yield the ids of users whose consent is not in force: never asked, refused, withdrawn or expired. One query."""
    with db[USERS].aggregate(without_pipeline(type, at), allowDiskUse=True) as cursor:
        for found in cursor:
            yield found["_id"]


def without_pipeline(type: str, at: datetime) -> list[Document]:
    """Return the aggregation over ``users`` behind ``without``; the index ``user_type_time`` serves each look-up."""
    latest: list[Document] = [
        {"$match": {"type": type, "recorded_at": {"$lte": at}}},
        {"$sort": dict(LATEST)},
        {"$limit": 1},
        {"$project": {"granted": 1, "expires_at": 1}},
    ]
    look_up = {"from": CONSENT, "localField": "_id", "foreignField": "user_id", "pipeline": latest, "as": "latest"}
    in_force = {"granted": True, "$or": [{"expires_at": None}, {"expires_at": {"$gt": at}}]}
    return [
        {"$project": {"_id": 1}},
        {"$lookup": look_up},
        {"$match": {"latest": {"$not": {"$elemMatch": in_force}}}},
        {"$project": {"_id": 1}},
    ]


def _decide(
    db: Database[Document],
    environment: str,
    user_id: ObjectId,
    decision: Decision,
    *,
    granted: bool,
    actor: Actor,
    now: datetime,
) -> ObjectId:
    if not _TYPE.fullmatch(decision.type):
        raise ConsentRefusedError("The type of a consent is one word of the model, such as marketing.")
    if now.tzinfo is None:
        raise ConsentRefusedError("A decision needs a moment with a time zone.")
    audit.prepare(db)
    record_id = ObjectId()

    def body(session: ClientSession) -> ObjectId:
        moment = _after_the_latest(db, session, user_id, decision.type, now)
        _insert(db, session, {"_id": record_id, "user_id": user_id, **_fields(decision, moment, granted=granted)})
        copy = {"$set": {f"consents.{decision.type}": granted, "updated_at": moment}}
        if db[USERS].update_one({"_id": user_id}, copy, session=session).matched_count != 1:
            raise ConsentRefusedError(
                "There is no user of that id. Mind its type: an ObjectId and its text are two values."
            )
        audit.append(db, session, _entry(environment, user_id, decision, record_id, actor, granted=granted))
        return record_id

    return transact(db, body)


def _after_the_latest(
    db: Database[Document], session: ClientSession, user_id: ObjectId, type: str, now: datetime
) -> datetime:
    """Return ``now``, or a little after the latest decision: one that is recorded later counts, whatever a clock says."""
    latest = db[CONSENT].find_one({"user_id": user_id, "type": type}, sort=LATEST, session=session)
    return now if latest is None else max(now, latest["recorded_at"] + TICK)


def _fields(decision: Decision, moment: datetime, *, granted: bool) -> Document:
    optional = {"policy_digest": decision.policy_digest, "language": decision.language}
    return {
        "type": decision.type,
        "granted": granted,
        "policy_version": decision.policy_version,
        "source": decision.source,
        "recorded_at": moment,
        "expires_at": decision.expires_at,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _insert(db: Database[Document], session: ClientSession, document: Document) -> None:
    try:
        db[CONSENT].insert_one(document, session=session)
    except WriteError as error:
        if error.code != VALIDATION:
            raise
        raise ConsentRefusedError(
            "The model's validator does not let the decision in: look at type, source, policy_version, policy_digest and language "
            "(migration 005)."
        ) from None


def _entry(
    environment: str, user_id: ObjectId, decision: Decision, record_id: ObjectId, actor: Actor, *, granted: bool
) -> audit.AuditEntry:
    return audit.AuditEntry(
        action="consent.granted" if granted else "consent.withdrawn",
        entity_type="consent",
        entity_id=record_id,
        actor=actor.name,
        actor_kind=actor.kind,
        environment=environment,
        result="done",
        details={"type": decision.type, "policy_version": decision.policy_version, "source": decision.source},
        personal={"subject": user_id},
    )


def _whose(user_id: ObjectId | None, subject_ref: str | None) -> Document:
    if (user_id is None) == (subject_ref is None):
        raise ValueError("Give either user_id or subject_ref.")
    return {"user_id": user_id} if subject_ref is None else {"subject_ref": subject_ref}


def _state(decision: Mapping[str, Any], at: datetime) -> str:
    if not decision["granted"]:
        return "withdrawn"
    expires_at = decision.get("expires_at")
    return "given" if expires_at is None or expires_at > at else "expired"


def _record(data_map: DataMap, decisions: list[Document], at: datetime) -> Mapping[str, Any]:
    latest = decisions[0]
    person = str(latest.get("user_id") or latest["subject_ref"])
    return {
        "record": {"schema_version": SCHEMA_VERSION, "record_id": str(latest["_id"]), "pii_principal_id": person},
        "pii_processing": {
            "privacy_notice": {"version": latest["policy_version"], "sha256": latest.get("policy_digest")},
            "language": latest.get("language"),
            "purposes": [_purpose(data_map, latest)],
        },
        "event": [_event(decision, person, at) for decision in reversed(decisions)],
    }


def _purpose(data_map: DataMap, latest: Document) -> Mapping[str, Any]:
    covered = [entry for entry in data_map.collections.values() if entry.consent == latest["type"]]
    categories = sorted({note.category for entry in covered for note in entry.fields.values()} - {"system"})
    return {
        "purpose": latest["type"],
        "lawful_basis": "consent",
        "collection_method": latest["source"],
        "pii_information": [{"pii_type": category} for category in categories],
        "retention_period": {rule.id: rule.period for rule in depends_on(data_map, latest["type"])},
        "recipient_third_parties": sorted({name for entry in covered for name in entry.recipients}),
    }


def _event(decision: Mapping[str, Any], person: str, at: datetime) -> Mapping[str, Any]:
    expires_at = decision.get("expires_at")
    return {
        "event_time": decision["recorded_at"].isoformat(),
        "event_state": _state(decision, at),
        "event_type": "explicit",
        "entity_id": person,
        "valid_until": expires_at.isoformat() if expires_at else None,
    }
