"""`mongo-ops export` and `import`: results, exit codes, pipes, processes, and what a protected environment asks."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import bson
import pytest
from tests.mongo.test_cli import ENVIRONMENTS, connection

from mongo_ops.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(replica_set, target, tmp_path, monkeypatch):
    include = tmp_path / "include"
    include.mkdir()
    (include / "environments.yaml").write_text(ENVIRONMENTS.format(storage=tmp_path / "storage"))
    monkeypatch.setenv("MONGO_OPS_INCLUDE", str(include))
    for name in ("DEVELOPMENT", "PRODUCTION"):
        monkeypatch.setenv(f"AIRFLOW_CONN_MONGO_{name}", connection(replica_set, target.database))
    target.db.users.insert_many([{"_id": i, "name": f"n{i}", "tags": ["a"]} for i in range(500)])
    return tmp_path


def run(capsys, *words):
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_backup_and_its_way_back(project, db, capsys):
    place = str(project / "backup")
    code, value = run(capsys, "export", place, "--env", "development", "--dry-run")
    assert (code, value["collections"][0]["name"], len(value["parts"])) == (2, "users", 1)
    assert not Path(place).exists()
    code, value = run(capsys, "export", place, "--env", "development", "--verify", "--partitions", "3")
    assert (code, value["manifest"]["total"]["count"], value["verified"]) == (0, 500, True)
    code, value = run(capsys, "export", place, "--env", "development")
    assert (code, value["kind"]) == (3, "AlreadyWrittenError")
    db.users.drop()

    code, value = run(capsys, "import", place, "--env", "development", "--dry-run")
    assert (code, value["preview"][0]["rows"]) == (2, 500)
    assert db.users.count_documents({}) == 0
    code, value = run(capsys, "import", place, "--env", "development", "--processes", "2")
    assert (code, value["inserted"], value["verified"]) == (0, 500, ["users"])
    assert db.users.count_documents({}) == 500


def test_people_read_sentences(project, capsys):
    place = str(project / "backup")
    assert main(["export", place, "--env", "development", "--dry-run"]) == 2
    assert "About 500 documents" in capsys.readouterr().out
    assert main(["export", place, "--env", "development", "--verify"]) == 0
    out = capsys.readouterr()
    assert "The export is whole: 1 files with 500 documents." in out.out
    assert "go on with --resume cli-" in out.err
    assert main(["import", place, "--env", "development", "--dry-run"]) == 2
    assert "500 of them by their key in users already" not in capsys.readouterr().out  # 200 rows are looked at
    assert main(["import", place, "--env", "development", "--mode", "upsert"]) == 0
    assert "500 matched" in capsys.readouterr().out


def test_a_run_that_was_stopped_is_resumed_by_its_name(project, capsys):
    place = str(project / "backup")
    from mongo_ops.cli import support
    from mongo_ops.storage import open_folder
    from mongo_ops.transfer import engine

    with support.open_target("development") as target:
        folder = open_folder(Path(place).as_uri())
        plan = engine.plan_export(target, folder, engine.ExportRequest(collections=("users",)))
        engine.begin_export(target, folder, plan, "mine")
    words = ("export", place, "--env", "development", "--collection", "users")
    code, value = run(capsys, *words)
    assert (code, value["kind"]) == (3, "DestinationBusyError")
    assert run(capsys, *words, "--resume", "mine")[0] == 0
    assert run(capsys, *words, "--discard")[0] == 3


def test_pipes_carry_one_collection(project, db):
    command = [sys.executable, "-m", "mongo_ops.cli"]
    words = [*command, "export", "-", "--env", "development", "--collection", "users", "--format", "jsonl.gz"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    code = "import sys; from mongo_ops.cli import main; sys.exit(main(sys.argv[1:]))"
    out = subprocess.run(
        [sys.executable, "-c", code, *words[3:]], capture_output=True, env=environment, check=True
    ).stdout
    rows = [json.loads(line) for line in gzip.decompress(out).splitlines()]
    assert rows == list(db.users.find())
    load = ["import", "-", "--env", "development", "--format", "jsonl.gz", "--into", "copy", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *load], input=out, capture_output=True, env=environment, check=True
    )
    assert json.loads(done.stdout)["inserted"] == 500
    assert list(db.copy.find(sort=[("_id", 1)])) == rows


def test_a_pipe_needs_to_know_what_comes(project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    assert run(capsys, "import", "-", "--env", "development")[0] == 3
    assert run(capsys, "export", "-", "--env", "development")[0] == 3


def test_files_of_others_with_rejects(project, db, capsys):
    (project / "in").mkdir()
    (project / "in" / "plans.csv").write_text("_id,price,since\n1,9.5,2020-01-01\n2,x,2021-01-01\n3,7,never\n")
    words = ("import", str(project / "in"), "--env", "development", "--files", "*.csv", "--type", "since=date")
    code, value = run(capsys, *words)
    assert (code, value["kind"]) == (3, "RowRefusedError")
    db.plans.drop()
    code, value = run(capsys, *words, "--on-error", "reject")
    assert (code, value["inserted"], value["rejected"]) == (0, 2, 1)
    rejected = Path(value["rejects"].removeprefix("file://")).read_text()
    assert json.loads(rejected)["reason"] == "column since is not of its type"
    assert db.plans.find_one({"_id": 2})["price"] == "x"


def test_a_protected_environment_needs_the_plans_digest(project, db, capsys):
    place = str(project / "backup")
    assert run(capsys, "export", place, "--env", "production", "--format", "bson")[0] == 0
    db.users.drop()
    code, value = run(capsys, "import", place, "--env", "production")
    assert (code, value["kind"]) == (3, "ApprovalMissingError")
    assert db.users.count_documents({}) == 0
    _, plan = run(capsys, "import", place, "--env", "production", "--dry-run")
    assert run(capsys, "import", place, "--env", "production", "--approved", plan["digest"])[0] == 0
    assert db.users.count_documents({}) == 500


def test_a_filter_selects_and_a_wrong_one_is_refused(project, capsys):
    place = str(project / "some")
    words = ("export", place, "--env", "development", "--collection", "users", "--format", "bson")
    code, value = run(capsys, *words, "--where", '{"_id": {"$lt": 10}}', "--fields", "name")
    assert (code, value["manifest"]["total"]["count"]) == (0, 10)
    part = value["manifest"]["collections"][0]["parts"][0]["file"]
    rows = bson.decode_all((Path(place) / part).read_bytes())
    assert set(rows[0]) == {"_id", "name"}
    assert run(capsys, *words, "--where", "{broken")[0] == 3
