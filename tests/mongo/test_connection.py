"""Connecting: each way to be wrong gives its own error before anything is written, and none shows the password."""

from __future__ import annotations

import json
import socket
import time
import traceback

import pytest
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

from mongo_ops.embedded.server import Mongod, free_port
from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo import connection
from mongo_ops.mongo.connection import (
    ConnectionSpec,
    CredentialsRefusedError,
    InvalidConnectionError,
    ServerUnreachableError,
    StandaloneServerError,
    connect,
)
from mongo_ops.settings import Environment

SECRET = "p@ss/w:rd-Gh7"  # characters that a URI must quote
PLACE = Environment("development", "mongo_test", database="unwritten")


def spec(host, port=None, extra=None, **fields):
    parts = {"conn_type": "mongo", "host": host, "port": port, "login": "ana", "password": SECRET}
    return ConnectionSpec.build("mongo_test", parts | {"extra": extra or {}} | fields)


def refusal(given, kind):
    """Connect, expect the error, and look for the password everywhere a person or a log would see it."""
    with pytest.raises((PlanError, RunError)) as caught, connect(given, PLACE):
        raise AssertionError("connected")
    error = caught.value
    assert type(error) is kind, repr(error)
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(error.args) + repr(given)
    for secret in (SECRET, "p%40ss%2Fw%3Ard-Gh7", "Gh7"):
        assert secret not in told
    assert "mongo_test" in str(error)
    return str(error)


