"""The reference model's migrations 001 to 006: what their validators let in, which index serves which query, the way down."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import Binary, Int64, ObjectId
from pymongo.errors import DuplicateKeyError, WriteError
from tests.mongo.bench import Workshop

from mongo_ops import audit
from mongo_ops.migrations.discover import discover
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.documents import set_digest
from mongo_ops.settings import Environment

FILES = {file.version: file for file in discover(Path(__file__).parents[2] / "include" / "migrations")}
MODEL = frozenset(
    {
        *("users", "artists", "tracks", "playlists", "analytics"),
        *("ai_content", "audit_log", "security_events", "consent", "geo_events", "multilingual_content", "versioning"),
    }
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
USER, ARTIST, TRACK = (ObjectId(digit * 24) for digit in "abc")
NEVER = datetime(2999, 1, 1, tzinfo=UTC)  # the server's TTL thread is running
MISSING = ...
BLOB = Binary(b"\x00\x01")
HEX = "0" * 64


def point(longitude, latitude):
    return {"type": "Point", "coordinates": [longitude, latitude]}


VALID = {
    "users": {
        "email": "ana@example.org",
        "display_name": "Ana",
        "address": {"city": "Porto", "postal_code": "4000-000"},
        "country": "PT",
        "locale": "pt-PT",
        "consents": {"marketing": False},
        "status": "active",
        "subscription_type": "family",
        "created_at": NOW,
    },
    "artists": {"name": "Amália", "genres": ["Fado"], "user_id": USER, "created_at": NOW},
    "tracks": {
        "title": "Barco Negro",
        "artist_id": ARTIST,
        "duration_ms": 254_000,
        "album": {"title": "Amália"},
        "credits": [{"name": "Caco Velho", "role": "composer"}],
        "isrc": "PTA011000001",
        "language": "pt",
        "price": {"cents": 99, "currency": "EUR"},
        "released_under": "a label",  # a field that no validator names: the core collections are open
    },
    "playlists": {"name": "Evening", "visibility": "shared", "owner_id": USER, "tracks": [{"track_id": TRACK}]},
    "analytics": {"event_type": "play", "user_id": USER, "track_id": TRACK, "ts": NOW, "ms_played": 254_000},
    "ai_content": {
        "entity_type": "track",
        "entity_id": TRACK,
        "kind": "description",
        "version": 1,
        "model": "some-model-2026-01",
        "prompt": "Describe this track in one sentence.",
        "embedding": [0.25, -1.0, 0],
        "embedding_model": "some-embedding-1",
        "status": "draft",
        "created_at": NOW,
    },
    "audit_log": {"entity_type": "user", "entity_id": USER, "action": "user.updated", "timestamp": NOW},
    "security_events": {
        "event_type": "login_failed",
        "severity": "warning",
        "user_id": USER,
        "ip": "2001:db8::1",
        "occurred_at": NOW,
        "expires_at": NEVER,
    },
    "consent": {
        "user_id": USER,
        "type": "marketing",
        "granted": False,
        "policy_version": "2026-01",
        "policy_digest": HEX,
        "source": "web",
        "recorded_at": NOW,
    },
    "geo_events": {"user_id": USER, "event_type": "concert", "location": point(-8.61, 41.15), "ts": NOW},
    "multilingual_content": {
        "entity_type": "artist",
        "entity_id": ARTIST,
        "field": "bio",
        "lang": "pt-BR",
        "text_language": "pt",
        "text": "Cantora portuguesa.",
        "translation": "human",
        "source_lang": "pt-PT",
        "created_at": NOW,
    },
    "versioning": {
        "entity_type": "artist",
        "entity_id": ARTIST,
        "version": 1,
        "snapshot": {"name": "Amalia"},
        "diff": [{"op": "replace", "path": "/name", "value": "Amália"}],
        "changed_by": USER,
        "changed_at": NOW,
    },
}
CHAIN = {"seq": Int64(1), "previous": HEX, "hash": HEX, "version": 1}
CHAINED = {
    "environment": "development",
    "result": "applied",
    "run_id": None,
    "plan_digest": None,
    "details": {},
    "commitments": {"actor": HEX},
    "chain": CHAIN,
}

ALSO_VALID = [
    ("users", {"created_at": NOW, "loyalty_points": 7}),
    ("artists", {"genres": []}),
    ("playlists", {"owner_id": None, "tracks": []}),
    ("analytics", {"user_id": None}),
    ("analytics", {"ms_played": Int64(2**40)}),
    ("ai_content", {"embedding": BLOB}),
    ("ai_content", {"embedding": MISSING, "embedding_model": MISSING}),
    ("audit_log", {"entity_type": "system", "entity_id": None, "action": "system.started"}),
    ("audit_log", {"entity_id": "003_backfill_status_genres_created_at"}),
    ("audit_log", {"entity_id": 7}),
    ("audit_log", {"_id": "a key of another program", "ip": "192.0.2.1", "changes": {"name": "x"}}),
    ("audit_log", CHAINED),
    ("security_events", {"expires_at": None}),
    ("security_events", {"user_id": MISSING, "subject_ref": "sr1_abc"}),
    ("consent", {"user_id": MISSING, "subject_ref": "sr1_abc"}),
    ("geo_events", {"location": point(-180, 90)}),
    ("geo_events", {"location": point(180, -90.0)}),
    ("multilingual_content", {"text_language": MISSING}),
    *(
        ("multilingual_content", {"lang": lang, "text_language": "none"})
        for lang in (
            "de",
            "pt-BR",
            "zh-Hant",
            "zh-Hant-TW",
            "es-419",
            "sl-rozaj-biske",
            "de-CH-1901",
            "en-u-ca-gregory",
            "ast",
        )
    ),
    ("versioning", {"changed_by": None, "entity_id": "a text key"}),
]

INVALID = [
    ("users", {"email": MISSING}, "required"),
    ("users", {"email": "nobody"}, "pattern"),
    ("users", {"email": "two@@example.org"}, "pattern"),
    ("users", {"email": "a@example..org"}, "pattern"),
    ("users", {"email": "ana@example.org\n"}, "pattern"),
    ("users", {"display_name": ""}, "minLength"),
    ("users", {"country": "Portugal"}, "pattern"),
    ("users", {"country": "pt"}, "pattern"),
    ("users", {"address": {"street": "Rua", "door_code": "1234"}}, "additionalProperties"),
    ("users", {"consents": {"marketing": "yes"}}, "bsonType"),
    ("users", {"status": "gone"}, "enum"),
    ("users", {"status": MISSING}, "required"),
    ("users", {"subscription_type": "gold"}, "enum"),
    ("users", {"subscription_type": MISSING}, "required"),
    ("users", {"created_at": "2026-03-01"}, "bsonType"),
    ("users", {"created_at": MISSING}, "required"),
    ("users", {"_id": "ana@example.org"}, "bsonType"),
    ("artists", {"name": MISSING}, "required"),
    ("artists", {"genres": "Fado"}, "bsonType"),
    ("artists", {"genres": ["Fado", "Fado"]}, "uniqueItems"),
    ("artists", {"genres": [1]}, "bsonType"),
    ("tracks", {"artist_id": str(ARTIST)}, "bsonType"),
    ("tracks", {"duration_ms": -1}, "minimum"),
    ("tracks", {"duration_ms": 1.5}, "bsonType"),
    ("tracks", {"price": {"cents": 0.99, "currency": "EUR"}}, "bsonType"),
    ("tracks", {"price": {"cents": 99}}, "required"),
    ("tracks", {"isrc": "PT-A01-10-00001"}, "pattern"),
    ("tracks", {"credits": [{"name": "Somebody"}]}, "required"),
    ("playlists", {"visibility": "secret"}, "enum"),
    ("playlists", {"tracks": [{"added_by": USER}]}, "required"),
    ("playlists", {"collaborators": [USER, USER]}, "uniqueItems"),
    ("analytics", {"event_type": "purchase"}, "enum"),
    ("analytics", {"ts": NOW.isoformat()}, "bsonType"),
    ("analytics", {"track_id": MISSING}, "required"),
    ("ai_content", {"model": MISSING}, "required"),
    ("ai_content", {"prompt": MISSING}, "required"),
    ("ai_content", {"version": 0}, "minimum"),
    ("ai_content", {"embedding": ["0.1"]}, "bsonType"),
    ("ai_content", {"embedding": []}, "minItems"),
    ("ai_content", {"embedding_model": MISSING}, "dependencies"),
    ("audit_log", {"entity_id": MISSING}, "required"),
    ("audit_log", {"entity_id": 1.5}, "bsonType"),
    ("audit_log", {"entity_type": "User"}, "pattern"),
    ("audit_log", {"timestamp": 0}, "bsonType"),
    ("audit_log", {"chain": CHAIN}, "dependencies"),
    ("audit_log", {**CHAINED, "chain": {**CHAIN, "seq": 1.0}}, "bsonType"),
    ("audit_log", {**CHAINED, "chain": {**CHAIN, "hash": "x"}}, "pattern"),
    ("audit_log", {**CHAINED, "commitments": {"actor": "ana"}}, "pattern"),
    ("security_events", {"event_type": "coffee"}, "enum"),
    ("security_events", {"expires_at": MISSING}, "required"),
    ("security_events", {"user_id": MISSING}, "anyOf"),
    ("security_events", {"email": "ana@example.org"}, "additionalProperties"),
    ("consent", {"granted": MISSING}, "required"),
    ("consent", {"granted": 1}, "bsonType"),
    ("consent", {"type": "everything"}, "enum"),
    ("consent", {"user_id": MISSING}, "anyOf"),
    ("consent", {"ip": "192.0.2.1"}, "additionalProperties"),
    ("geo_events", {"location": point(180.1, 0)}, "maximum"),
    ("geo_events", {"location": point(-180.1, 0)}, "minimum"),
    ("geo_events", {"location": point(0, 90.1)}, "maximum"),
    ("geo_events", {"location": point(0, -90.1)}, "minimum"),
    ("geo_events", {"location": point(math.nan, 0)}, "minimum"),
    ("geo_events", {"location": point("0", 0)}, "bsonType"),
    ("geo_events", {"location": {"type": "Point", "coordinates": [1]}}, "minItems"),
    ("geo_events", {"location": {"type": "Point", "coordinates": [1, 2, 3]}}, "maxItems"),
    ("geo_events", {"location": {"type": "LineString", "coordinates": [1, 2]}}, "enum"),
    ("geo_events", {"location": [1, 2]}, "bsonType"),
    ("geo_events", {"home": True}, "additionalProperties"),
    ("multilingual_content", {"text_language": "pt-BR"}, "enum"),
    *(
        ("multilingual_content", {"lang": lang}, "pattern")
        for lang in ("pt_BR", "pt-br", "PT", "english", "zh-hant", "de\n", "en-", "en--US", "x-pirate")
    ),
    ("versioning", {"version": 0}, "minimum"),
    ("versioning", {"snapshot": "{}"}, "bsonType"),
    ("versioning", {"entity_id": None}, "bsonType"),
]


@contextlib.contextmanager
def database(replica_set):
    """A database of its own, dropped afterwards."""
    name = f"model_{ObjectId()}"
    spec = ConnectionSpec("mongo_development", replica_set.uri, replica_set.nodes[0].address, name)
    with connect(spec, Environment("development", "mongo_development", database=name)) as target:
        yield target.db
        target.client.drop_database(name)


@pytest.fixture(scope="module")
def shared(replica_set):
    with database(replica_set) as db:
        apply(Workshop(db), "001", "006")
        yield db


@pytest.fixture
def model(shared):
    """A database with 001 to 006 applied and no documents of the model."""
    yield shared
    for name in MODEL:
        shared[name].delete_many({})


def apply(workshop, first, last):
    """Carry out the migrations ``first`` to ``last`` with their conditions, as the engine does."""
    for version in sorted(version for version in FILES if first <= version <= last):
        migration = FILES[version].migration
        assert [condition.violation(workshop.db) for condition in migration.requires] == [None] * len(
            migration.requires
        )
        for operation in migration.operations:
            workshop.forward(operation)
        assert [condition.violation(workshop.db) for condition in migration.ensures] == [None] * len(migration.ensures)


def undo(workshop, last, first):
    for version in sorted((version for version in FILES if first <= version <= last), reverse=True):
        for operation in reversed(FILES[version].migration.operations):
            workshop.reverse(operation)


def made(collection, changes):
    """A valid document with changes."""
    return {key: value for key, value in {**VALID[collection], **changes}.items() if value is not MISSING}


def rules_broken(details):
    """The keywords that a refusal names, from MongoDB's explanation."""
    if isinstance(details, dict):
        own = {details["operatorName"]} if "operatorName" in details else set()
        return own.union(*(rules_broken(value) for value in details.values()))
    return set().union(*map(rules_broken, details)) if isinstance(details, list) else set()


