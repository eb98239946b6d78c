"""The fences of a deployment with log-ins: which one is chosen by rights, that it refuses the writers and only them, and is lifted again."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from tests.mongo.online_project import Project, spec

from mongo_ops.embedded.server import Mongod
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.online import exchange, fence, steps
from mongo_ops.online.model import FenceKind, Phase
from mongo_ops.settings import Environment

SECRET, NAME = "a password of tests", "shop"
VERSION = {"mode": '"ghost"', "transform": '[{"$set": {"v": 2}}]', "inverse": '[{"$unset": "v"}]'}
WRITING = ["find", "insert", "update", "remove"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A replica set that demands a login: the application's role, one of ours with the write block, one without."""
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
            users(root)
        yield server
    finally:
        server.kill()


def users(root):
    ours = ["readWrite", "dbAdmin"]
    root[NAME].command("createRole", "app", privileges=[privilege(WRITING, "")], roles=[])
    root[NAME].command("createUser", "app", pwd=SECRET, roles=["app"])
    monitor = [{"role": "clusterMonitor", "db": "admin"}, {"role": "readAnyDatabase", "db": "admin"}]
    cluster = {"resource": {"cluster": True}, "actions": ["setUserWriteBlockMode", "bypassWriteBlockingMode"]}
    root.admin.command("createRole", "blocker", privileges=[cluster], roles=[])
    blocker = [{"role": "blocker", "db": "admin"}]
    root.admin.command(
        "createUser", "block", pwd=SECRET, roles=[*monitor, *blocker, *({"role": one, "db": NAME} for one in ours)]
    )
    admins = [{"role": one, "db": NAME} for one in (*ours, "userAdmin")]
    root.admin.command("createUser", "roles", pwd=SECRET, roles=[*monitor, *admins])
    root.admin.command(
        "createUser", "plain", pwd=SECRET, roles=[*monitor, *({"role": one, "db": NAME} for one in ours)]
    )


def privilege(actions, collection):
    return {"resource": {"db": NAME, "collection": collection}, "actions": actions}


@pytest.fixture
def as_user(locked, tmp_path):
    """A project on behalf of a user, and the application's own collection."""
    open_ones = []

    def opened(user, **words):
        uri = f"mongodb://{user}:{quote(SECRET)}@{locked.address}/?replicaSet=rs0&authSource=admin"
        context = connect(ConnectionSpec("c", uri, "here", NAME), Environment("development", "c", database=NAME))
        project = Project(context.__enter__(), tmp_path / "include")
        open_ones.append(context)
        project.write("001_version", spec(**VERSION, **words))
        return project

    app = MongoClient(f"mongodb://app:{quote(SECRET)}@{locked.address}/?replicaSet=rs0&authSource={NAME}")
    with MongoClient(locked.address, username="root", password=SECRET, replicaSet="rs0") as root:
        for name in ("tracks", "ops_online", "ops_old_tracks", "ops_ghost_tracks"):  # the audit chain goes on
            root[NAME].drop_collection(name)
    app[NAME].tracks.insert_many([{"_id": n, "ms": n} for n in range(200)])
    yield opened, app[NAME].tracks
    app.close()
    for context in open_ones:
        context.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("user", "kind", "code", "words"),
    [
        ("block", FenceKind.USER_WRITE_BLOCK, 371, {}),
        ("roles", FenceKind.ROLE, 13, {"fence": 'Fence(roles=("app",))'}),
    ],
)
def test_the_application_is_refused_reads_on_and_writes_again(as_user, monkeypatch, user, kind, code, words):
    opened, tracks = as_user
    project = opened(user, **words)
    engine = project.to_ready("001")
    seen, real = [], fence.close

    def close(work, chosen):
        real(work, chosen)
        for write in (
            lambda: tracks.insert_one({"_id": 900}),
            lambda: tracks.update_one({"_id": 1}, {"$set": {"ms": -1}}),
            lambda: tracks.delete_one({"_id": 1}),
        ):
            with pytest.raises(OperationFailure) as refused:
                write()
            seen.append(refused.value.code)
        assert tracks.count_documents({}) == 200

    monkeypatch.setattr(fence, "close", close)
    result = project.cut_over(engine)

    assert (result.fence, set(seen)) == (kind, {code})
    assert result.reads_gap_ms > 0  # two renames
    tracks.insert_one({"_id": 900, "ms": 900})
    engine.advance(budget=2)
    monkeypatch.undo()
    engine.rollback()
    assert tracks.find_one({"_id": 900}) == {"_id": 900, "ms": 900}
    assert tracks.count_documents({"v": {"$exists": True}}) == 0
    tracks.delete_one({"_id": 900})
    assert tracks.count_documents({}) == 200


@pytest.mark.parametrize(("user", "words"), [("block", {}), ("roles", {"fence": 'Fence(roles=("app",))'})])
@pytest.mark.parametrize("step", ["cut_over.fenced", "cut_over.verified"])
def test_the_fence_of_a_killed_cut_over_is_lifted_by_the_next_call(as_user, monkeypatch, user, words, step):
    opened, tracks = as_user
    project = opened(user, **words)
    engine = project.to_ready("001")

    class Killed(BaseException):
        pass

    def reached(name):
        if name == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(steps, "reached", reached)
        patched.setattr(exchange, "recover", lambda work: None)
        with pytest.raises(Killed):
            project.cut_over(engine)
    with pytest.raises(OperationFailure):
        tracks.insert_one({"_id": 900})
    assert engine.status()["writes_refused_by"] is not None

    result = engine.advance(budget=2)

    assert result.next is (Phase.READY if step == "cut_over.fenced" else Phase.SOAK)
    tracks.insert_one({"_id": 900})
    assert engine.status()["writes_refused_by"] is None
    if result.next is Phase.SOAK:
        assert engine.status()["measured"]["cut_over"]["refused_ms"] > 0
        engine.rollback()
    else:
        engine.abort()


def test_without_rights_nothing_begins_and_the_sentence_says_what_is_missing(as_user):
    opened, _ = as_user
    stops = opened("plain").engine("001").plan().stops
    assert len(stops) == 1
    assert (
        "user_write_block: our user lacks setUserWriteBlockMode and bypassWriteBlockingMode on the cluster" in stops[0]
    )
    assert "role: needs fence=Fence(roles=...)" in stops[0]
    assert "view: needs any action on any resource" in stops[0]
    refused = opened("plain", fence='Fence(kind="role", roles=("app",))').engine("001").plan().stops
    assert refused == ("our user lacks grantRole and revokeRole on shop",)
