"""The data maps on a real server: they fit the databases they describe, and their selections mean there what they mean here."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from demo import music
from tests.erasure_maps import chinook
from tests.mongo.bench import Workshop
from tests.mongo.test_reference_model import ALSO_VALID, MISSING, VALID

from mongo_ops import audit, settings
from mongo_ops.audit.verify import verify
from mongo_ops.erasure.census import schema_paths
from mongo_ops.erasure.changes import settled, transform
from mongo_ops.erasure.coverage import coverage
from mongo_ops.erasure.forms import forms, index_of
from mongo_ops.erasure.graph import order
from mongo_ops.erasure.identifiers import encodings
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.model import Identifier, Subject
from mongo_ops.erasure.paths import covers, reached
from mongo_ops.erasure.selectors import applies, conditions, filter_for, indexed, is_anywhere, owners
from mongo_ops.migrations.discover import discover
from mongo_ops.mongo.documents import CODEC, set_digest

MAP = load_map(settings.PROJECT / "include")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEVER = datetime(2999, 1, 1, tzinfo=UTC)
ANA, BO = ObjectId("aaaaaaaaaaaaaaaaaaaaaaa1"), ObjectId("bbbbbbbbbbbbbbbbbbbbbbb2")


@pytest.fixture
def model(db):
    """A database with all migrations of the reference model."""
    for file in discover(Path(__file__).parents[2] / "include" / "migrations"):
        for operation in file.migration.operations:
            Workshop(db).forward(operation)
    return db


# The map fits -----------------------------------------------------------------------------------------------------------


def test_the_reference_map_classifies_every_field_of_every_validator(model):
    named = {}
    for info in model.list_collections():
        if not info["name"].startswith("ops_"):
            found = list(schema_paths(info["options"]["validator"]["$jsonSchema"]))
            named[info["name"]] = len(found)
            assert [path for path in found if not covers(MAP.collections[info["name"]].fields, path)] == []

    assert named.keys() == set(MAP.collections) - {"ops_before_*"}
    assert (named["users"], named["consent"]) == (24, 11)
    assert "credits[].user_id" in schema_paths(model["tracks"].options()["validator"]["$jsonSchema"])


def test_the_reference_map_names_no_field_that_is_not_there(model):
    for name, entry in MAP.collections.items():
        if name in model.list_collection_names():
            promised = set(schema_paths(model[name].options()["validator"]["$jsonSchema"]))
            missing = {
                path for path in entry.fields if path.removesuffix(".*") not in promised | {"embedding", "chain"}
            }
            assert missing == set()


def test_the_reference_map_covers_valid_documents_and_the_demos_music(model):
    music.load(model, plays=300)
    for name, document in VALID.items():
        whole = {**document, **({"expires_at": NEVER} if name in {"security_events", "consent"} else {})}
        model[name].insert_one({key: value for key, value in whole.items() if key != "released_under"})
    for name, changes in ALSO_VALID:
        if not {"ip", "loyalty_points", "chain"} & changes.keys():
            document = (
                {**VALID[name], **changes, "version": len(changes) + 70} if name in {"ai_content", "versioning"} else {}
            )
            document = {key: value for key, value in document.items() if value is not MISSING}
            model[name].insert_one(document) if document else None
    audit.record(
        model,
        audit.AuditEntry(action="x", entity_type="migration", environment="development", result="done", actor="Eva"),
    )

    assert coverage(model, MAP) == []


def test_indexes_lead_to_the_documents_of_nearly_every_rule(model):
    scanned = set()
    for rule in MAP.rules:
        if rule.collection in model.list_collection_names() and not is_anywhere(rule.select):
            keys = [tuple(one["key"]) for one in model[rule.collection].list_indexes() if "collation" not in one]
            if not indexed(rule.select, keys, MAP.identifiers):
                scanned.add(rule.id)
                continue
            query = filter_for(rule.select, {name: [ObjectId()] for name in MAP.identifiers}, MAP.identifiers)
            plan = model.command("explain", {"find": rule.collection, "filter": query})["queryPlanner"]["winningPlan"]
            assert "COLLSCAN" not in str(plan), rule.id

    assert scanned == {"audit_log.acted", "playlists.added_by", "versioning.changed_by"}


# Selections -------------------------------------------------------------------------------------------------------------

U = UUID("12345678-1234-4678-9234-567812345678")
IDS = {
    "id": Identifier("id", "t", "_id", types=("objectId", "string"), forbid=("anonymous",)),
    "uuid": Identifier("uuid", "t", "u", types=("uuid",)),
    "int": Identifier("int", "t", "n", types=("int",)),
    "mail": Identifier("mail", "t", "m"),
}
CLOSURE = {"id": (ANA,), "uuid": (U,), "int": (5,), "mail": ("Ana@x.org", '{"$ne": null}', "$where")}
VALUES = [
    *(None, ANA, str(ANA), str(ANA).upper(), BO, U, str(U), Binary(U.bytes, 3), U.bytes, U.hex),
    *(5, Int64(5), 5.0, Decimal128("5"), 5.5, "5", True, "Ana@x.org", "ana@x.org", "ANA@x.org", "", "anonymous"),
    *(
        '{"$ne": null}',
        {"$ne": None},
        "$where",
        {},
        [],
        [None],
        [ANA],
        [[ANA]],
        [BO, str(ANA)],
        {"x": ANA},
        [5, 6],
        NOW,
    ),
]
ROLES = ["x", "y", None]
DOCUMENTS = [
    *({"v": value} for value in VALUES),
    *({"a": {"b": value}} for value in VALUES),
    *({"a": [{"b": value}, {"b": BO, "role": "x"}]} for value in VALUES),
    *({"a": [{"b": ANA, "role": role}, {"b": BO, "role": "x"}], "kind": "k"} for role in ROLES),
    *({"v": value, "kind": kind} for value in (ANA, BO, None, 5) for kind in ("k", "l", None, ["k"], 1, True)),
    *({"likes": {key: 1, "z": 1}} for key in (str(ANA), str(BO), "Ana@x.org", "5", str(U), "$where", "a.b")),
    *({"deep": {"likes": likes}} for likes in ({str(ANA): 1}, [str(ANA)], None, str(ANA), {"x": {str(ANA): 1}})),
    {},
]
SELECTIONS = [
    *({"v": f"${name}"} for name in IDS),
    *({"a.b": f"${name}"} for name in IDS),
    *({"a[].b": f"${name}"} for name in IDS),
    {"a[].b": "$id", "a[].role": "x"},
    {"a[].b": "$id", "a[].role": {"exists": False}},
    {"a[].b": "$id", "a[].role": {"not": "x"}, "kind": "k"},
    {"v[]": "$id"},
    {"v": "$id", "kind": "k"},
    {"v": "$id", "kind": ["k", "l"]},
    {"v": "$id", "kind": {"not": "k"}},
    {"v": "$id", "kind": {"not": ["k", 1]}},
    {"v": "$id", "kind": {"exists": True}},
    {"v": "$id", "kind": {"exists": False}},
    {"v": "$int", "kind": True},
    {"kind": "k", "any": [{"v": "$id"}, {"a[].b": "$id"}]},
    {"any": [{"v": "$id", "kind": "k"}, {"v": "$int", "any": [{"kind": "l"}, {"kind": "k"}]}]},
    {"likes.{id}": "exists"},
    {"likes.{mail}": "exists"},
    {"likes.{uuid}": "exists"},
    {"likes.{int}": "exists"},
    {"deep.likes.{id}": "exists"},
    {"deep.likes.{id}": "exists", "likes.{mail}": "exists"},
]


@pytest.fixture(scope="module")
def tricky(replica_set):
    """A collection of documents that queries get wrong easily."""
    from pymongo import MongoClient

    with MongoClient(replica_set.uri) as client:
        name = f"tricky_{ObjectId()}"
        collection = client[name].get_collection("t", codec_options=CODEC)
        collection.insert_many([{**document, "_id": number} for number, document in enumerate(DOCUMENTS)])
        yield collection
        client.drop_database(name)


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_a_filter_selects_exactly_the_documents_that_belong_to_the_person(tricky, select):
    index = index_of([Subject("r", "s", CLOSURE)], IDS.values())

    selected = {one["_id"] for one in tricky.find(filter_for(select, CLOSURE, IDS))}
    belonging = {one["_id"] for one in tricky.find() if owners(one, select, index)}
    demanded = {one["_id"] for one in tricky.find(conditions(select))}

    assert selected == belonging
    if "[]" not in str(select):
        assert selected <= demanded
        assert demanded == {one["_id"] for one in tricky.find() if applies(one, select)}
    found = [DOCUMENTS[number] for number in selected]
    assert not [one for one in found if one.get("v", 0) in (None, "", [], {}, BO)]


def test_each_selection_finds_something_and_none_finds_everything(tricky):
    counts = {str(select): tricky.count_documents(filter_for(select, CLOSURE, IDS)) for select in SELECTIONS}

    empty = {select for select, count in counts.items() if not count}
    assert empty == {str({"deep.likes.{id}": "exists", "likes.{mail}": "exists"})}
    assert max(counts.values()) < 15 < len(DOCUMENTS)
    assert counts[str({"v": "$id"})] == 4 + 6  # the id, its text, and an array of each; six kinds
    assert counts[str({"likes.{mail}": "exists"})] == 2


@pytest.mark.parametrize("value", [None, "", " ", "anonymous", {"$ne": None}, {"$gt": ""}, [], [ANA], True])
def test_no_value_of_nobody_selects_anything(tricky, value):
    for name in IDS if value != "anonymous" else ["id"]:
        assert filter_for({"v": f"${name}"}, {name: [value]}, IDS) is None
        assert filter_for({f"likes.{{{name}}}": "exists"}, {name: [value]}, IDS) is None


# One person, every rule, on the validators ------------------------------------------------------------------------------

ARTIST, OTHER_ARTIST, TRACK, SONG = (ObjectId(f"{number:024x}") for number in range(0xA1, 0xA5))
LISTS = [ObjectId(f"{number:024x}") for number in range(0xB1, 0xB4)]
REF = "sr1_abcdefghijklmnopqrstuvwxyz"
MAIL, PHONE, NAME = "ana.lima@example.org", "+351 21 555 01 23", "Ana Lima"


def user(key, mail, name, phone=None):
    found = {
        "_id": key, "email": mail, "display_name": name, "status": "active", "subscription_type": "free", "created_at": NOW,
    }  # fmt: skip
    return found | ({"phone": phone} if phone else {})


def planted():
    """A person at every place the map knows, and others beside: collection -> documents."""
    credit = {"name": NAME, "role": "vocals", "user_id": ANA}
    namesake = {"name": NAME, "role": "guitar", "user_id": BO}
    track = {"title": "x", "duration_ms": 1, "created_at": NOW}
    made = {"version": 1, "model": "m", "status": "draft", "created_at": NOW, "kind": "summary"}
    versioned = {"version": 1, "changed_at": NOW}
    event = {"entity_type": "user", "action": "a", "timestamp": NOW}
    seen = {"severity": "info", "occurred_at": NOW, "expires_at": NEVER, "event_type": "login_failed"}
    text = {"field": "bio", "lang": "pt", "text": "t", "translation": "human", "created_at": NOW}
    return {
        "users": [user(ANA, MAIL, NAME, PHONE), user(BO, "bo@example.org", NAME)],
        "artists": [
            {"_id": ARTIST, "name": "Lima", "genres": ["fado"], "user_id": ANA, "bio": "b", "links": ["l"], "image_key": "img/ana-1"},
            {"_id": OTHER_ARTIST, "name": "Lima", "genres": [], "user_id": BO, "bio": "b"},
        ],
        "tracks": [
            {"_id": TRACK, "artist_id": ARTIST, "composer": "Lima, Rosa; LIMAX", "credits": [{"name": "Lima", "role": "r"}, namesake], **track},
            {"_id": SONG, "artist_id": OTHER_ARTIST, "composer": f"Bo & {NAME}", "credits": [namesake, credit], **track},
            {"artist_id": OTHER_ARTIST, "composer": NAME, "credits": [namesake], **track},
        ],
        "playlists": [
            {"_id": LISTS[0], "name": "p", "visibility": "private", "owner_id": ANA, "tracks": []},
            {"_id": LISTS[1], "name": f"{NAME}'s", "description": "d", "visibility": "public", "owner_id": ANA, "tracks": []},
            {
                "_id": LISTS[2], "name": f"{NAME}'s", "visibility": "shared", "owner_id": BO, "collaborators": [ANA, BO],
                "tracks": [{"track_id": TRACK, "added_by": ANA, "added_at": NOW}, {"track_id": TRACK, "added_by": BO, "added_at": NOW}],
            },
        ],
        "analytics": [{"event_type": "play", "user_id": who, "track_id": TRACK, "ts": NOW} for who in (ANA, ANA, BO, None)],
        "ai_content": [
            {**made, "entity_type": "track", "entity_id": SONG, "prompt": "p", "user_id": ANA, "asset_key": "art/ana-2"},
            {**made, "entity_type": "artist", "entity_id": ARTIST, "prompt": "p", "user_id": BO},
            {**made, "entity_type": "track", "entity_id": SONG, "version": 2, "prompt": f"like {MAIL.upper()}!", "user_id": BO},
        ],
        "multilingual_content": [
            {**text, "entity_type": "artist", "entity_id": ARTIST},
            {**text, "entity_type": "artist", "entity_id": OTHER_ARTIST, "text": f"with {MAIL}"},
            {**text, "entity_type": "track", "entity_id": SONG},
        ],
        "versioning": [
            {**versioned, "entity_type": "user", "entity_id": str(ANA), "snapshot": {"email": MAIL}},
            {**versioned, "entity_type": "track", "entity_id": TRACK, "snapshot": {"composer": NAME}},
            {**versioned, "entity_type": "playlist", "entity_id": LISTS[1], "snapshot": {"owner_id": ANA}},
            {
                **versioned, "entity_type": "track", "entity_id": SONG, "changed_by": BO, "reason": f"asked by {MAIL}",
                "snapshot": {"credits": [namesake, credit], "composer": f"Bo & {NAME}", "by": {str(ANA): 1}},
                "diff": [{"op": "add", "path": "/x", "value": {"who": ANA}}],
            },
            {**versioned, "entity_type": "track", "entity_id": SONG, "version": 2, "changed_by": ANA, "snapshot": {}},
        ],
        "geo_events": [
            {"user_id": who, "event_type": "play", "location": {"type": "Point", "coordinates": [1, 2]}, "ts": NOW} for who in (ANA, BO)
        ],
        "consent": [
            {"user_id": who, "type": "analytics", "granted": True, "policy_version": "1", "source": "web", "recorded_at": NOW}
            for who in (ANA, BO)
        ],
        "security_events": [
            {**seen, "user_id": ANA, "ip": "192.0.2.1", "user_agent": "ua", "details": {"x": 1}},
            {**seen, "user_id": None, "ip": "192.0.2.2", "details": {"email": MAIL.upper()}},
            {**seen, "user_id": BO, "details": {"email": "bo@example.org"}},
        ],
        "audit_log": [
            {**event, "entity_id": ANA},
            {**event, "entity_id": str(ANA), "actor_id": BO, "details": {"mail": MAIL, "n": 1}},
            {**event, "entity_id": BO, "actor_id": ANA},
            {**event, "entity_type": "artist", "entity_id": ARTIST},
            {**event, "entity_id": BO, "details": {"of": "bo@example.org"}},
        ],
        "ops_before_x.0": [
            {"_id": ANA, "had": True, "value": "free"}, {"_id": TRACK, "had": True, "value": NAME},
            {"_id": LISTS[2], "before": {"collaborators": [ANA, BO]}}, {"_id": BO, "had": False},
        ],
    }  # fmt: skip


def closure_of(db, start):
    """What the map's identifiers come to, looked up in their order."""
    closure = {MAP.subject: [start]}
    for identifier in order(MAP.identifiers, MAP.subject)[1:]:
        query = filter_for(identifier.where, closure, MAP.identifiers)
        documents = db[identifier.collection].find(query) if query is not None else []
        closure[identifier.name] = [
            value for one in documents for value in reached(one, identifier.path) if forms(identifier, value)
        ]
    return closure


