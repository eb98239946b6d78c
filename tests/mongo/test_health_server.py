"""Faults of a server itself, on one that is made for them: few tickets and connections, a tiny oplog, an open door, a certificate that ends."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from bson import Int64
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from tests.mongo.healths import look, looking, shipped, thresholds, told, until

from mongo_ops.embedded.server import Mongod
from mongo_ops.health.checks.validation import due
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment

NAME, READERS, CONNECTIONS = "faulty", 5, 60
NON_RESUMABLE = 286
EXPIRES_IN = timedelta(days=5)


class OpenMongod(Mongod):
    """A server that listens everywhere, as one does that somebody opened by mistake."""

    def command(self):
        return ["0.0.0.0" if word == "127.0.0.1" else word for word in super().command()]


def certificate(folder):
    """Write a key and a certificate that ends soon."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + EXPIRES_IN)
    signed = made.sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(pem + signed.public_bytes(serialization.Encoding.PEM))
    return path


def initiate(server):
    """Make a server a set of one."""
    with server.direct_client() as client:
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": server.address}]})
        until(lambda: client.admin.command("hello").get("isWritablePrimary"), "a primary")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    pem = str(certificate(folder))
    own = OpenMongod(folder / "node", replica_set=None, options=(
        "--replSet", "rs0", "--oplogSize", "1", "--syncdelay", "1", "--maxConns", str(CONNECTIONS), "--setParameter", "enableTestCommands=1",
        "--setParameter", f"wiredTigerConcurrentReadTransactions={READERS}",
        "--tlsMode", "allowTLS", "--tlsCertificateKeyFile", pem, "--tlsCAFile", pem, "--tlsAllowConnectionsWithoutCertificates",
    ))  # fmt: skip
    own.start()
    try:
        initiate(own)
        yield own
    finally:
        own.kill()


@pytest.fixture
def faulty(server):
    spec = ConnectionSpec("c", f"mongodb://{server.address}/?replicaSet=rs0", "here", NAME)
    with connect(spec, Environment("development", "c", database=NAME)) as target:
        yield target
        target.client.drop_database(NAME)


def see(server, target, run_id, groups, found=None):
    """Look and return {(check, scope): (status, transition)}."""
    place = SimpleNamespace(uri=f"mongodb://{server.address}/?replicaSet=rs0", nodes=[server])
    with looking(place, target, found) as session:
        return told(look(session, target, run_id, groups))


def test_an_open_door_an_ending_certificate_and_an_old_version(server, faulty):
    assert see(server, faulty, "security", ["security"], shipped()) == {
        ("open_door", "authorization"): ("CRIT", "NEW"),
        ("open_door", "tls"): ("WARN", "NEW"),
        ("certificate_expiry", "all"): ("CRIT", "NEW"),
        ("server_version", "all"): ("WARN", "NEW"),
    }


def test_used_up_connections_and_tickets_are_found_and_told_to_be_well_afterwards(server, faulty):
    faulty.db.three.insert_many([{"n": number} for number in range(3)])
    uri = f"mongodb://{server.address}/?directConnection=true"

    enough = threading.Event()

    def hold():
        with MongoClient(uri) as client:
            while not enough.is_set():
                assert len(list(client[NAME].three.find({"$where": "sleep(50) || true"}))) == 3

    readers = [threading.Thread(target=hold) for _ in range(READERS + 2)]
    status, tickets = faulty.client.admin, ("wiredTiger", "concurrentTransactions", "read", "available")
    for reader in readers:
        reader.start()
    try:
        with ExitStack() as stack:
            until(lambda: reached(status.command("serverStatus"), tickets) == 0, "all read tickets are taken")
            while status.command("serverStatus")["connections"]["available"] > CONNECTIONS * 0.2:
                stack.enter_context(MongoClient(uri)).admin.command("ping")
            first = see(server, faulty, "held", ["server"])
    finally:
        enough.set()
        for reader in readers:
            reader.join()
    until(
        lambda: status.command("serverStatus")["connections"]["available"] > CONNECTIONS * 0.5, "connections are closed"
    )
    second = see(server, faulty, "free", ["server"])

    assert {place for place in first if place[0] in ("connections", "tickets")} == {
        ("connections", "all"),
        ("tickets", "read"),
    }
    assert first["tickets", "read"] == ("CRIT", "NEW")
    assert {second[place] for place in (("connections", "all"), ("tickets", "read"))} == {("OK", "FIXED")}


def reached(document, path):
    for name in path:
        document = document[name]
    return document


def test_pressure_is_graded_by_what_the_server_says_of_itself(server, faulty):
    low = {
        "cache": {"warn": 0.0001, "crit": 0.9},
        "page_faults": {"warn": 0, "crit": 1e9},
        "disk_used": {"warn": 0.0001, "crit": 1.1},
    }

    found = see(server, faulty, "pressed", ["server", "storage"], thresholds(**low))

    assert found == dict.fromkeys([("cache", "used"), ("page_faults", "all"), ("disk_used", "all")], ("WARN", "NEW"))
    assert see(server, faulty, "clean", ["server", "storage"]) == dict.fromkeys(found, ("OK", "FIXED"))


