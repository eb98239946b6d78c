"""One object store for the session, one bucket for each test."""

from __future__ import annotations

import uuid

import pytest
from tests.s3.objectstore import READER, running

from mongo_ops.storage import open_folder


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """OpenStack Swift with its S3 API."""
    with running(tmp_path_factory.mktemp("swift")) as started:
        yield started


@pytest.fixture
def bucket(store, monkeypatch):
    """A bucket of its own, as a folder opened through a connection."""
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", store.connection())
    monkeypatch.setenv("AIRFLOW_CONN_READ_ONLY", store.connection(READER))
    name = f"b{uuid.uuid4().hex[:12]}"
    store.client().mkdir(name)
    return open_folder(f"s3://{name}", connection="test_store")