def plan_of(db, collection, query, **options):
    """The stages of the winning plan, and the indexes used, by explain."""
    plan = db.command("explain", {"find": collection, "filter": query, **options})["queryPlanner"]["winningPlan"]
    stages, indexes, todo = set(), set(), [plan]
    while todo:
        stage = todo.pop()
        stages.add(stage.get("stage", stage.get("queryPlan", {}).get("stage")))
        indexes |= {stage["indexName"]} if "indexName" in stage else set()
        todo += [inner for key in ("inputStage", "queryPlan") if (inner := stage.get(key))] + stage.get(
            "inputStages", []
        )
    return stages, indexes


def served_by(db, collection, query, **options):
    """The indexes that serve a query; fails when any part of it scans the collection or sorts in memory."""
    stages, indexes = plan_of(db, collection, query, **options)
    assert not stages & {"COLLSCAN", "SORT"}
    return indexes


# Validators --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", sorted(VALID))
def test_a_complete_document_is_accepted(model, collection):
    model[collection].insert_one(made(collection, {}))

    assert model[collection].count_documents({}) == 1


@pytest.mark.parametrize(("collection", "changes"), ALSO_VALID, ids=str)
def test_what_the_product_needs_is_accepted(model, collection, changes):
    document = made(collection, changes)

    model[collection].insert_one(document)

    assert model[collection].find_one({"_id": document["_id"]}) is not None


