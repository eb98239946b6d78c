"""Fixtures for all tests: one real mongod for the session, one empty database for each test; and who runs beside whom."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from mongo_ops.embedded import ReplicaSet
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment

settings.register_profile("beside others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside others")


class BesideEachOther(LoadScopeScheduling):
    """Deals files out to the workers, and all with a real scheduler to the same one: a second Airflow costs more than it saves."""

    def _split_scope(self, nodeid):
        file = Path(nodeid.partition("::")[0])
        return "scheduler" if file.parent.name == "airflow" else str(file)


def pytest_xdist_make_scheduler(config, log):
    """Use it whenever tests run beside each other."""
    return BesideEachOther(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with those that have a scheduler: they take longest."""
    items.sort(key=lambda item: item.path.parent.name != "airflow")


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory):
    """A one-node replica set shared by the whole session."""
    folder = tmp_path_factory.mktemp("mongo")
    options = ("--setParameter", "transactionLifetimeLimitSeconds=5", "--setParameter", "enableTestCommands=1")
    with ReplicaSet(Path(folder), options=options).running() as running:
        yield running


@pytest.fixture
def target(replica_set, tmp_path):
    """A connected target on an empty database of its own, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = Environment(
        "development", "mongo_development", database=name, storage=(tmp_path / "storage").as_uri()
    )
    spec = ConnectionSpec("mongo_development", replica_set.uri, replica_set.nodes[0].address, name)
    with connect(spec, environment) as connected:
        yield connected
        connected.client.drop_database(name)


@pytest.fixture
def db(target):
    """The target's database, majority concerns."""
    return target.db
