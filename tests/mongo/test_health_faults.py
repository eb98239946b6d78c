"""Faults put into a real database, each found by the right check and by no other; the same the next night, fixed after the repair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from bson import ObjectId
from tests.mongo.healths import look, looking, thresholds, told
from tests.mongo.runner import INCLUDE, Project

from mongo_ops.health.model import Mute
from mongo_ops.health.sight import Waived

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
ARTIST, TRACK, USER = ObjectId(), ObjectId(), ObjectId()
PLACES = {"geojson_bounds": {"options": {"places": ["notes.at"], "largest": 1000}},
          "unknown_languages": {"options": {"places": ["notes.lang"], "languages": [], "largest": 1000}}}  # fmt: skip


@pytest.fixture
def model(target):
    """The reference model with an artist, a track and a user; nothing is wrong with it."""
    project = Project(target, INCLUDE)
    project.migrate()
    target.db.artists.insert_one({"_id": ARTIST, "name": "Amália", "genres": ["fado"], "created_at": NOW})
    return target


@dataclass
class Faults:
    """All faults together. ``found`` says by which check and where each is found."""

    db: Any
    admin: Any

    found: ClassVar = {
        ("schema_drift", "users.email_unique"): "CRIT",
        ("schema_drift", "users.strange"): "WARN",
        ("schema_drift", "artists"): "CRIT",
        ("validator_violations", "tracks"): "WARN",
        ("dangling_references", "tracks.artist_id"): "WARN",
        ("redundant_indexes", "notes.a_1"): "WARN",
        ("ttl_monitor", "all"): "CRIT",
        ("ttl_values", "notes.gone types"): "WARN",
        ("ttl_values", "notes.gone late"): "WARN",
        ("ttl_values", "notes.never seconds"): "CRIT",
        ("consents_without_user", "all"): "WARN",
        ("geojson_bounds", "notes.at"): "WARN",
        ("unknown_languages", "notes.lang"): "WARN",
        ("data_map_gaps", "notes"): "WARN",
        ("stuck_lease", "dead"): "WARN",
        ("interrupted_migration", "099_half"): "CRIT",
        ("overdue_erasure", "er_late"): "CRIT",
        ("audit_chain", "audit_log"): "CRIT",
        ("coverage_waivers", "notes.x"): "WARN",
        ("backup_age", "all"): "CRIT",
        ("restore_test_age", "all"): "WARN",
        ("overdue_retention", "analytics.events"): "WARN",
        ("lapsed_mutes", "cache *"): "WARN",
        ("wide_roles", ""): "WARN",
    }

    def inject(self):
        db = self.db
        db.users.drop_index("email_unique")
        db.users.create_index("zz", name="strange")
        db.command("collMod", "artists", validationLevel="moderate")
        self._documents()
        db.notes.create_index("a")
        db.notes.create_index([("a", 1), ("b", 1)])
        db.notes.create_index("gone", name="gone", expireAfterSeconds=60)
        db.notes.create_index("never", name="never", expireAfterSeconds=float("nan"))
        db.ops_leases.insert_one(
            {
                "_id": "dead",
                "owner": "x",
                "released": False,
                "acquired_at": NOW - DAY,
                "expires_at": NOW - DAY / 2,
                "epoch": 1,
            }
        )
        db.ops_migrations.insert_one({"_id": "099_half", "state": "interrupted", "checksum": "0"})
        db.ops_erasure_requests.insert_one({"_id": "er_late", "open": True, "due_at": NOW - DAY})
        db.audit_log.update_one({"chain.seq": 2}, {"$set": {"action": "nothing.happened"}})
        db.ops_transfers.insert_one({"_id": "b", "kind": "export", "backup": True, "finished_at": NOW - 4 * DAY})
        db.ops_transfers.insert_one({"_id": "t", "kind": "restore_test", "finished_at": NOW - 40 * DAY})
        db.command("createUser", "wide", pwd="x", roles=[{"role": "root", "db": "admin"}])

    def _documents(self):
        db, past = self.db, {"bypass_document_validation": True}
        self.admin.command("setParameter", 1, ttlMonitorEnabled=False)
        whole = {
            "title": "Barco Negro",
            "artist_id": ObjectId(),
            "duration_ms": 1,
            "created_at": NOW,
        }
        db.tracks.insert_one({"_id": TRACK, **whole}, **past)
        db.tracks.insert_one({"title": "no artist"}, **past)
        db.consent.insert_one({"user_id": USER, "type": "marketing", "granted": True, "policy_version": "1", "source": "web",
                               "recorded_at": NOW}, **past)  # fmt: skip
        db.analytics.insert_one({"ts": NOW - 3 * 365 * DAY, "user_id": None, "track_id": TRACK, "event_type": "play"})
        db.notes.insert_many([
            {"a": 1, "gone": "yesterday", "never": NOW, "at": {"type": "Point", "coordinates": [200, 0]}, "lang": "martian!"},
            {"a": 2, "gone": NOW - 2 * DAY, "never": NOW, "at": {"type": "Point", "coordinates": [8, 50]}, "lang": "de"},
        ])  # fmt: skip

    def repair(self, action):
        db = self.db
        db.command("dropUser", "wide")
        db.notes.drop()
        db.users.drop_index("strange")
        db.users.create_index("email", name="email_unique", unique=True, collation={"locale": "en", "strength": 2})
        db.command("collMod", "artists", validationLevel="strict")
        db.tracks.delete_many({})
        db.analytics.delete_many({})
        db.consent.delete_many({})
        for name, key in (
            ("ops_leases", "dead"),
            ("ops_migrations", "099_half"),
            ("ops_erasure_requests", "er_late"),
            ("ops_transfers", "b"),
            ("ops_transfers", "t"),
        ):
            db[name].delete_one({"_id": key})
        db.audit_log.update_one({"chain.seq": 2}, {"$set": {"action": action}})
        self.admin.command("setParameter", 1, ttlMonitorEnabled=True)

    def expected(self, name, transition):
        return {(check, scope or f"{name}.wide"): (status, transition) for (check, scope), status in self.found.items()}


def test_a_clean_system_raises_nothing_in_ten_runs(replica_set, model):
    with looking(replica_set, model) as session:
        runs = [look(session, model, f"run {number}") for number in range(10)]

    assert [told(run) for run in runs] == [{}] * 10
    assert {str(run.status) for run in runs} == {"OK"}
    assert {one.error for run in runs for one in run.results} == {None}
    assert model.db.ops_health.count_documents({"kind": "run", "status": "OK"}) == 10


def test_every_fault_is_found_by_its_check_then_the_same_then_fixed(replica_set, model):
    faults, waivers = Faults(model.db, model.client.admin), []
    action = model.db.audit_log.find_one({"chain.seq": 2})["action"]
    email = model.db.users.index_information()["email_unique"]
    faults.inject()
    waivers.append(Waived("notes.x", NOW.date() + timedelta(days=3), "Grace"))

    lapsed = Mute("cache", "*", "Grace", NOW.date() - DAY, "known")
    found = thresholds(**PLACES)

    with looking(replica_set, model, replace(found, mutes=(lapsed,)), waivers=lambda: waivers) as session:
        try:
            first, second = look(session, model, "first"), look(session, model, "second")
        finally:
            faults.repair(action)
        waivers.clear()
        repaired = replace(session, thresholds=found)
        third, fourth = look(repaired, model, "third"), look(repaired, model, "fourth")

    assert model.db.users.index_information()["email_unique"] == email
    assert told(first) == faults.expected(model.database, "NEW")
    assert told(second) == faults.expected(model.database, "SAME")
    assert second.changes == ()
    assert {place: one[1] for place, one in told(third).items()} == dict.fromkeys(told(first), "FIXED")
    assert told(fourth) == {}
    assert [str(run.status) for run in (first, second, third, fourth)] == ["CRIT", "CRIT", "OK", "OK"]


def test_evidence_leads_to_the_documents_and_stays_out_of_the_history(replica_set, model):
    broken = model.db.tracks.insert_one({"title": "no artist"}, bypass_document_validation=True).inserted_id
    with looking(replica_set, model) as session:
        run = look(session, model, "run", ["schema"])

    assert [one.finding.evidence for one in run.judged] == [(str(broken),)]
    stored = list(model.db.ops_health.find({}))
    assert len(stored) == 4  # the run, two checks, one finding
    assert str(broken) not in str(stored)


def test_drift_is_a_readable_diff(replica_set, model):
    model.db.command("collMod", "artists", validationLevel="moderate")
    with looking(replica_set, model) as session:
        run = look(session, model, "run", ["schema"])

    diffs = {one.finding.scope: one.finding.diff for one in run.judged}
    assert diffs["artists"] == ("- validationLevel: strict", "+ validationLevel: moderate")
    assert told(run)["schema_drift", "artists"] == ("CRIT", "NEW")