@pytest.mark.parametrize(("collection", "changes", "rule"), INVALID, ids=str)
def test_a_wrong_document_is_refused_for_the_right_reason(model, collection, changes, rule):
    with pytest.raises(WriteError) as refused:
        model[collection].insert_one(made(collection, changes))

    assert refused.value.code == 121
    assert rule in rules_broken(refused.value.details["errInfo"])
    assert model[collection].count_documents({}) == 0


def test_every_collection_of_the_model_has_a_validator(model):
    validators = {
        found["name"]: found["options"].get("validator", {}).keys()
        for found in model.list_collections()
        if found["name"] in MODEL
    }

    assert validators == {name: {"$jsonSchema"} for name in MODEL}


def test_entries_of_the_packages_own_audit_log_pass_the_validator(model):
    entry = audit.AuditEntry(
        action="migration.applied",
        entity_type="migration",
        entity_id="001_create_core_collections",
        actor="somebody",
        actor_kind="os",
        environment="development",
        result="applied",
    )

    audit.record(model, entry)
    audit.erase_personal(model, None, {"entity_id": "001_create_core_collections"})

    assert audit.verify(model).ok
    assert model.audit_log.count_documents({"chain.seq": {"$exists": True}, "personal": {}}) == 1
    model.ops_audit_head.drop()


