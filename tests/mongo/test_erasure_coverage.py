"""What the data map does not name is found: collections, paths, values, and waivers that ended."""

from __future__ import annotations

import dataclasses
from datetime import date
from uuid import UUID

import pytest
from bson import Binary, ObjectId
from bson.dbref import DBRef

from mongo_ops import audit
from mongo_ops.audit.log import HEADS
from mongo_ops.erasure import coverage as room
from mongo_ops.erasure.census import ELEMENTS_LOOKED_AT, KEYS_NAMED, Census, schema_paths
from mongo_ops.erasure.coverage import OWN, coverage
from mongo_ops.erasure.map_file import parse_map
from mongo_ops.erasure.model import FieldNote
from mongo_ops.migrations.history import COLLECTIONS
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.mongo.lease import LEASES

TODAY = date(2026, 3, 1)
ANA = ObjectId("aaaaaaaaaaaaaaaaaaaaaaa1")
MAP = parse_map(
    """
version: 1
subject: user_id
backups: P35D
identifiers:
  user_id: {collection: people, path: _id, types: [objectId, string]}
  email: {collection: people, path: email}
  list_id: {collection: lists, path: _id, where: {owner: $user_id, visibility: private}, types: [objectId]}
collections:
  people:
    fields: {_id: user.unique_id, email: user.contact.email, "tags[]": system, prefs.*: user, note: system}
    rules: {account: {select: {_id: $user_id}, action: delete, stage: root}}
  lists:
    fields: {_id: user.unique_id, owner: user.unique_id, visibility: system, "items[].n": system, "items[].by": system}
    rules: {theirs: {select: {owner: $user_id}, action: delete, stage: parents}}
  ops_before_*:
    fields: {_id: user.unique_id, before.*: user}
    rules: {mentions: {select: {anywhere: [user_id]}, action: delete}}
waivers:
  - {path: cache, why: rebuilt, owner: ops, until: 2026-03-01}
  - {path: people.legacy.*, why: going, owner: ops, until: 2026-06-30}
""",
    "map",
)


@pytest.fixture
def people(db):
    db["people"].insert_one(
        {"_id": ANA, "email": "ana@x.org", "tags": ["a"], "prefs": {"any": {"thing": 1}}, "note": "n"}
    )
    db["lists"].insert_one({"owner": ANA, "visibility": "private", "items": [{"n": 1}]})
    return db


def found(db, data_map=MAP, **options):
    return [(one.kind, one.where) for one in coverage(db, data_map, today=TODAY, **options)]


def test_what_is_named_is_no_finding(people):
    audit.prepare(people)
    people["audit_log"].drop()
    people["cache"].insert_one({"anything": ANA})  # waived until the end of today
    people["people"].insert_one({"legacy": {"x": 1}, "prefs": [], "tags": None})  # waived, and nothing in nothing
    people["ops_before_003.1"].insert_one({"before": {"email": "x@y.org"}})
    people.command("create", "a_view", viewOn="people", pipeline=[])
    people["fresh"].create_index("x")
    people["fresh"].drop()

    assert found(people) == []


def test_a_new_collection_is_found(people):
    people["wishes"].insert_one({"who": ANA})
    people["fs.files"].insert_one({"metadata": {"owner": ANA}})
    people["ops_restoring_0123"].insert_one({"email": "ana@x.org"})  # a copy that a crash left behind
    people["ops_mine"].insert_one({})

    assert found(people) == [("collection", name) for name in ("fs.files", "ops_mine", "ops_restoring_0123", "wishes")]
    assert "wishes is not in the data map" in coverage(people, MAP, today=TODAY)[-1].sentence


def test_an_online_migrations_copy_is_looked_at_as_its_original_is(people):
    people["ops_ghost_people"].insert_one({"_id": ANA, "email": "ana@x.org"})
    assert found(people) == []

    people["ops_ghost_people"].update_one({}, {"$set": {"nick": "n"}})
    people["ops_old_stock"].insert_one({"n": 1})

    assert len(found(people)) == 2
    assert ("collection", "ops_old_stock") in found(people)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"nick": "x"}, "nick"),
        ({"nick": None}, "nick"),  # the field is there; tomorrow it has a value
        ({"home": {"street": "x"}}, "home.street"),
        ({"tags": [["x"]]}, "tags[][]"),
        ({"tags": "x"}, "tags"),
        ({"email": ["x@y.org"]}, "email[]"),
        ({"friends": [{"of": {"who": 1}}]}, "friends[].of.who"),
        ({"friends": []}, "friends"),
        ({"ref": DBRef("people", ANA)}, "ref.$id"),
        ({"likes": {str(ANA): 1}}, "likes.*"),
        ({"likes": {"ana@x.org": 1}}, "likes.*"),
        ({"likes": {"a.b": 1}}, "likes.*"),
        ({"$odd": 1}, "*"),
        ({"legacy": 1}, "legacy"),  # only what is below is waived
    ],
)
def test_a_new_path_is_found_however_deep(people, change, path):
    people["people"].insert_one({"email": "bo@x.org", **change})

    places = [where for kind, where in found(people) if kind == "path"]
    assert f"people.{path}" in places
    assert all(place.startswith(f"people.{path.partition('[')[0].partition('.')[0]}") for place in places)
    assert not [
        one for one in coverage(people, MAP, today=TODAY) if "ana" in one.where + one.sentence or str(ANA) in one.where
    ]