def erase(db, subject):
    """Carry every rule out in order, a document at a time; return rule -> documents written."""
    index = index_of([subject], MAP.identifiers.values())
    traces = [
        str(form)
        for one in MAP.traced
        for value in subject.closure.get(one.name, ())
        for form in forms(one, value)
        if len(str(form)) > 5
    ]
    pattern = re.compile("|".join(map(re.escape, traces)), re.IGNORECASE)
    counts = {}
    for rule in MAP.rules:
        for name in db.list_collection_names():
            if name == rule.collection or (rule.collection.endswith("*") and name.startswith(rule.collection[:-1])):
                counts[rule.id] = counts.get(rule.id, 0) + carry_out(db[name], rule, subject, index, pattern)
    return counts


def carry_out(collection, rule, subject, index, pattern):
    written = 0
    if is_anywhere(rule.select):
        found = [one for one in collection.find(conditions(rule.select)) if pattern.search(str(one))]
    else:
        found = list(collection.find(filter_for(rule.select, subject.closure, MAP.identifiers) or {"_id": {"$in": []}}))
    for document in found:
        if rule.action == "delete":
            written += collection.delete_one({"_id": document["_id"]}).deleted_count
            continue
        update = transform(document, rule.changes, index, {"r": REF}, lambda text: pattern.sub(REF, text))
        if update is not None:
            written += collection.update_one({"_id": document["_id"]}, update).modified_count
        after = collection.find_one({"_id": document["_id"]})
        assert settled(after, rule.changes, index, traced=[one.name for one in MAP.traced]), rule.id
    return written