# Indexes -----------------------------------------------------------------------------------------------------------------


def test_a_second_account_with_the_same_email_in_other_letters_is_refused(model):
    model.users.insert_one(made("users", {"email": "Ana@Example.org"}))

    with pytest.raises(DuplicateKeyError) as refused:
        model.users.insert_one(made("users", {"email": "ana@example.ORG"}))

    assert refused.value.code == 11000
    same = {"locale": "en", "strength": 2}
    assert model.users.count_documents({"email": "ANA@EXAMPLE.ORG"}, collation=same) == 1
    assert served_by(model, "users", {"email": "ANA@EXAMPLE.ORG"}, collation=same) == {"email_unique"}


def test_audit_entries_of_a_user_are_found_by_index_and_latest_first(model):
    for day, entity in enumerate([USER, ARTIST, USER, None, str(USER)]):
        model.audit_log.insert_one(made("audit_log", {"entity_id": entity, "timestamp": NOW + timedelta(days=day)}))
    query, order = {"entity_type": "user", "entity_id": USER}, {"timestamp": -1}

    found = list(model.audit_log.find(query).sort(order))

    assert [entry["timestamp"] for entry in found] == [NOW + timedelta(days=2), NOW]
    assert served_by(model, "audit_log", query, sort=order) == {"entity_time"}


