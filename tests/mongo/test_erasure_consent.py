"""Consent over the reference model's own validators: the latest counts, withdrawal says what must go, and proof names its fields."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import bson
import pytest
from bson import ObjectId
from tests.mongo.bench import Workshop
from tests.people import GRACE, NOW, Staff, data_map

from mongo_ops import audit
from mongo_ops.erasure import consent
from mongo_ops.erasure.consent import ConsentRefusedError, Decision
from mongo_ops.migrations.discover import discover

ADA, BOB, EVE = (ObjectId(digit * 24) for digit in "abe")
FILES = {file.version: file for file in discover(Path(__file__).parents[2] / "include" / "migrations")}
DIGEST = "5f" * 32
HOUR = timedelta(hours=1)
MAP = data_map()


@pytest.fixture
def model(db):
    """`users` and `consent` as the migrations make them, with their indexes, and two users."""
    workshop = Workshop(db)
    for version in ("001", "004", "005", "006"):
        for operation in FILES[version].migration.operations:
            if set(operation.writes()) & {"users", "consent"}:
                workshop.forward(operation)
    for key, name in ((ADA, "ada"), (BOB, "bob")):
        db.users.insert_one(
            {
                "_id": key, "email": f"{name}@example.org", "display_name": name, "status": "active",
                "subscription_type": "free", "consents": {"marketing": False}, "created_at": NOW,
            }
        )  # fmt: skip
    return db


def decision(**changes):
    return Decision(
        **{
            "type": "analytics",
            "policy_version": "2026-01",
            "source": "web",
            "policy_digest": DIGEST,
            "language": "en",
            **changes,
        }
    )


def grant(db, user=ADA, *, now=NOW, actor=GRACE, **changes):
    return consent.grant(db, "development", user, decision(**changes), actor=actor, now=now)


def withdraw(db, user=ADA, *, now=NOW + HOUR, **changes):
    return consent.withdraw(db, "development", MAP, user, decision(**changes), actor=GRACE, now=now)


def prove(db, user=ADA, *, at=NOW + 9 * HOUR, type="analytics"):
    return consent.prove(db, MAP, type, at=at, user_id=user)


def without(db, type="analytics", at=NOW + 9 * HOUR):
    return sorted(consent.without(db, type, at=at))


def test_a_consent_is_stored_in_the_models_shape_with_the_quick_copy(model):
    record = grant(model)

    (stored,) = model.consent.find()
    assert stored == {
        "_id": record, "user_id": ADA, "type": "analytics", "granted": True, "policy_version": "2026-01",
        "policy_digest": DIGEST, "language": "en", "source": "web", "recorded_at": NOW, "expires_at": None,
    }  # fmt: skip
    assert model.users.find_one({"_id": ADA})["consents"] == {"marketing": False, "analytics": True}
    assert model.users.find_one({"_id": BOB})["consents"] == {"marketing": False}


def test_each_decision_has_one_audit_entry_and_the_person_is_in_its_personal_part_only(model):
    records = [grant(model, actor=Staff("Alan Example", "airflow")), withdraw(model).record_id]

    entries = list(model.audit_log.find().sort("chain.seq", 1))
    assert [(e["action"], e["entity_type"], e["entity_id"]) for e in entries] == [
        ("consent.granted", "consent", records[0]),
        ("consent.withdrawn", "consent", records[1]),
    ]
    assert [e["personal"]["actor"]["value"] for e in entries] == ["Alan Example", "Grace Example"]
    assert [e["personal"]["subject"]["value"] for e in entries] == [ADA, ADA]
    for entry in entries:
        rest = bson.encode({name: value for name, value in entry.items() if name != "personal"})
        assert ADA.binary not in rest
        assert str(ADA).encode() not in rest
    assert audit.erase_personal(model, None, {"personal.subject.value": ADA}) == 4
    assert audit.verify(model).ok


def test_the_latest_decision_counts_at_every_moment(model):
    grant(model)
    withdraw(model, now=NOW + HOUR)
    grant(model, now=NOW + 2 * HOUR, policy_version="2026-02")

    moments = [NOW - HOUR, NOW, NOW + HOUR, NOW + 2 * HOUR, NOW + 9 * HOUR]
    proofs = [prove(model, at=at) for at in moments]
    assert proofs[0] is None
    assert [proof.valid for proof in proofs[1:]] == [True, False, True, True]
    assert [len(proof.record["event"]) for proof in proofs[1:]] == [1, 2, 3, 3]
    assert model.consent.count_documents({}) == 3


def test_a_withdrawal_says_what_must_be_deleted(model):
    grant(model)
    withdrawal = withdraw(model)

    assert [(rule.id, rule.collection) for rule in withdrawal.delete] == [
        ("analytics.age", "analytics"),
        ("geo.age", "geo_events"),
    ]
    assert withdraw(model, type="marketing").delete == ()
    assert model.users.find_one({"_id": ADA})["consents"] == {"marketing": False, "analytics": False}
    assert not prove(model).valid


def test_a_withdrawal_is_never_refused_for_lack_of_a_consent(model):
    withdraw(model)
    assert not prove(model).valid
    assert model.consent.count_documents({"granted": False}) == 1


def test_a_consent_ends_when_it_expires(model):
    grant(model, expires_at=NOW + 2 * HOUR)

    assert [prove(model, at=NOW + hours * HOUR).valid for hours in (0, 1, 2, 3)] == [True, True, False, False]
    assert prove(model, at=NOW + 3 * HOUR).record["event"][0]["event_state"] == "expired"
    assert [ADA in without(model, at=NOW + hours * HOUR) for hours in (1, 2)] == [False, True]


def test_a_clock_that_runs_behind_cannot_undo_a_withdrawal_by_dating_it_back(model):
    grant(model, now=NOW + HOUR)
    withdraw(model, now=NOW)  # another machine, an hour behind

    assert not prove(model).valid
    assert ADA in without(model)
    stamps = [one["recorded_at"] for one in model.consent.find().sort("recorded_at", 1)]
    assert stamps[1] - stamps[0] == timedelta(milliseconds=1)


def test_decisions_of_one_person_at_once_stand_in_one_order(model):
    audit.prepare(model)
    gate = threading.Barrier(6)

    def decide(number):
        gate.wait()
        (grant if number % 2 else withdraw)(model, now=NOW)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(decide, range(6)))

    moments = [one["recorded_at"] for one in model.consent.find()]
    assert len(set(moments)) == 6
    latest = model.consent.find_one(sort=[("recorded_at", -1)])
    assert model.users.find_one({"_id": ADA})["consents"]["analytics"] is latest["granted"]
    assert model.audit_log.find_one(sort=[("chain.seq", -1)])["entity_id"] == latest["_id"]


def test_a_proof_names_its_fields_as_ts_27560_does(model):
    grant(model)
    last = withdraw(model).record_id

    record = prove(model).record
    assert record["record"] == {
        "schema_version": "ISO/IEC TS 27560:2023",
        "record_id": str(last),
        "pii_principal_id": str(ADA),
    }
    processing = record["pii_processing"]
    assert processing["privacy_notice"] == {"version": "2026-01", "sha256": DIGEST}
    assert processing["language"] == "en"
    assert processing["purposes"] == [
        {
            "purpose": "analytics",
            "lawful_basis": "consent",
            "collection_method": "web",
            "pii_information": [{"pii_type": "user.behavior"}, {"pii_type": "user.location.precise"}],
            "retention_period": {"analytics.age": "P13M", "geo.age": "P1Y"},
            "recipient_third_parties": ["maps"],
        }
    ]
    assert [(e["event_time"], e["event_state"], e["event_type"], e["entity_id"]) for e in record["event"]] == [
        ("2026-03-01T12:00:00+00:00", "given", "explicit", str(ADA)),
        ("2026-03-01T13:00:00+00:00", "withdrawn", "explicit", str(ADA)),
    ]


def test_a_report_holds_every_type_of_one_person(model):
    grant(model)
    grant(model, type="marketing")
    withdraw(model, type="marketing")
    grant(model, BOB, type="ai_training")

    assert [(proof.type, proof.valid) for proof in consent.report(model, MAP, at=NOW + 9 * HOUR, user_id=ADA)] == [
        ("analytics", True),
        ("marketing", False),
    ]
    assert consent.report(model, MAP, at=NOW - HOUR, user_id=ADA) == ()


def test_after_an_erasure_the_evidence_is_found_by_reference(model):
    grant(model)
    reference = "sr1_" + "a" * 26
    model.consent.update_many({"user_id": ADA}, {"$set": {"subject_ref": reference}, "$unset": {"user_id": ""}})

    (proof,) = consent.report(model, MAP, at=NOW + HOUR, subject_ref=reference)
    assert proof.valid
    assert proof.record["record"]["pii_principal_id"] == reference
    assert consent.report(model, MAP, at=NOW + HOUR, user_id=ADA) == ()
    for both in ({}, {"user_id": ADA, "subject_ref": reference}):
        with pytest.raises(ValueError, match="either"):
            consent.report(model, MAP, at=NOW, **both)


def test_users_without_a_consent_are_one_query_away_and_it_is_indexed(model):
    model.users.insert_one({**model.users.find_one({"_id": BOB}), "_id": EVE, "email": "eve@example.org"})
    grant(model)
    grant(model, BOB)
    withdraw(model, BOB)

    assert without(model) == [BOB, EVE]
    assert without(model, "marketing") == [ADA, BOB, EVE]
    assert without(model, at=NOW) == [EVE]
    plan = model.command(
        "explain",
        {"aggregate": "users", "pipeline": consent.without_pipeline("analytics", NOW), "cursor": {}},
        verbosity="executionStats",
    )
    assert "user_type_time" in str(plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "telepathy"},
        {"type": "a.b"},
        {"type": "$set"},
        {"source": "fax"},
        {"policy_version": ""},
        {"policy_digest": "abc"},
        {"language": "English!"},
    ],
    ids=str,
)
def test_what_the_model_does_not_allow_is_refused_and_nothing_is_written(model, changes):
    users = model.users.find_one({"_id": ADA})
    with pytest.raises(ConsentRefusedError):
        grant(model, **changes)
    assert model.consent.count_documents({}) == 0
    assert model.audit_log.count_documents({}) == 0
    assert model.users.find_one({"_id": ADA}) == users


@pytest.mark.parametrize("user", [EVE, str(ADA)], ids=["unknown", "text"])
def test_a_decision_of_nobody_is_refused(model, user):
    with pytest.raises(ConsentRefusedError) as seen:
        grant(model, user)
    assert str(user) not in str(seen.value)
    assert model.consent.count_documents({}) == 0
    assert model.audit_log.count_documents({}) == 0
