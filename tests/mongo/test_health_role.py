"""The health user's role as docs/health.md gives it: enough for every check and the history, and for nothing else."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from tests.mongo.healths import look, looking, told

from mongo_ops.cli import main
from mongo_ops.embedded.server import Mongod
from mongo_ops.health import session as sessions
from mongo_ops.mongo.connection import ConnectionSpec, CredentialsRefusedError, connect
from mongo_ops.settings import Environment

PAGE = Path(__file__).parents[2] / "docs" / "health.md"
SECRET, NAME = "a password of tests", "spotify_ai_agent"


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A one-node replica set that demands a login, with the health user that the page describes."""
    folder = tmp_path_factory.mktemp("locked")
    key = folder / "key"
    key.write_text("c2VjcmV0a2V5Zm9ydGVzdHM=")
    key.chmod(0o400)
    server = Mongod(folder / "node", options=("--keyFile", str(key)))
    server.start()
    try:
        with server.direct_client() as client:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": server.address}]})
            deadline = time.monotonic() + 20
            while not client.admin.command("hello").get("isWritablePrimary"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            client.admin.command("createUser", "root", pwd=SECRET, roles=["root"])
        with MongoClient(server.address, username="root", password=SECRET, replicaSet="rs0") as root:
            root.admin.command(json.loads(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]))
            root.admin.command("createUser", "health", pwd=SECRET, roles=["mongoOpsHealth"])
            root[NAME].notes.insert_one({"a": 1})
            root[NAME].notes.create_index("a")
        yield server
    finally:
        server.kill()


def uri(server, password=SECRET):
    return f"mongodb://health:{quote(password)}@{server.address}/?replicaSet=rs0&authSource=admin"


def test_the_role_of_the_page_is_enough_for_every_check_and_for_no_other_write(locked):
    environment = Environment("development", "c", database=NAME)
    place = SimpleNamespace(uri=uri(locked), nodes=[locked])
    with connect(ConnectionSpec("c", uri(locked), "here", NAME), environment) as target:
        with looking(place, target) as session:
            snapshot = session.snapshot()
            run = look(session, target, "run")
        with pytest.raises(OperationFailure):
            target.db.notes.insert_one({})
        kept = target.db.ops_health.count_documents({"kind": "run"})

    assert dict(snapshot.missing) == {}
    assert {one.check: one.reason for one in run.results if one.error} == {}
    assert told(run)["wide_roles", "admin.root"] == ("WARN", "NEW")
    assert (run.notes, kept) == ((), 1)


def test_wrong_credentials_are_one_clear_error(locked):
    wrong = ConnectionSpec("c", uri(locked, "wrong"), "here", NAME)
    with pytest.raises(CredentialsRefusedError, match="refused the user or password of connection c"):
        with connect(wrong, Environment("development", "c", database=NAME)):
            pytest.fail("it connected")


def test_wrong_credentials_end_the_command_with_one_sentence_and_no_report(locked, monkeypatch, capsys, tmp_path):
    where = {
        "conn_type": "mongo",
        "host": locked.address,
        "login": "health",
        "password": "wrong",
        "extra": {"replicaSet": "rs0"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_MONGO_DEVELOPMENT", json.dumps(where))

    assert (
        main(["health", "--env", "development", "--html", str(tmp_path / "report.html")])
        == CredentialsRefusedError.exit_code
        == 3
    )
    said = capsys.readouterr()
    assert (said.out, len(said.err.strip().splitlines())) == ("", 1)
    assert "refused the user or password of connection mongo_development" in said.err
    assert not (tmp_path / "report.html").exists()


def test_what_a_user_may_not_read_is_unknown_by_name(locked):
    with MongoClient(locked.address, username="root", password=SECRET, replicaSet="rs0") as root:
        root.admin.command("createUser", "poor", pwd=SECRET, roles=[{"role": "read", "db": NAME}])
    poor = uri(locked).replace("//health:", "//poor:")
    environment = Environment("development", "c", database=NAME)
    place = SimpleNamespace(uri=poor, nodes=[locked])
    with connect(ConnectionSpec("c", poor, "here", NAME), environment) as target, looking(place, target) as session:
        run = sessions.record(target, session.run("run", ()), session.thresholds)
        snapshot = session.snapshot()

    assert snapshot.missing["server"] == "OperationFailure Unauthorized"
    assert snapshot.missing["catalogue"] == "OperationFailure Unauthorized"
    assert "could not be written (OperationFailure Unauthorized)" in run.notes[0]