def test_withdrawn_consents_are_found_by_index(model):
    decisions = [("marketing", True), ("marketing", False), ("analytics", False)]
    for number, (kind, granted) in enumerate(decisions):
        moment = NOW + timedelta(hours=number)
        model.consent.insert_one(made("consent", {"type": kind, "granted": granted, "recorded_at": moment}))

    assert {found["type"] for found in model.consent.find({"granted": False})} == {"marketing", "analytics"}
    assert served_by(model, "consent", {"granted": False}) == {"granted_type_time"}


def test_the_latest_decision_of_a_user_is_found_by_index(model):
    for hour, granted in enumerate([True, False]):
        model.consent.insert_one(made("consent", {"granted": granted, "recorded_at": NOW + timedelta(hours=hour)}))
    query, order = {"user_id": USER, "type": "marketing"}, {"recorded_at": -1}

    latest = model.consent.find_one(query, sort=order)

    assert latest["granted"] is False
    assert served_by(model, "consent", query, sort=order, limit=1) == {"user_type_time"}


def test_geo_events_within_ten_kilometres_are_found_nearest_first(model):
    porto, gaia, braga = (-8.6110, 41.1496), (-8.6118, 41.1239), (-8.4265, 41.5454)  # Gaia is 3 km away, Braga 47
    for place in (braga, gaia, porto):
        model.geo_events.insert_one(made("geo_events", {"location": point(*place)}))
    query = {"location": {"$near": {"$geometry": point(*porto), "$maxDistance": 10_000}}}

    found = [event["location"]["coordinates"] for event in model.geo_events.find(query)]

    assert found == [list(porto), list(gaia)]
    assert served_by(model, "geo_events", query) == {"location_2dsphere"}


def test_texts_are_found_by_language(model):
    for lang, stemmer in (("pt-BR", "pt"), ("zh-Hant", "none"), ("de", "de")):
        model.multilingual_content.insert_one(made("multilingual_content", {"lang": lang, "text_language": stemmer}))

    assert [text["lang"] for text in model.multilingual_content.find({"lang": "pt-BR"})] == ["pt-BR"]
    assert served_by(model, "multilingual_content", {"lang": "pt-BR"}) == {"language"}


