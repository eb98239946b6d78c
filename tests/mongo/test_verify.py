"""Verification: separate code that finds every place where the catalogue is not as the applied migrations say."""

from __future__ import annotations

import pytest
from tests.mongo.runner import INCLUDE, Project, migration

from mongo_ops.migrations.verify import differences, extras


@pytest.fixture
def project(target):
    made = Project(target, INCLUDE)
    made.migrate()
    return made


def found(project):
    facts = project.survey()
    return [str(drift) for drift in differences(project.db, facts.files, facts.records)]


def strangers(project):
    facts = project.survey()
    return [str(drift) for drift in extras(project.db, facts.files, facts.records)]


def test_the_reference_model_is_as_its_migrations_say_after_each_of_them(target):
    project = Project(target, INCLUDE)
    for file in project.survey().files:
        project.migrate(file.name)
        assert found(project) == []
    assert strangers(project) == []
    kinds = {
        str(index["key"]) for name in ("geo_events", "multilingual_content") for index in target.db[name].list_indexes()
    }
    assert any("2dsphere" in kind for kind in kinds)
    assert any("text" in kind for kind in kinds)


def test_each_tampering_is_named_and_the_way_back_is_clean(project):
    db = project.db
    [artists] = list(db.list_collections(filter={"name": "artists"}))
    email = next(name for name, spec in db.users.index_information().items() if dict(spec["key"]).get("email"))
    spec = db.users.index_information()[email]
    options = {
        key: value for key, value in spec.items() if key in ("unique", "partialFilterExpression", "collation", "sparse")
    }

    db.users.drop_index(email)
    assert found(project) == [f"the index {email} of users is missing"]
    db.users.create_index(spec["key"], name=email)  # of the same name, but not unique
    [text] = found(project)
    assert text.startswith(f"the index {email} of users is changed: ")
    assert "unique" in text
    db.users.drop_index(email)
    db.users.create_index(spec["key"], name=email, **options)
    assert found(project) == []

    db.command("collMod", "artists", validator={})
    [text] = found(project)
    assert text.startswith("the collection artists is changed: ")
    assert "validator: wanted" in text
    db.command("collMod", "artists", validator=artists["options"]["validator"], validationLevel="moderate")
    assert "validationLevel" in found(project)[0]
    db.command("collMod", "artists", validationLevel="strict", validationAction="warn")
    assert "validationAction" in found(project)[0]
    db.command("collMod", "artists", validationAction="error")
    assert found(project) == []

    db.command("collMod", "security_events", index={"name": "expiry", "expireAfterSeconds": 60})
    [text] = found(project)
    assert text.startswith("the index expiry of security_events is changed: ")
    assert "expireAfterSeconds" in text
    db.command("collMod", "security_events", index={"name": "expiry", "expireAfterSeconds": 0})
    assert found(project) == []

    db.drop_collection("playlists")
    assert found(project) == ["the collection playlists is missing"]


def test_an_index_that_no_migration_built_is_a_stranger_and_no_difference(project):
    project.db.users.create_index("display_name", name="made_by_hand")

    assert found(project) == []
    assert strangers(project) == ["the index made_by_hand of users is extra"]


def test_what_is_rolled_back_is_no_longer_expected(target):
    project = Project(target, INCLUDE)
    project.migrate("2")
    project.rollback("1")

    assert found(project) == []
    project.rollback("0")
    assert found(project) == []


def test_partial_collated_hidden_and_wildcard_indexes_are_read_back_as_they_were_made(target, tmp_path):
    project = Project(target, tmp_path / "include")
    project.write(
        n001_all=migration(
            "CreateCollection('names', collation={'locale': 'de', 'strength': 2})",
            "CreateIndex('names', keys=[('a', 1)], name='inherits')",
            "CreateIndex('names', keys=[('a', 1)], name='simple', collation={'locale': 'simple'})",
            "CreateIndex('names', keys=[('b', -1), ('c', 1)], name='part', unique=True, partial={'b': {'$gt': 1}})",
            "CreateIndex('names', keys=[('d', 1)], name='french', collation={'locale': 'fr'}, sparse=True)",
            "CreateIndex('names', keys=[('$**', 1)], name='wild', wildcard_projection={'a': 1})",
            "CreateIndex('names', keys=[('e', 'hashed')], name='hash')",
            "CreateIndex('names', keys=[('at', 1)], name='old', ttl_seconds=3600)",
            "CreateCollection('points', timeseries={'timeField': 'at', 'metaField': 'm'}, expire_after_seconds=60)",
            "CreateCollection('ring', capped={'size': 65536, 'max': 10})",
            "CreateCollection('byid', clustered=True)",
        )
    )
    project.migrate()

    assert found(project) == []
    project.db.names.drop_index("french")
    project.db.names.create_index("d", name="french", sparse=True)  # inherits German instead
    assert len(found(project)) == 1
    project.db.names.drop_index("part")
    project.db.names.create_index(
        [("b", -1), ("c", 1)], name="part", unique=True, partialFilterExpression={"b": {"$gt": 2}}
    )
    assert [text.split(" is ")[0] for text in found(project)] == [
        "the index part of names",
        "the index french of names",
    ]


def test_later_migrations_change_what_is_expected(target, tmp_path):
    project = Project(target, tmp_path / "include")
    project.write(
        n001_a=migration("CreateCollection('users', {'a': 1})", "CreateIndex('users', keys=[('a', 1)], name='a')"),
        n002_b=migration("SetValidator('users', {'b': 1})", "DropIndex('users', 'a')"),
        n003_c=migration("RenameCollection('users', 'people')"),
    )
    for version in ("1", "2", "3"):
        project.migrate(version)
        assert found(project) == []
    project.db.command("collMod", "people", validator={"a": 1})
    assert "the collection people is changed: " in found(project)[0]
