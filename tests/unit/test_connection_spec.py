"""Reading a connection's definition the way Airflow's Mongo hook does, without a server and without showing a secret."""

from __future__ import annotations

import json
import traceback

import pytest

from mongo_ops.mongo.connection import ConnectionSpec, InvalidConnectionError, client_options

SECRET = "S3cr€t/@:%x"
QUOTED = "S3cr%E2%82%ACt%2F%40%3A%25x"
GOOD = [
    ("mongo://h:27017/music", "mongodb://h:27017/music", "h:27017", "music", {}),
    ("mongo://h", "mongodb://h/", "h", None, {}),
    ("mongo://ana@h/music", "mongodb://h/music", "h", "music", {}),  # a login without password is no login
    (f"mongo://ana:{QUOTED}@h:1/music", f"mongodb://ana:{QUOTED}@h:1/music", "h:1", "music", {}),
    ("mongo://h/music?replicaSet=rs0&tls=true", "mongodb://h/music", "h", "music", {"replicaSet": "rs0", "tls": "true"}),
    ("mongo://h/?srv=true", "mongodb+srv://h/", "h", None, {}),
    ("mongo://h/?allow_insecure=True", "mongodb://h/", "h", None, {"tlsAllowInvalidCertificates": True}),
    ("mongo://h/?__extra__=%7B%22replicaSet%22%3A+%22rs0%22%2C+%22authMechanismProperties%22%3A+%7B%22a%22%3A+1%7D%7D",
     "mongodb://h/", "h", None, {"replicaSet": "rs0", "authMechanismProperties": {"a": 1}}),
    ("mongo://h/?__extra__=&tls=true", "mongodb://h/", "h", None, {}),  # as Airflow reads it
    ({"host": "h1:1,h2:2", "extra": {"replicaSet": "rs0"}}, "mongodb://h1:1,h2:2/", "h1:1,h2:2", None, {"replicaSet": "rs0"}),
    ({"host": "h", "port": 5, "schema": "m"}, "mongodb://h:5/m", "h:5", "m", {}),
    ({"host": "h", "login": "ana", "password": SECRET}, f"mongodb://ana:{QUOTED}@h/", "h", None, {}),
    ({"host": "h", "extra": '{"srv": true, "authSource": "admin"}'}, "mongodb+srv://h/", "h", None, {"authSource": "admin"}),
    ({"host": "h", "extra": ""}, "mongodb://h/", "h", None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "uri", "hosts", "database", "options"), GOOD)
def test_uri_and_json_are_read(value, uri, hosts, database, options):
    text = value if isinstance(value, str) else json.dumps({"conn_type": "mongo", **value})

    spec = ConnectionSpec.parse("mongo_x", text)

    assert (spec.uri, spec.hosts, spec.database, spec.options) == (uri, hosts, database, options)


def as_json(**fields):
    return json.dumps({"conn_type": "mongo", "host": "h", "login": "ana", "password": SECRET} | fields)


BAD = [
    (f"postgres://ana:{QUOTED}@h", "conn_type must be 'mongo', not 'postgres'"),
    (f"mongodb://ana:{QUOTED}@h", "conn_type must be 'mongo', not 'mongodb'"),
    (f"mongo://ana:{QUOTED}@h1:1,h2:2/m", "several hosts need the JSON form"),
    (f"mongo://ana:{QUOTED}@h:port", "not a valid URI"),
    (f"mongo://ana:{QUOTED}@[::1", "not a valid URI"),
    (f"mongo://ana:{QUOTED}@", "names no host"),
    ("mongo://h/?__extra__=%7Bx", "not valid JSON"),
    ("", "conn_type must be 'mongo'"),
    ("{broken", "not valid JSON"),
    (as_json(conn_type=None), "conn_type must be 'mongo', not None"),
    (as_json(host=""), "names no host"),
    (as_json(host=f"ana:{SECRET}@h1,h2"), "put the login into login and password"),
    (as_json(port=1, extra={"srv": "TRUE"}), "must not give a port"),
    (as_json(extra="{x"), "not valid JSON"),
    (as_json(extra=[1]), "extra must be a JSON object"),
    (as_json(extra=5), "extra must be a JSON object"),
]


@pytest.mark.parametrize(("value", "said"), BAD)
def test_what_is_wrong_is_said_without_the_password(value, said):
    with pytest.raises(InvalidConnectionError) as caught:
        ConnectionSpec.parse("mongo_x", value)

    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert said in str(caught.value)
    assert "mongo_x" in str(caught.value)
    assert SECRET not in told
    assert QUOTED not in told


def test_a_spec_never_shows_its_secret():
    spec = ConnectionSpec.parse("mongo_x", as_json(extra={"tlsCertificateKeyFilePassword": SECRET}))

    for text in (repr(spec), str(spec), f"{spec}"):
        assert SECRET not in text
        assert QUOTED not in text
        assert "hosts='h'" in text


def test_a_connections_own_options_win_over_ours():
    assert client_options({}) == {
        "appname": "mongo-ops",
        "connectTimeoutMS": 10_000,
        "serverSelectionTimeoutMS": 30_000,
        "retryWrites": True,
        "retryReads": True,
    }
    assert client_options({"appname": "x", "tls": True})["appname"] == "x"
