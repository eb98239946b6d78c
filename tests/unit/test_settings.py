"""Environments: what the file may say, and what is told about what it may not."""

from __future__ import annotations

import pytest

from mongo_ops import settings
from mongo_ops.settings import Environment, SettingsError, load_environment, load_environments, load_personal_fields

FULL = """
environments:
  development: {connection: mongo_development}
  staging: {connection: c2, database: other, promotes_from: development, storage: "s3://bucket/x"}
  production:
    connection: c3
    protected: true
    promotes_from: staging
    max_lag_seconds: 3
    batch_seconds: 0.25
    budget_seconds: 600
    lease_seconds: 90
    approval_minutes: 5
    approvers: [ana, ben]
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "environments.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_environments_keep_their_order_and_their_rules(write):
    found = load_environments(write(FULL))

    assert list(found) == ["development", "staging", "production"]
    default = Environment("development", "mongo_development", storage=(settings.PROJECT / ".run/storage").as_uri())
    assert found["development"] == default
    assert (found["staging"].database, found["staging"].storage) == ("other", "s3://bucket/x")
    production = found["production"]
    assert (production.protected, production.promotes_from, production.approvers) == (True, "staging", ("ana", "ben"))
    limits = (production.max_lag, production.batch_seconds, production.budget, production.lease_ttl)
    assert (*limits, production.approval_minutes) == (3, 0.25, 600, 90, 5)


def test_the_projects_own_file_is_valid():
    found = load_environments(settings.PROJECT / "include")

    assert [environment.protected for environment in found.values()] == [False, False, True]
    assert [environment.promotes_from for environment in found.values()] == [None, "development", "staging"]


def one(entry):
    return f"environments: {{dev: {{{entry}}}}}"


WRONG = [
    ("a: [", "not valid YAML"),
    ("", "must hold a mapping `environments`"),
    ("[1]", "must hold a mapping"),
    ("environments: {}", "at least one entry"),
    ("environments: [dev]", "must hold a mapping"),
    ("environments: {dev: }", "environment dev: "),
    (one("connection: ''"), "dev: connection"),
    (one("connection: c, password: x"), "password: Extra inputs"),
    (one("connection: c, database: 'a b'"), "database: String should match"),
    (one("connection: c, database: " + "x" * 64), "database: String should match"),
    (one("connection: c, protected: perhaps"), "protected: Input should be a valid boolean"),
    (one("connection: c, batch_seconds: 0"), "batch_seconds: "),
    (one("connection: c, lease_seconds: 0.5"), "lease_seconds: "),
    (one("connection: c, budget_seconds: -1"), "budget_seconds: "),
    (one("connection: c, promotes_from: nowhere"), "promotes from 'nowhere', which is no other environment"),
    (one("connection: c, promotes_from: dev"), "promotes from 'dev', which is no other environment"),
    (one("connection: c, storage: '${NOT_SET_HERE}/x'"), "the variable NOT_SET_HERE in `storage` is not set"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_wrong_file_is_refused_with_its_place(write, text, said):
    with pytest.raises(SettingsError) as caught:
        load_environments(write(text))
    assert said in str(caught.value)
    assert "environments.yaml" in str(caught.value)


def test_a_missing_file_and_an_unknown_environment_say_what_there_is(tmp_path, write):
    with pytest.raises(SettingsError, match="MONGO_OPS_INCLUDE"):
        load_environments(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="names development, staging, production"):
        load_environment("prod", write(FULL))
    assert load_environment("staging", write(FULL)).name == "staging"


@pytest.mark.parametrize(
    ("storage", "variable", "uri"),
    [
        ("${STORE}/dev", "s3://b", "s3://b/dev"),
        ("${STORE:-file:///tmp/x}/dev", None, "file:///tmp/x/dev"),
        ("${STORE:-ignored}/dev", "gs://b", "gs://b/dev"),
        ("/data/${STORE}", "x", "file:///data/x"),
    ],
)
def test_storage_takes_variables_and_defaults(write, monkeypatch, storage, variable, uri):
    monkeypatch.delenv("STORE", raising=False)
    if variable:
        monkeypatch.setenv("STORE", variable)

    assert load_environments(write(one(f"connection: c, storage: '{storage}'")))["dev"].storage == uri


def test_the_include_folder_is_chosen_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(settings.INCLUDE_VARIABLE, str(tmp_path))
    assert settings.include_folder() == tmp_path.resolve()
    monkeypatch.delenv(settings.INCLUDE_VARIABLE)
    assert settings.include_folder() == settings.PROJECT / "include"


MAP = """
collections:
  users: {fields: {email: user.contact.email, address.city: user, "credits[].name": user, "tags[]": system, details.*: user}}
"""


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("email", True),
        ("address.city", True),
        ("address", True),  # a document of which a field is named
        ("address.street", False),
        ("credits.name", True),
        ("credits", True),
        ("credits.email", False),
        ("tags", True),
        ("details", True),
        ("details.home.phone", True),
        ("mail", False),
        ("ema", False),
        ("detail", False),
    ],
)
def test_the_data_map_names_fields_as_migrations_do(tmp_path, field, named):
    (tmp_path / "data_map.yaml").write_text(MAP)

    found = load_personal_fields(tmp_path)

    assert list(found) == ["users"]
    assert (field in found["users"]) is named
    assert sorted(found["users"]) == ["address.city", "credits.name", "details.*", "email", "tags"]
    assert len(found["users"]) == 5


def test_without_a_data_map_nothing_is_known_and_a_broken_one_is_refused(tmp_path):
    assert load_personal_fields(tmp_path) is None
    for text in ("a: [", "collections: [users]", "collections: {users: {}}", "{}"):
        (tmp_path / "data_map.yaml").write_text(text)
        with pytest.raises(SettingsError, match="`collections`, each with its `fields`"):
            load_personal_fields(tmp_path)


def test_the_projects_data_map_names_every_collection_of_the_model():
    found = load_personal_fields(settings.PROJECT / "include")

    assert {"users", "tracks", "audit_log", "ops_before_*"} <= set(found)
    assert "location" in found["geo_events"]


def test_the_folder_of_assets_is_written_like_the_storage_and_is_none_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "s3://product")
    (tmp_path / "environments.yaml").write_text(
        "environments:\n  a: {connection: x}\n  b: {connection: x, assets: '${BUCKET}/media', assets_connection: s, nightly: true}\n"
    )
    found = load_environments(tmp_path)

    assert (found["a"].assets, found["a"].assets_connection, found["a"].nightly) == (None, None, False)
    assert (found["b"].assets, found["b"].assets_connection, found["b"].nightly) == ("s3://product/media", "s", True)
    monkeypatch.delenv("BUCKET")
    with pytest.raises(SettingsError, match="BUCKET in `assets`"):
        load_environments(tmp_path)
