"""The command line on a real server: results, exit codes, and errors that say what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mongo_ops.cli import main
from mongo_ops.mongo.lease import Holder, acquire

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = """
environments:
  development: {{connection: mongo_development, storage: "{storage}"}}
  staging: {{connection: mongo_staging, storage: "{storage}"}}
  production: {{connection: mongo_production, protected: true, promotes_from: staging, storage: "{storage}"}}
"""
PLANS = '''"""The plans that can be bought, as reference data."""
from mongo_ops.migrations import InsertDocuments, Migration

migration = Migration(operations=[InsertDocuments("plans", [{"_id": "free"}, {"_id": "family"}])])
'''


def connection(replica_set, database: str, **more) -> str:
    host, _, port = replica_set.nodes[0].address.partition(":")
    extra = {"replicaSet": replica_set.name, "serverSelectionTimeoutMS": 3000}
    return json.dumps(
        {"conn_type": "mongo", "host": host, "port": int(port), "schema": database, "extra": extra, **more}
    )


@pytest.fixture
def project(replica_set, target, tmp_path, monkeypatch):
    """The include folder with the reference model, and connections to three databases that are dropped afterwards."""
    include = tmp_path / "include"
    shutil.copytree(
        ROOT / "include" / "migrations", include / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    (include / "environments.yaml").write_text(ENVIRONMENTS.format(storage=tmp_path / "storage"))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(include))
    names = {"DEVELOPMENT": "", "STAGING": "_s", "PRODUCTION": "_p"}
    for environment, suffix in names.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_MONGO_{environment}", connection(replica_set, target.database + suffix))
    yield include
    for suffix in ("_s", "_p"):
        target.client.drop_database(target.database + suffix)


def run(capsys, *words: str) -> tuple[int, dict]:
    """Run a command with --json and return its exit code and value."""
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def states(capsys, environment: str = "development") -> dict[str, str]:
    _, value = run(capsys, "status", "--env", environment)
    return {row["name"][:3]: row["state"] for row in value["migrations"]}


def test_plan_migrate_and_plan_again(project, db, capsys):
    code, value = run(capsys, "plan", "--env", "development")
    assert code == 2
    assert [step["name"][:3] for step in value["steps"]] == [f"{n:03d}" for n in range(1, 8)]
    assert db.list_collection_names() == []

    assert run(capsys, "migrate", "--env", "development", "--dry-run")[0] == 2
    assert db.list_collection_names() == []

    code, value = run(capsys, "migrate", "--env", "development", "--reason", "first run")
    assert code == 0
    assert [outcome["already"] for outcome in value["outcomes"]] == [False] * 7
    assert set(states(capsys).values()) == {"applied"}
    assert run(capsys, "plan", "--env", "development")[0] == 0
    assert run(capsys, "verify", "--env", "development") == (0, {"differences": [], "extras": []})


def test_rollback_puts_documents_aside_and_snapshots_restores_them(project, db, capsys):
    (project / "migrations" / "008_plans.py").write_text(PLANS)
    assert main(["migrate", "--env", "development"]) == 0
    assert sorted(db.plans.distinct("_id")) == ["family", "free"]

    assert main(["rollback", "--env", "development", "--to", "007"]) == 0
    assert db.plans.count_documents({}) == 0
    assert states(capsys)["008"] == "pending"

    _, value = run(capsys, "snapshots", "list", "--env", "development")
    name = next(name for name in value["snapshots"] if "008_plans" in name)
    assert run(capsys, "snapshots", "restore", name, "--env", "development")[0] == 3
    assert db.plans.count_documents({}) == 0
    assert run(capsys, "snapshots", "restore", "--env", "development", name, "--reason", "needed after all")[0] == 0
    assert sorted(db.plans.distinct("_id")) == ["family", "free"]
    assert run(capsys, "audit", "verify", "--env", "development")[1]["faults"] == []


@pytest.mark.parametrize(
    "words",
    [
        "restore ../../etc --env development --reason needed-again",
        "restore --env development ../../etc --reason needed-again",
        "restore --env development --reason needed-again ../../etc",
    ],
)
def test_the_order_of_a_snapshots_name_and_the_options_does_not_matter(project, capsys, words):
    code, value = run(capsys, "snapshots", *words.split())
    assert (code, value["kind"]) == (3, "SnapshotNameError")


def test_a_protected_environment_asks_for_promotion_and_approval(project, capsys):
    _, plan = run(capsys, "plan", "--env", "production")
    code, refused = run(capsys, "migrate", "--env", "production")
    assert (code, refused["kind"]) == (3, "ApprovalMissingError")
    assert plan["digest"] in refused["error"]

    code, refused = run(capsys, "migrate", "--env", "production", "--approved", plan["digest"])
    assert (code, refused["kind"]) == (3, "NotPromotedError")
    assert states(capsys, "production") == dict.fromkeys(states(capsys, "production"), "pending")

    assert main(["migrate", "--env", "staging"]) == 0
    assert main(["migrate", "--env", "production", "--approved", plan["digest"]]) == 0
    assert set(states(capsys, "production").values()) == {"applied"}


def test_breaking_the_glass_is_audited(project, target, capsys):
    _, plan = run(capsys, "plan", "--env", "production", "--to", "001")
    words = ["migrate", "--env", "production", "--to", "001", "--approved", plan["digest"]]

    assert main([*words, "--break-glass", "storage is on fire"]) == 0

    entries = list(target.client[target.database + "_p"]["audit_log"].find({"action": "gate.broken"}))
    assert [entry["details"]["break_glass"] for entry in entries] == ["storage is on fire"]


def test_a_held_lease_is_named_and_freed_only_by_force(project, db, capsys):
    assert main(["migrate", "--env", "development", "--to", "001"]) == 0
    lease = acquire(db, "migrations", Holder("somebody else"), ttl=60)

    code, refused = run(capsys, "migrate", "--env", "development")
    assert (code, refused["kind"]) == (3, "LeaseHeldError")
    assert "somebody else" in refused["error"]
    assert run(capsys, "unlock", "--env", "development")[0] == 3
    assert run(capsys, "unlock", "--env", "development", "--force")[1]["kind"] == "ReasonMissingError"

    code, value = run(capsys, "unlock", "--env", "development", "--force", "--reason", "its machine is gone")
    assert (code, value["taken_from"]) == (0, "somebody else")
    assert db["audit_log"].count_documents({"action": "lease.unlocked"}) == 1
    assert lease.release() is False
    assert main(["migrate", "--env", "development"]) == 0


def test_an_edited_file_stops_until_it_is_marked(project, capsys):
    path = project / "migrations" / "001_create_core_collections.py"
    assert main(["migrate", "--env", "development"]) == 0
    path.write_text(path.read_text().replace('"core",', '"core", "edited",'))

    code, refused = run(capsys, "migrate", "--env", "development")
    assert (code, refused["kind"]) == (3, "ChecksumDriftError")

    words = ["mark", "001", "--env", "development", "--as", "applied"]
    assert main([*words, "--reason", "tags only, nothing to run"]) == 0
    capsys.readouterr()
    assert run(capsys, "plan", "--env", "development")[0] == 0


def test_baseline_records_without_running(project, db, capsys):
    assert (
        run(capsys, "baseline", "--env", "development", "--to", "004", "--reason", "built by hand", "--dry-run")[0] == 2
    )
    assert db.list_collection_names() == []

    assert main(["baseline", "--env", "development", "--to", "004", "--reason", "built by hand"]) == 0
    capsys.readouterr()

    assert states(capsys)["004"] == "baseline"
    assert "users" not in db.list_collection_names()
    assert run(capsys, "rollback", "--env", "development", "--to", "001")[1]["kind"] == "IrreversibleError"


@pytest.mark.chaos
def test_rehearse_leaves_the_database_alone(project, target, db, capsys):
    code, value = run(capsys, "rehearse", "--env", "development")

    assert (code, value["ok"]) == (0, True)
    assert db.list_collection_names() == []
    assert [
        name for name in target.client.list_database_names() if "rehearsal" in name and target.database in name
    ] == []


def test_bad_input_is_refused_before_anything_is_written(project, db, monkeypatch, capsys):
    cases = [
        (["migrate", "--env", "nowhere"], "SettingsError"),
        (["migrate", "--env", "development", "--to", "099"], "UnknownVersionError"),
        (["migrate", "--env", "development", "--to", '{"$gt": ""}'], "UnknownVersionError"),
        (["rollback", "--env", "development", "--to", "x"], "UnknownVersionError"),
        (["snapshots", "restore", "../../etc", "--env", "development", "--reason", "try it"], "SnapshotNameError"),
        (["audit", "verify", "--env", "development", "--anchor", "x"], "PlanError"),
    ]
    for words, kind in cases:
        code, value = run(capsys, *words)
        assert (code, value["kind"]) == (3, kind), words
    monkeypatch.delenv("AIRFLOW_CONN_MONGO_DEVELOPMENT")
    assert run(capsys, "status", "--env", "development")[1]["kind"] == "InvalidConnectionError"
    assert {"users", "ops_migrations"}.isdisjoint(db.list_collection_names(filter={"name": "users"}))


def test_a_server_that_is_gone_is_a_failure_and_shows_no_password(project, monkeypatch, capsys):
    gone = {
        "conn_type": "mongo",
        "host": "127.0.0.1",
        "port": 1,
        "login": "ops",
        "password": "s3cret!/@",
        "schema": "x",
    }
    monkeypatch.setenv(
        "AIRFLOW_CONN_MONGO_DEVELOPMENT", json.dumps({**gone, "extra": {"serverSelectionTimeoutMS": 300}})
    )

    code, value = run(capsys, "status", "--env", "development")

    assert (code, value["kind"]) == (1, "ServerUnreachableError")
    assert "s3cret" not in json.dumps(value)


def test_new_writes_a_file_that_lint_accepts(project, capsys):
    assert main(["new", "add_user_locale"]) == 0
    path = Path(capsys.readouterr().out.strip())

    assert path.name == "008_add_user_locale.py"
    assert run(capsys, "lint") == (0, {"findings": []})
    assert main(["new", "Bad-Slug"]) == 3


def test_help_needs_neither_airflow_nor_pymongo():
    code = "import sys; from mongo_ops.cli.main import build_parser; build_parser().format_help(); print(sorted(sys.modules))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    began = time.process_time()
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout

    assert "'airflow'" not in out
    assert "'pymongo'" not in out
    assert time.process_time() - began < 5


def test_a_broken_head_is_told_and_sealed_again(project, db, capsys):
    assert main(["migrate", "--env", "development", "--to", "001"]) == 0
    db["ops_audit_head"].delete_many({})
    capsys.readouterr()

    assert run(capsys, "audit", "verify", "--env", "development")[0] == 1
    assert run(capsys, "audit", "reseal", "--env", "development")[1]["kind"] == "ReasonMissingError"
    code, value = run(capsys, "audit", "reseal", "--env", "development", "--reason", "the head was dropped by accident")
    assert (code, value["head_seq"]) == (0, 2)
    assert run(capsys, "audit", "verify", "--env", "development")[0] == 0