def test_the_text_index_stems_by_text_language_and_never_trips_over_lang_or_language(model):
    texts = [
        ("pt-BR", "pt", "As cantoras cantavam"),
        ("de", "de", "Die Häuser am Fluss"),
        ("zh-Hant", None, "專輯 album"),
    ]
    for lang, stemmer, text in texts:
        changes = {"lang": lang, "text_language": stemmer or MISSING, "text": text, "language": lang}
        model.multilingual_content.insert_one(made("multilingual_content", changes))

    def found(words, language):
        query = {"$text": {"$search": words, "$language": language}}
        return [text["lang"] for text in model.multilingual_content.find(query)]

    assert found("cantora", "pt") == ["pt-BR"]
    assert found("Haus", "de") == ["de"]
    assert found("album", "none") == ["zh-Hant"]


def test_a_version_exists_once_for_each_entity(model):
    model.versioning.insert_one(made("versioning", {}))
    model.versioning.insert_one(made("versioning", {"version": 2}))

    with pytest.raises(DuplicateKeyError):
        model.versioning.insert_one(made("versioning", {}))

    query = {"entity_type": "artist", "entity_id": ARTIST}
    assert served_by(model, "versioning", query, sort={"version": -1}, limit=1) == {"entity_version_unique"}


def test_only_security_events_expire_by_themselves(model):
    expiring = {
        (name, index, spec["expireAfterSeconds"])
        for name in MODEL
        for index, spec in model[name].index_information().items()
        if "expireAfterSeconds" in spec
    }

    assert expiring == {("security_events", "expiry", 0)}


SERVED = [
    ("artists", {"genres": "fado"}, None, "genres"),
    ("artists", {"user_id": USER}, None, "user"),
    ("tracks", {"artist_id": ARTIST}, {"album.title": 1}, "artist_album"),
    ("tracks", {"isrc": "PTA011000001"}, None, "isrc_unique"),
    ("tracks", {"credits.user_id": USER}, None, "credited_user"),
    ("playlists", {"owner_id": USER}, None, "owner"),
    ("playlists", {"collaborators": USER}, None, "collaborators"),
    ("playlists", {"tracks.track_id": TRACK}, None, "track"),
    ("analytics", {"user_id": USER}, {"ts": -1}, "user_time"),
    ("analytics", {"track_id": TRACK}, {"ts": -1}, "track_time"),
    ("analytics", {"ts": {"$lt": NOW}}, None, "time"),
    ("ai_content", {"user_id": USER}, None, "user"),
    ("security_events", {"user_id": USER}, {"occurred_at": -1}, "user_time"),
    ("consent", {"subject_ref": "sr1_abc"}, None, "subject"),
    ("geo_events", {"user_id": USER}, {"ts": -1}, "user_time"),
]


@pytest.mark.parametrize(("collection", "query", "order", "index"), SERVED, ids=str)
def test_each_index_serves_the_query_it_was_made_for(model, collection, query, order, index):
    assert served_by(model, collection, query, **({"sort": order} if order else {})) == {index}


# Data that arrives at any time, and the way down ---------------------------------------------------------------------------


def test_003_fills_only_what_is_missing_and_its_reverse_takes_back_only_that(db):
    workshop = Workshop(db)
    apply(workshop, "001", "002")
    old, new = ObjectId.from_datetime(NOW), ObjectId()
    db.users.insert_one({"_id": old, "email": "old@example.org", "display_name": "Old"})
    db.users.insert_one(
        {"_id": new, "email": "new@example.org", "display_name": "New", "status": "suspended", "created_at": NOW}
    )
    db.artists.insert_many(
        [{"name": "One", "genre": "Fado"}, {"name": "None"}, {"name": "Two", "genres": ["Rock", "Pop"]}]
    )
    before = {name: set_digest(db[name].find()) for name in ("users", "artists")}

    apply(workshop, "003", "003")

    users = {user["_id"]: user for user in db.users.find()}
    assert (users[old]["status"], users[old]["created_at"]) == ("active", NOW)
    assert (users[new]["status"], users[new]["created_at"]) == ("suspended", NOW)
    assert {artist["name"]: artist["genres"] for artist in db.artists.find()} == {
        "One": ["Fado"],
        "None": [],
        "Two": ["Rock", "Pop"],
    }

    undo(workshop, "003", "003")
    assert {name: set_digest(db[name].find()) for name in before} == before