EXPECTED = {
    "ai_content.about": 1, "ai_content.mentions": 1, "ai_content.asked": 1, "analytics.events": 2, "audit_log.acted": 1,
    "audit_log.acted_on": 3, "audit_log.mentions": 1, "audit_log.sealed": 1, "consent.evidence": 1, "geo_events.events": 1,
    "multilingual_content.about": 1, "multilingual_content.mentions": 1, "ops_before_*.mentions": 2, "ops_before_*.works": 1,
    "playlists.added_by": 1, "playlists.collaborator": 1, "security_events.events": 1, "security_events.mentions": 1,
    "versioning.changed_by": 1, "versioning.entities": 3, "versioning.mentions": 1, "artists.profile": 1, "playlists.owned": 1,
    "playlists.private": 1, "tracks.authorship": 2, "users.account": 1,
}  # fmt: skip


@pytest.fixture
def erased(model):
    """The planted database before and after Ana's rules were carried out."""
    for name, documents in planted().items():
        model[name].insert_many(documents)
    entry = audit.AuditEntry(
        action="x", entity_type="erasure_request", environment="development", result="done", actor="Eva",
        personal={"asked_by": f"a letter of {MAIL}", "other": "bo@example.org"},
    )  # fmt: skip
    audit.record(model, entry)
    before = {name: {str(one["_id"]): one for one in model[name].find()} for name in planted()}
    subject = Subject("r", REF, {name: tuple(values) for name, values in closure_of(model, ANA).items()})
    return model, before, subject, erase(model, subject)