def test_a_path_that_only_the_validator_names_is_found(people):
    schema = {"properties": {"email": {}, "iban": {}, "items": {"items": {"properties": {"n": {}, "for": {}}}}}}
    people.command("collMod", "lists", validator={"$jsonSchema": schema})

    assert found(people) == [("path", "lists.email"), ("path", "lists.iban"), ("path", "lists.items[].for")]
    assert "named by the validator" in coverage(people, MAP, today=TODAY)[0].sentence


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (ANA, "values of user_id"),
        (str(ANA), "values of user_id"),
        (str(ANA).upper(), "values of user_id"),
        ("ana@x.org", "e-mail addresses"),
        ("please write to Zoe@Example.org today", "e-mail addresses"),
    ],
)
def test_a_personal_value_where_none_should_be_is_found(people, value, what):
    people["people"].insert_one({"email": "bo@x.org", "note": value})
    people["lists"].insert_one({"owner": ANA, "items": [{"n": 1}, {"by": value}], "made_by": value})

    some = coverage(people, MAP, today=TODAY)

    assert [(one.kind, one.where) for one in some] == [
        ("path", "lists.made_by"), ("value", "lists.items[].by"), ("value", "people.note"),
    ]  # fmt: skip
    assert all(what in one.sentence for one in some)
    assert not [one for one in some if str(value).lower() in one.sentence.lower()]


@pytest.mark.parametrize(
    "value", [ObjectId(), "65f0", 5, True, UUID(int=5), Binary(b"x" * 12), "a text @ noon", "x" * 5_000, None]
)
def test_other_values_are_not_taken_for_persons(people, value):
    people["people"].insert_one({"email": "bo@x.org", "note": value})
    assert found(people) == []


def test_identifiers_are_only_those_of_people(people):
    """A public list's key names nobody; a private one's does."""
    public = people["lists"].insert_one({"owner": ANA, "visibility": "public"}).inserted_id
    private = people["lists"].insert_one({"owner": ANA, "visibility": "private"}).inserted_id
    people["people"].insert_one({"note": public})
    assert found(people) == []
    people["people"].insert_one({"note": private})
    assert found(people) == [("value", "people.note")]


def test_a_waiver_that_ended_is_found_and_covers_nothing_any_more(people):
    people["cache"].insert_one({"anything": 1})

    assert [(one.kind, one.where) for one in coverage(people, MAP, today=date(2026, 3, 2))] == [
        ("waiver", "cache"), ("collection", "cache"),
    ]  # fmt: skip
    assert "ended on 2026-03-01" in coverage(people, MAP, today=date(2026, 3, 2))[0].sentence
    assert coverage(people, MAP)[0].kind == "waiver", "today by default"


def test_before_images_need_a_rule_even_when_there_are_none_yet(people):
    rest = {name: entry for name, entry in MAP.collections.items() if name != "ops_before_*"}
    assert found(people, dataclasses.replace(MAP, collections=rest)) == [("collection", "ops_before_*")]


def test_the_oldest_and_the_newest_documents_are_always_looked_at(people):
    people["lists"].insert_many({"_id": number, "owner": ANA} for number in range(1_000))
    people["lists"].update_one({"_id": 0}, {"$set": {"old": 1}})
    people["lists"].insert_one({"_id": ObjectId(), "new": 1})

    places = {where for _, where in found(people, samples=3)}
    assert {"lists.old", "lists.new"} <= places


def test_many_new_paths_are_counted(people):
    people["people"].insert_one({f"f{number}": 1 for number in range(room.PATHS_NAMED + 7)})

    some = coverage(people, MAP, today=TODAY)
    assert len(some) <= room.PATHS_NAMED + 1
    assert some[0].where == "people.f0"


def test_memory_does_not_grow_with_documents_arrays_or_keys():
    census = Census({"_id": FieldNote("system")})
    for number in range(500):
        census.add(
            {"_id": number, "likes": {f"user{number}": {"n": 1}}, "t": f"text {number}", "a": list(range(10_000))}
        )

    assert 2 * KEYS_NAMED < 500
    assert {path: one.documents for path, one in census.seen.items()} == {
        "_id": 500,
        "t": 500,
        "a[]": 500,
        "likes.*.n": 500,
    }
    assert max(len(one.values) for one in census.seen.values()) == 200
    ends = Census({})
    ends.add({"a": [{"x": 1}, *[{"y": 1}] * 10 * ELEMENTS_LOOKED_AT, {"z": 1}]})
    assert set(ends.seen) == {"a[].x", "a[].y", "a[].z"}


def test_paths_of_a_schema():
    schema = {
        "properties": {
            "a": {"bsonType": "string"},
            "b": {"properties": {"c": {}}, "additionalProperties": False},
            "d": {"items": {"properties": {"e": {"items": [{}, {"properties": {"f": {}}}]}}}},
            "g": {"bsonType": "object"},
        }
    }
    assert list(schema_paths(schema)) == ["a", "b.c", "d[].e[]", "d[].e[].f", "g"]
    assert list(schema_paths(None)) == []


def test_the_list_of_own_collections_knows_those_of_the_package():
    assert {*COLLECTIONS, HEADS, CHECKPOINTS, LEASES} <= OWN
    assert not [name for name in OWN if name.startswith("ops_before_")]
