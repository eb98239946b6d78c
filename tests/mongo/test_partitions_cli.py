"""`mongo-ops partition`: plan, approval by digest, run, resume; and what it says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from mongo_ops.cli import main
from mongo_ops.partitions import archiving
from mongo_ops.partitions.months import Month, name_of
from mongo_ops.partitions.work import PARTITIONS

ENVIRONMENTS = """
environments:
  development: {{connection: mongo_here, database: {database}, storage: {storage}}}
  production: {{connection: mongo_here, database: {database}, storage: {storage}, protected: true}}
"""


@pytest.fixture
def cli(target, replica_set, tmp_path, monkeypatch, capsys):
    include = tmp_path / "include"
    include.mkdir()
    words = {"database": target.database, "storage": (tmp_path / "storage").as_uri()}
    (include / "environments.yaml").write_text(ENVIRONMENTS.format(**words))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(include))
    host, port = target.client.address
    monkeypatch.setenv(
        "AIRFLOW_CONN_MONGO_HERE", json.dumps({"conn_type": "mongo", "host": host, "port": port, "extra": '{"replicaSet": "rs0"}'})
    )  # fmt: skip

    def run(*words):
        code = main(["partition", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def filled(db):
    now = datetime.now(UTC)
    db.plays.insert_many([{"_id": i, "at": now - timedelta(days=2 * i)} for i in range(200)])
    return db


def test_a_dry_run_shows_picture_and_steps_and_writes_nothing(cli, filled):
    code, out, _ = cli("plays", "--env", "development", "--strategy", "by_time", "--key", "at", "--dry-run")

    assert code == 2
    assert "Documents of plays by month of at" in out
    assert out.count("█") > 20
    assert f"make {name_of('plays', Month.of(datetime.now(UTC)))}" in out
    assert "Uniqueness ends at a month" in out
    assert filled.list_collection_names() == ["plays"]


def test_a_protected_environment_wants_the_digest_that_the_dry_run_shows(cli, filled):
    words = ("plays", "--env", "production", "--strategy", "archive", "--key", "at", "--keep-months", "3")
    code, _, err = cli(*words)
    assert (code, "is protected and the plan is not approved" in err) == (3, True)
    _, out, _ = cli(*words, "--dry-run", "--json")
    planned = json.loads(out)

    code, out, _ = cli(*words, "--approved", planned["digest"], "--json")

    done = json.loads(out)["done"]
    assert code == 0
    assert done["archive"]["archived"] == done["remove"]["deleted"] == 200 - filled.plays.count_documents({})
    assert filled.plays.count_documents({}) < 80
    assert filled[PARTITIONS].count_documents({"plan": {"$exists": True}}) == 0


def test_a_run_that_failed_goes_on_under_its_name_with_the_plan_it_had(cli, filled, monkeypatch):
    words = ("plays", "--env", "development", "--strategy", "archive", "--key", "at", "--keep-months", "3")
    original = archiving.export

    def fails(*_):
        raise ConnectionError

    monkeypatch.setattr(archiving, "export", fails)
    with pytest.raises(ConnectionError):
        main(["partition", *words])
    (kept,) = filled[PARTITIONS].find({"plan": {"$exists": True}})
    monkeypatch.setattr(archiving, "export", original)

    code, out, _ = cli(*words, "--resume", kept["_id"].removeprefix("plan/"))

    assert code == 0
    assert re.search(r"remove: 1\d\d deleted", out)
    assert cli(*words, "--resume", "never")[0] == 3


def test_sharding_a_replica_set_is_refused_after_the_picture(cli, filled):
    words = ("plays", "--env", "development", "--strategy", "sharding", "--key", "at")

    code, out, _ = cli(*words, "--dry-run")
    refused, _, err = cli(*words)

    assert (code, refused) == (2, 3)
    assert "REFUSED  This deployment is a replica set" in out
    assert '{"shardCollection": "' in out
    assert "Put another field first, or hash it" in out
    assert "config servers, at least two shards" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plays", "--strategy", "archive", "--key", "at"), "needs keep_months"),
        (("ops_leases", "--strategy", "by_time", "--key", "at"), "stay as they are"),
        (("plays", "--strategy", "sharding", "--key", "a:hashed, b:hashed"), "at most one of them is hashed"),
        (("plays", "--strategy", "sharding", "--key", "a", "--zone", "[1"), "takes a JSON object"),
        (("plays", "--strategy", "restore"), "name the archive's folder"),
    ],
)
def test_what_is_not_well_formed_is_refused_in_a_sentence(cli, words, said):
    code, _, err = cli(*words, "--env", "development")

    assert code == 3
    assert said in err