def test_every_rule_of_the_reference_map_has_something_to_do_and_does_it_within_the_validators(erased):
    model, _, subject, counts = erased

    assert {name: len(values) for name, values in subject.closure.items()} == {
        "user_id": 1, "email": 1, "phone": 1, "display_name": 1, "artist_id": 1, "artist_name": 1, "image_key": 1, "track_id": 1,
        "private_playlist_id": 1, "shared_playlist_id": 1, "asset_key": 1,
    }  # fmt: skip
    assert counts == EXPECTED
    assert set(counts) == {rule.id for rule in MAP.rules}
    assert erase(model, subject) == dict.fromkeys(EXPECTED, 0), "a second time finds nothing to do"
    assert coverage(model, MAP) == []


def test_no_trace_is_left_but_where_the_map_says(erased):
    model, _, subject, _ = erased
    for identifier in MAP.traced:
        patterns = [pattern for value in subject.closure[identifier.name] for pattern in encodings(identifier, value)]
        assert patterns
        for name in model.list_collection_names():
            left = [
                one
                for one in model[name].find()
                if any(p in bson.encode(one, codec_options=CODEC).lower() for p in patterns)
            ]
            allowed = any(place.startswith(f"{name}.") for place in identifier.remains)
            assert allowed or left == [], (identifier.name, name)