@pytest.fixture
def impatient(monkeypatch):
    """Give up on a server sooner than people would want to."""
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.7)


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A one-node replica set that demands a login: ana may do all on ``unwritten``, bob nothing."""
    folder = tmp_path_factory.mktemp("auth")
    key = folder / "key"
    key.write_text("c2VjcmV0a2V5Zm9ydGVzdHM=")
    key.chmod(0o400)
    server = Mongod(folder / "node", options=("--keyFile", str(key)))
    server.start()
    try:
        with server.direct_client() as client:
            member = {"_id": 0, "host": server.address}
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            deadline = time.monotonic() + 20
            while not client.admin.command("hello").get("isWritablePrimary"):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            client.admin.command("createUser", "root", pwd=SECRET, roles=["root"])
        with MongoClient(server.address, username="root", password=SECRET, replicaSet="rs0") as root:
            root.admin.command("createUser", "ana", pwd=SECRET, roles=[{"role": "readWrite", "db": "unwritten"}])
            root.admin.command("createUser", "bob", pwd=SECRET, roles=[])
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def standalone(tmp_path_factory):
    server = Mongod(tmp_path_factory.mktemp("alone"), replica_set=None)
    server.start()
    yield server
    server.kill()


def databases(server, **login):
    with MongoClient(server.address, directConnection=True, **login) as client:
        return set(client.list_database_names())


def test_a_right_login_connects_with_majority_concerns(locked):
    with connect(spec("127.0.0.1", locked.port, {"authSource": "admin", "replicaSet": "rs0"}), PLACE) as target:
        target.db.things.insert_one({"_id": 1})
        target.db.things.delete_one({"_id": 1})
        assert target.db.write_concern.document == {"w": "majority"}
        assert target.db.read_concern.document == {"level": "majority"}
        assert target.client.options.pool_options.appname == "mongo-ops"
        assert target.client.options.retry_writes


def test_a_bad_password_is_named_as_such(locked):
    before = databases(locked, username="root", password=SECRET)

    text = refusal(
        spec("127.0.0.1", locked.port, {"authSource": "admin"}, password=SECRET + "x"), CredentialsRefusedError
    )

    assert "refused the user or password" in text
    assert databases(locked, username="root", password=SECRET) == before


def test_no_login_and_too_few_rights_are_named_as_such(locked):
    without = refusal(spec("127.0.0.1", locked.port, login=None, password=None), CredentialsRefusedError)
    powerless = refusal(spec("127.0.0.1", locked.port, {"authSource": "admin"}, login="bob"), CredentialsRefusedError)

    assert "no login is given" in without
    assert "Grant it readWrite" in powerless


def test_a_standalone_server_is_refused_with_the_way_to_a_replica_set(standalone):
    before = databases(standalone)

    text = refusal(spec("127.0.0.1", standalone.port, login=None, password=None), StandaloneServerError)

    assert "--replSet rs0" in text
    assert "rs.initiate()" in text
    assert databases(standalone) == before


def test_a_port_where_nobody_listens_is_unreachable_in_bounded_time(impatient):
    began = time.monotonic()

    text = refusal(spec("127.0.0.1", free_port()), ServerUnreachableError)

    assert "No MongoDB server answered at 127.0.0.1" in text
    assert time.monotonic() - began < 5


def test_a_port_that_accepts_and_never_answers_is_unreachable_too(impatient):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]

        text = refusal(spec("127.0.0.1", port), ServerUnreachableError)

    assert f"No MongoDB server answered at 127.0.0.1:{port}" in text


def test_an_unknown_host_is_unreachable(impatient):
    text = refusal(spec("no-such-host.invalid", 27017), ServerUnreachableError)

    assert "No MongoDB server answered at no-such-host.invalid:27017" in text


def test_a_wrong_replica_set_name_is_unreachable_and_named_as_a_cause(replica_set, impatient):
    text = refusal(spec(replica_set.nodes[0].address, extra={"replicaSet": "other"}), ServerUnreachableError)

    assert "replica set name" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conn_type": "mongodb"}, "conn_type must be 'mongo', not 'mongodb'"),
        ({"host": None}, "names no host"),
        ({"host": f"ana:{SECRET}@h1:27017,h2:27017"}, "login"),
        ({"port": 27017, "extra": {"srv": "true"}}, "SRV connection must not give a port"),
        ({"extra": '["no mapping"]'}, "extra must be a JSON object"),
        ({"extra": "{broken"}, "not valid JSON"),
    ],
)
def test_a_wrong_definition_is_refused_before_any_client_is_made(change, said):
    parts = {"conn_type": "mongo", "host": "h1", "login": "ana", "password": SECRET}
    with pytest.raises(InvalidConnectionError, match=said) as caught:
        ConnectionSpec.build("mongo_test", parts | change)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize(
    ("extra", "host"),
    [
        ({"retryWrites": "perhaps"}, "h1"),
        ({"noSuchOption": 1, "w": "x" * 3, "readPreference": "nowhere"}, "h1"),
        ({}, "h1:99999"),
        ({}, "h1:port"),
        ({}, "h 1"),
        ({"tls": "false", "tlsCAFile": "/nowhere"}, "h1"),
    ],
)
def test_what_the_driver_refuses_is_an_invalid_connection(extra, host, impatient):
    given = spec(host, extra=extra)
    with pytest.raises((InvalidConnectionError, ServerUnreachableError)) as caught, connect(given, PLACE):
        pass
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in told
    assert "Gh7" not in told
    if host != "h 1":
        assert type(caught.value) is InvalidConnectionError


def test_several_hosts_work_in_the_json_form_and_the_uri_form_says_so(replica_set):
    one = replica_set.nodes[0].address
    value = json.dumps({"conn_type": "mongo", "host": f"{one},127.0.0.1:{free_port()}", "extra": {"replicaSet": "rs0"}})
    with connect(ConnectionSpec.parse("mongo_test", value), PLACE) as target:
        assert target.client.admin.command("ping")["ok"] == 1

    with pytest.raises(InvalidConnectionError, match="several hosts need the JSON form") as caught:
        ConnectionSpec.parse("mongo_test", f"mongo://ana:{SECRET.replace('/', '%2F')}@h1:27017,h2:27018/db")
    assert "Gh7" not in "".join(traceback.format_exception(caught.value))


def test_the_environment_names_the_database_before_the_connection_does(replica_set):
    host, port = replica_set.nodes[0].address.split(":")
    given = ConnectionSpec.build("c", {"conn_type": "mongo", "host": host, "port": port, "schema": "of_connection"})
    unnamed = ConnectionSpec.build("c", {"conn_type": "mongo", "host": host, "port": port})
    for environment, one, wanted in [
        (PLACE, given, "unwritten"),
        (Environment("e", "c"), given, "of_connection"),
        (Environment("e", "c"), unnamed, "spotify_ai_agent"),
    ]:
        with connect(one, environment) as target:
            assert target.db.name == wanted
            assert wanted not in target.client.list_database_names()  # connecting made nothing


def test_the_client_is_closed_afterwards(replica_set):
    with connect(ConnectionSpec("c", replica_set.uri, "h"), PLACE) as target:
        client = target.client
    with pytest.raises((PyMongoError, OperationFailure), match="close"):
        client.admin.command("ping")


# Secrets in a driver's words -------------------------------------------------------------------------------------------


def test_only_secrets_are_masked_and_ordinary_words_stay():
    short = spec("h1", login="ad", password="pw")
    text = "authSource admin of ad: pw is no power; ad:pw@h1"
    assert connection._without_secrets(text, short) == "authSource admin of ad: pw is no power; ***@h1"

    ana = spec("h1", login="admin", password=SECRET)
    text = f"administrator admin with {SECRET} or p%40ss%2Fw%3Ard-Gh7"
    assert connection._without_secrets(text, ana) == "administrator *** with *** or ***"
    assert connection._without_secrets("admin", spec("h1", login=None, password=None)) == "admin"


@pytest.mark.parametrize(
    "options",
    [
        {"tlsCertificateKeyFilePassword": SECRET},
        {"tlscertificatekeyfilepassword": SECRET},
        {"authMechanismProperties": {"AWS_SESSION_TOKEN": SECRET}},
        {"authMechanismProperties": f"SERVICE_NAME:x,AWS_SESSION_TOKEN:{SECRET}"},
        {"proxyPassword": SECRET},
    ],
)
def test_the_values_of_secret_options_are_masked(options):
    given = spec("h1", extra=options, login=None, password=None)
    assert connection._without_secrets(f"bad value {SECRET}!", given) == "bad value ***!"


def test_what_the_driver_finds_out_at_the_first_command_is_masked_too(replica_set, monkeypatch):
    def refuse(*_, **__):
        raise ConfigurationError(f"server does not support {SECRET}")

    monkeypatch.setattr(connection.pymongo, "timeout", refuse)
    text = refusal(spec(replica_set.nodes[0].address, login="ana", password=SECRET), InvalidConnectionError)
    assert "does not support ***" in text