def test_an_index_that_misses_entries_is_damaged(server, faulty):
    damaged = next(f"c{number}" for number in range(50) if due(f"c{number}", datetime.now(UTC).weekday()))
    faulty.db[damaged].create_index("a")
    fail = {"configureFailPoint": "skipIndexNewRecords", "data": {"skipIdIndex": False}}
    faulty.client.admin.command({**fail, "mode": "alwaysOn"})
    try:
        faulty.db[damaged].insert_one({"a": 1})
    finally:
        faulty.client.admin.command({**fail, "mode": "off"})

    assert see(server, faulty, "damaged", ["storage"])["validation", damaged] == ("CRIT", "NEW")
    faulty.db[damaged].drop()
    assert see(server, faulty, "dropped", ["storage"])["validation", damaged] == ("OK", "FIXED")


def test_a_file_with_holes_is_fragmented(server, faulty):
    for _ in range(4):
        faulty.db.holes.insert_many([{"n": n, "x": os.urandom(1000)} for n in range(1000)])
    faulty.client.admin.command("fsync")
    faulty.db.holes.delete_many({"n": {"$lt": 900}})
    until(lambda: has_holes(faulty), "the file has holes")

    found = see(
        server, faulty, "holes", ["storage"], thresholds(fragmentation={"warn": 0.2, "options": {"megabytes": 1}})
    )

    assert found["fragmentation", "holes"] == ("WARN", "NEW")


def has_holes(target):
    """Have a checkpoint made; say whether much of the file is free."""
    target.client.admin.command("fsync")
    storage = next(target.db.holes.aggregate([{"$collStats": {"storageStats": {}}}]))["storageStats"]
    return storage["freeStorageSize"] > storage["storageSize"] * 0.25 and storage["storageSize"] > 1024 * 1024


def test_a_token_that_fell_out_of_the_oplog_is_found_before_its_reader_fails(server, faulty):
    with faulty.db.watch() as stream:
        faulty.db.notes.insert_one({"n": Int64(1)})
        token = next(stream)["_id"]
    faulty.db.readers.insert_one({"_id": "ann@example.org", "token": token})
    watched = thresholds(resume_tokens={"options": {"places": ["readers.token"], "full": 0.9}})
    full = replace(watched, limits={**watched.limits, "oplog_window": shipped().limits["oplog_window"]})
    place = SimpleNamespace(uri=f"mongodb://{server.address}/?replicaSet=rs0", nodes=[server])

    with looking(place, faulty, full) as session:
        before = session.snapshot()
        until(lambda: turn_over(faulty, token), "the oplog has been written over")
        run = look(session, faulty, "fallen out", ["replication"])

    assert before.oplog["first"] <= before.oplog["last"]
    found = {one.check: one.finding for one in run.judged}
    assert {name: str(one.status) for name, one in found.items()} == {"oplog_window": "CRIT", "resume_tokens": "CRIT"}
    assert "cannot be resumed" in found["resume_tokens"].sentence
    assert "ann@example.org" not in str(run)
    assert "ann@example.org" not in str(list(faulty.db.ops_health.find()))


def turn_over(target, token):
    """Write more than the oplog holds; say whether the server refuses the token by now."""
    target.db.ballast.insert_many([{"x": os.urandom(900_000)} for _ in range(4)])
    target.client.admin.command("fsync")
    try:
        with target.db.watch(resume_after=token, max_await_time_ms=1) as stream:
            stream.try_next()
    except OperationFailure as error:
        assert error.code == NON_RESUMABLE
        return True
    return False


def test_a_count_that_a_crash_left_wrong_is_found(tmp_path):
    """Written without the replica set, as a careless repair does, and killed: the counter misses what came after the last checkpoint."""
    folder = tmp_path / "crashed"
    first = Mongod(folder)
    first.start()
    initiate(first)
    with first.direct_client() as client:
        client[NAME].many.insert_many([{} for _ in range(10)])
        client.admin.command("fsync")
    first.stop()
    alone = Mongod(folder, replica_set=None)
    alone.start()
    with alone.direct_client() as client:
        client[NAME].many.insert_many([{} for _ in range(500)])
        client[NAME].command({"insert": "many", "documents": [{}], "writeConcern": {"w": 1, "j": True}})
    alone.kill()
    again = Mongod(folder, port=first.port)
    again.start()
    try:
        spec = ConnectionSpec("c", f"mongodb://{again.address}/?replicaSet=rs0", "here", NAME)
        with connect(spec, Environment("development", "c", database=NAME)) as target:
            found = see(again, target, "crashed", ["storage"])
            declared, exact = target.db.many.estimated_document_count(), target.db.many.count_documents({})
    finally:
        again.kill()

    assert (declared == exact) is (("counts", "many") not in found)
    assert exact == 511
    assert found["counts", "many"] == ("WARN", "NEW")