def test_what_stays_is_as_the_map_says(erased):
    model, before, _, _ = erased
    namesake = {"name": NAME, "role": "guitar", "user_id": BO}

    assert model.artists.find_one({"_id": ARTIST}) == {"_id": ARTIST, "name": "Former artist", "genres": ["fado"]}
    own, song = (model.tracks.find_one({"_id": key}) for key in (TRACK, SONG))
    assert (own["composer"], own["credits"]) == (
        "Former artist, Rosa; LIMAX",
        [{"name": "Former artist", "role": "r"}, namesake],
    )
    assert (song["composer"], song["credits"]) == (
        "Bo & Former artist",
        [namesake, {"name": "Former artist", "role": "vocals"}],
    )
    public = model.playlists.find_one({"_id": LISTS[1]})
    assert public == {"_id": LISTS[1], "name": "Somebody's", "visibility": "public", "owner_id": None, "tracks": []}
    shared = model.playlists.find_one({"_id": LISTS[2]})
    assert shared["collaborators"] == [BO]
    assert shared["tracks"] == [{"track_id": TRACK}, {"track_id": TRACK, "added_by": BO, "added_at": NOW}]
    assert shared["name"] == f"{NAME}'s", "somebody else's playlist, somebody else's name"
    version = model.versioning.find_one({"reason": {"$exists": True}})
    assert (version["reason"], version["diff"][0]["value"]) == (f"asked by {REF}", {"who": REF})
    assert version["snapshot"]["credits"] == [namesake, {"name": "Former artist", "role": "vocals", "user_id": REF}]
    assert version["snapshot"]["by"] == {REF: 1}
    assert model.versioning.count_documents({"changed_by": REF}) == 1
    assert model.ai_content.find_one()["prompt"] == f"like {REF}!"
    evidence = model.consent.find_one({"subject_ref": REF})
    original = next(one for one in before["consent"].values() if one["user_id"] == ANA)
    assert evidence == {**{k: v for k, v in original.items() if k != "user_id"}, "subject_ref": REF}
    kept = model.security_events.find_one({"subject_ref": REF})
    assert kept.keys() == {"_id", "event_type", "severity", "occurred_at", "expires_at", "subject_ref"}
    assert model.audit_log.count_documents({"entity_id": REF}) == 3
    assert model.audit_log.find_one({"details.n": 1})["details"] == {"mail": REF, "n": 1}


