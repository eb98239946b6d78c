"""Pytest plugin for users' own migrations: fixtures, and ready-made tests with ``--mongo-ops-migrations``.

Loaded by every pytest run where mongo-ops is installed, so it imports nothing but pytest until it is used. The server is whatever
``mongo_ops_uri`` says; it never starts one. docs/testing-migrations.md shows how to use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mongo_ops.migrations.migration_checks import MigrationCheck

OPTION = "--mongo-ops-migrations"
VARIABLE = "MONGO_OPS_TEST_URI"
FOLDER = "include/migrations"
NO_SERVER = f"no MongoDB to test on: set {VARIABLE} to the URI of a replica set that may be written to, or define a fixture mongo_ops_uri"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("mongo-ops", "MongoDB migrations")
    group.addoption(
        OPTION, nargs="?", const=FOLDER, metavar="FOLDER", help=f"test every migration in FOLDER (default {FOLDER}) on a real server"
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Let the migrations' folder be collected, whatever else is."""
    folder = _chosen(config)
    if folder is not None:
        if not folder.is_dir():
            raise pytest.UsageError(f"{OPTION}: {folder} is not a folder.")
        config.args.append(str(folder))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Make three tests of each migration file in the chosen folder."""
    folder = _chosen(parent.config)
    if folder is None or file_path.parent != folder or file_path.suffix != ".py" or not file_path.name[0].isdigit():
        return None
    return MigrationTests.from_parent(parent, path=file_path)


class MigrationTests(pytest.File):
    """The ready-made tests of one migration file."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the tests, one for each check."""
        version = self.path.stem
        for check in ("up_down_up", "idempotent", "survives_kills"):
            yield pytest.Function.from_parent(self, name=f"test_{check}", callobj=_test(check, version))


def _test(check: str, version: str) -> Any:
    def test(migration_check: MigrationCheck, mongo_ops_seed: Mapping[str, Any]) -> None:
        number = version.partition("_")[0]
        getattr(migration_check, check)(version, seed=mongo_ops_seed.get(version, mongo_ops_seed.get(number)))

    return test


@pytest.fixture(scope="session")
def mongo_ops_uri() -> str:
    """The server to test on: ``MONGO_OPS_TEST_URI``. Override it to start one."""
    uri = os.environ.get(VARIABLE)
    if not uri:
        pytest.skip(NO_SERVER)
    return uri


@pytest.fixture
def mongo_ops_migrations(request: pytest.FixtureRequest) -> Path:
    """The folder of the migrations: the option's, else ``include/migrations`` below pytest's root."""
    return _chosen(request.config) or request.config.rootpath / FOLDER


@pytest.fixture
def mongo_ops_seed() -> Mapping[str, Any]:
    """Documents for the ready-made tests: ``{version: {collection: [document, ...]}}``. Override it."""
    return {}


@pytest.fixture
def migration_check(mongo_ops_uri: str, mongo_ops_migrations: Path, tmp_path: Path) -> MigrationCheck:
    """Checks for one migration, each on databases of its own: ``up_down_up``, ``idempotent``, ``survives_kills``."""
    from mongo_ops.migrations.migration_checks import MigrationCheck  # noqa: PLC0415 - keeps pymongo out of other runs

    return MigrationCheck(mongo_ops_uri, mongo_ops_migrations, tmp_path)


def _chosen(config: pytest.Config) -> Path | None:
    value = config.getoption(OPTION)
    return (config.invocation_params.dir / str(value)).resolve() if value else None