def test_004_backfills_before_it_demands_and_takes_up_latecomers(db):
    workshop = Workshop(db)
    apply(workshop, "001", "003")
    late = db.users.insert_one({"email": "late@example.org", "display_name": "Late"}).inserted_id
    before = set_digest(db.users.find())

    apply(workshop, "004", "004")

    user = db.users.find_one({"_id": late})
    assert (user["status"], user["subscription_type"], user["created_at"]) == ("active", "free", late.generation_time)
    with pytest.raises(WriteError) as refused:
        db.users.insert_one({"email": "bare@example.org", "display_name": "Bare"})
    assert refused.value.code == 121

    undo(workshop, "004", "004")
    assert set_digest(db.users.find()) == before
    db.users.insert_one({"email": "bare@example.org", "display_name": "Bare"})


def test_004_lets_an_account_that_was_invalid_before_be_repaired(db):
    workshop = Workshop(db)
    apply(workshop, "001", "003")
    broken = ObjectId()
    db.command("collMod", "users", validationLevel="off")
    db.users.insert_one({"_id": broken, "email": "not an address", "display_name": "Broken"})
    db.command("collMod", "users", validationLevel="moderate")

    apply(workshop, "004", "004")

    db.users.update_one({"_id": broken}, {"$set": {"display_name": "Still broken"}})
    db.users.update_one({"_id": broken}, {"$set": {"email": "mended@example.org"}})
    with pytest.raises(WriteError):
        db.users.update_one({"_id": broken}, {"$set": {"email": "not an address"}})


def test_007_keeps_one_of_two_spellings(db):
    workshop = Workshop(db)
    apply(workshop, "001", "006")
    db.artists.insert_one({"name": "Both", "genres": ["Rock", "rock", "Pop"]})

    apply(workshop, "007", "007")

    assert db.artists.find_one()["genres"] == ["rock", "pop"]
    undo(workshop, "007", "007")
    assert db.artists.find_one()["genres"] == ["Rock", "rock", "Pop"]


def test_down_to_nothing_leaves_no_collection_of_the_model_and_up_again_is_the_same(db):
    workshop = Workshop(db)

    def shape():
        found = {item["name"]: item["options"] for item in db.list_collections() if item["name"] in MODEL}
        return found, {name: db[name].index_information() for name in found}

    apply(workshop, "001", "007")
    first = shape()
    undo(workshop, "007", "001")

    assert first[0].keys() == MODEL
    assert not MODEL & set(db.list_collection_names())

    apply(workshop, "001", "007")
    assert shape() == first


def test_005_adopts_an_audit_log_that_is_there_and_gives_it_back(db):
    audit.prepare(db)
    old = db.audit_log.insert_one({"what": "an entry of a form of its own", "who": "ana@example.org"}).inserted_id
    workshop = Workshop(db)

    apply(workshop, "001", "006")

    assert db.audit_log.update_one({"_id": old}, {"$unset": {"who": ""}}).modified_count == 1
    with pytest.raises(WriteError):
        db.audit_log.insert_one({"what": "another"})

    undo(workshop, "006", "001")
    assert MODEL & set(db.list_collection_names()) == {"audit_log"}
    assert list(db.audit_log.find()) == [{"_id": old, "what": "an entry of a form of its own"}]
    assert set(db.audit_log.index_information()) == {"_id_", "chain.seq_1"}
    db.audit_log.insert_one({"what": "another"})


def test_lint_finds_no_fault_in_the_files():
    from mongo_ops.migrations.lint import lint

    folder = next(iter(FILES.values())).path.parent

    assert [str(finding) for finding in lint(folder, {"development", "staging", "production"})] == []