def test_the_audit_chain_holds_and_only_the_persons_values_left_it(erased):
    model, _, _, _ = erased

    entry = model.audit_log.find_one({"chain": {"$exists": True}})
    assert entry["personal"].keys() == {"actor", "other"}
    found = verify(model)
    assert (found.ok, found.entries, found.erased_values) == (True, 1, 1), str(found)


UNTOUCHED = {
    "users": 1, "artists": 1, "tracks": 1, "playlists": 0, "analytics": 2, "ai_content": 0, "multilingual_content": 1, "versioning": 0,
    "geo_events": 1, "consent": 1, "security_events": 1, "audit_log": 1, "ops_before_x.0": 1,
}  # fmt: skip


def test_other_peoples_documents_are_byte_identical(erased):
    model, before, _, _ = erased
    same = {
        name: sum(
            1 for one in model[name].find() if set_digest([one]) == set_digest([before[name].get(str(one["_id"]), {})])
        )
        for name in UNTOUCHED
    }
    assert same == UNTOUCHED


# The foreign map --------------------------------------------------------------------------------------------------------


def test_the_foreign_map_fits_foreign_data(db):
    counts = chinook.load(db)

    assert counts == {"Customer": 59, "Invoice": 412, "InvoiceLine": 2_240, "Employee": 8, "Track": 3_503}
    assert coverage(db, chinook.data_map(), today=NOW.date()) == []


def test_the_foreign_map_selects_one_customer_by_any_number_type(db):
    chinook.load(db)
    data_map = chinook.data_map()
    db["Invoice"].update_one({"CustomerId": 5}, {"$set": {"CustomerId": 5.0}})
    closure = {"customer_id": [5], "invoice_id": [one["InvoiceId"] for one in db["Invoice"].find({"CustomerId": 5})]}
    index = index_of(
        [Subject("r", REF, {name: tuple(values) for name, values in closure.items()})], data_map.identifiers.values()
    )

    selected = {
        rule.id: db[rule.collection].count_documents(filter_for(rule.select, closure, data_map.identifiers))
        for rule in data_map.rules
        if not is_anywhere(rule.select)
    }
    assert selected == {"Customer.account": 1, "Invoice.billed": 7, "InvoiceLine.billed": 38}

    rule, invoice = data_map.rule("Invoice.billed"), db["Invoice"].find_one({"CustomerId": 5.0})
    update = transform(invoice, rule.changes, index, {"r": REF}, str)
    assert update["$set"] == {"CustomerId": REF}
    assert update["$unset"].keys() == {"BillingAddress", "BillingCity", "BillingState", "BillingPostalCode"}
