"""`mongo-ops online` on a real server: a migration from the plan to its end by command line alone, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.mongo.online_project import GHOST, SECONDS, spec
from tests.mongo.test_cli import ENVIRONMENTS, connection

from mongo_ops.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def include(replica_set, target, tmp_path, monkeypatch):
    folder = tmp_path / "include"
    (folder / "online").mkdir(parents=True)
    (folder / "environments.yaml").write_text(ENVIRONMENTS.format(storage=tmp_path / "storage"))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(folder))
    for environment in ("DEVELOPMENT", "STAGING", "PRODUCTION"):
        monkeypatch.setenv(f"AIRFLOW_CONN_MONGO_{environment}", connection(replica_set, target.database))
    target.db.tracks.insert_many([{"_id": n, "ms": n * 500} for n in range(300)])
    return folder


@pytest.fixture
def online(capsys):
    def run(*words, env="development"):
        code = main(["online", *words, *(["--env", env] if env else []), "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_a_ghost_migration_from_plan_to_contract(include, online, db):
    (include / "online" / "001_seconds.py").write_text(spec(**GHOST))
    assert online("lint", env=None) == (0, {"findings": []})
    code, plan = online("plan", "001")
    assert (code, plan["fence"], plan["stops"], plan["documents"]) == (2, "view", [], 300)
    assert online("start", "001", "--dry-run")[0] == 2
    assert "ops_online" not in db.list_collection_names()

    code, ready = online("start", "001")
    assert (code, ready["next"], ready["status"]["verification"]["clean"]) == (0, "ready", True)
    assert online("start", "001")[1]["next"] == "ready"  # again
    assert online("list")[1]["migrations"][0]["phase"] == "ready"
    assert online("pause", "001", "--set", "nice=2", "--set", "max_load.queue=50")[1]["max_load"] == {"queue": 50.0}
    assert online("pause", "001")[1]["command"] == "pause"
    assert online("cut-over", "001")[0] == 3
    assert online("resume", "001")[1]["command"] == "run"

    code, swapped = online("cut-over", "001")
    assert (code, swapped["fence"], swapped["drained"]) == (0, "view", 0)
    assert db.tracks.find_one({"_id": 3}) == {"_id": 3, "seconds": 1.5}
    assert online("follow", "001", "--budget", "1")[1]["phase"] == "soak"
    code, refused = online("contract", "001")
    assert (code, refused["kind"]) == (3, "WindowOpenError")
    assert online("contract", "001", "--early")[0] == 0
    assert online("status", "001")[1]["phase"] == "done"
    assert online("rollback", "001")[0] == 3
    assert online("abort", "001")[1]["kind"] == "WrongPhaseError"


def test_rollback_and_abort(include, online, db):
    (include / "online" / "001_seconds.py").write_text(spec(**GHOST))
    online("start", "001", "--parts", "2")
    online("cut-over", "001")
    db.tracks.insert_one({"_id": 900, "seconds": 2})
    code, back = online("rollback", "001", "--reason", "a test")
    assert (code, back["reads_gap_ms"]) == (0, 0)
    assert db.tracks.find_one({"_id": 900}) == {"_id": 900, "ms": 2000}

    (include / "online" / "002_again.py").write_text(spec(**SECONDS))
    assert online("start", "002")[0] == 0
    assert online("abort", "002", "--reason", "a test")[0] == 0
    assert db.tracks.count_documents({"seconds": {"$exists": True}}) == 0


def test_a_protected_environment_wants_both_digests(include, online):
    (include / "online" / "001_seconds.py").write_text(spec(**GHOST))
    code, refused = online("start", "001", env="production")
    assert (code, refused["kind"]) == (3, "ApprovalMissingError")
    digest = online("plan", "001", env="production")[1]["digest"]
    code, ready = online("start", "001", "--approved", digest, env="production")
    assert code == 0
    assert online("cut-over", "001", env="production")[1]["kind"] == "ApprovalMissingError"
    assert online("cut-over", "001", "--approved", ready["status"]["verification"]["digest"], env="production")[0] == 0
    assert online("rollback", "001", env="production")[0] == 3
    assert online("rollback", "001", "--yes", env="production")[0] == 0


def test_faults_are_sentences(include, online):
    (include / "online" / "001_bad.py").write_text(spec(transform="[]"))
    assert online("lint", env=None)[0] == 2
    assert "ON102" in online("start", "001")[1]["error"]
    assert online("status", "001")[1]["kind"] == "NotStartedError"
    assert online("plan", "007")[1]["kind"] == "SpecError"
    (include / "online" / "001_bad.py").write_text(spec(**SECONDS))
    online("start", "001")
    assert online("pause", "001", "--set", "nice")[1]["error"] == "--set takes KEY=VALUE, not 'nice'."
    assert online("pause", "001", "--set", "speed=3")[1]["kind"] == "ControlError"


def test_the_projects_examples_run_on_the_reference_model(include, online, db, monkeypatch):
    shutil.copytree(ROOT / "include" / "migrations", include / "migrations")
    shutil.copytree(ROOT / "include" / "online", include / "online", dirs_exist_ok=True)
    db.drop_collection("tracks")
    assert main(["migrate", "--env", "development"]) == 0
    artist = db.artists.insert_one({"name": "Björk"}).inserted_id
    db.tracks.insert_many([{"title": "t", "artist_id": artist, "duration_ms": n} for n in (0, 1499, 1501)])

    assert online("start", "001_track_seconds")[0] == 0
    assert online("contract", "001_track_seconds")[0] == 0
    assert sorted(row["duration_s"] for row in db.tracks.find()) == [0, 1, 2]

    assert online("start", "002_artist_names_in_any_case")[0] == 0
    assert online("cut-over", "002_artist_names_in_any_case")[0] == 0
    assert db.artists.find_one({"name": "bjork"})["_id"] == artist
