"""The pytest plugin, in a pytest of its own: good migrations pass every check, each broken one fails the check made for it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from pymongo import MongoClient

pytest_plugins = ["pytester"]
INCLUDE = Path(__file__).parents[2] / "include" / "migrations"
SEED = '{"001": {"people": [{"_id": i, "plays": i} for i in range(35)]}}'
TEMPLATE = '''
"""About plays."""
from mongo_ops.migrations import *

{before}
migration = Migration(operations=[{operations}])
'''
COUNT_UP = 'Backfill("people", {"$inc": {"plays": 1}}, revert={"$inc": {"plays": -1}})'
RAW = '{{"update": "people", "updates": [{{"q": {{}}, "u": {{"$inc": {{"plays": {by}}}}}, "multi": True}}]}}'
NOT_IDEMPOTENT = f"RunCommand({RAW.format(by=1)}, reverse_command={RAW.format(by=-1)})"
ONE_WAY = """
def forward(ctx):
    ctx.db.people.update_many({}, {"$inc": {"plays": 1}})

def back(ctx):
    ctx.db.people.update_many({"plays": {"$lt": 30}}, {"$inc": {"plays": -1}})
"""
DOUBLE = """
def forward(ctx):
    ctx.db.people.update_many({}, {"$inc": {"plays": 1}})
    ctx.once("mark", lambda session: ctx.db.marks.insert_one({"_id": 1}))

def back(ctx):
    ctx.db.people.update_many({}, {"$inc": {"plays": -1}})
    ctx.db.marks.delete_many({})
"""
CASES = {
    "good": (COUNT_UP, "", {}),
    "not idempotent": (
        NOT_IDEMPOTENT,
        "",
        {"idempotent": "35 documents changed", "survives_kills": "gives something else"},
    ),
    "not reversible": (
        "RunPython(forward, reverse=back)",
        ONE_WAY,
        {"up_down_up": "does not lead back", "survives_kills": "lead back"},
    ),
    "applied twice": (
        "RunPython(forward, reverse=back, batched=True)",
        DOUBLE,
        {"idempotent": "repeated after a crash", "survives_kills": "gives something else"},
    ),
}
CHECKS = ("up_down_up", "idempotent", "survives_kills")


@pytest.fixture
def project(pytester, monkeypatch, replica_set):
    """A project with a folder for migrations, and the server in the environment."""
    monkeypatch.setenv("MONGO_OPS_TEST_URI", replica_set.uri)
    (pytester.path / "migrations").mkdir()
    conftest = f"import pytest\n\n@pytest.fixture\ndef mongo_ops_seed():\n    return {SEED}\n"
    pytester.makeconftest(conftest)
    yield pytester
    with MongoClient(replica_set.uri) as client:
        assert [name for name in client.list_database_names() if name.startswith("mongo_ops_test_")] == []


def write(project, operations, before=""):
    text = textwrap.dedent(TEMPLATE).format(operations=operations, before=before)
    (project.path / "migrations" / "001_plays.py").write_text(text)


def run(project, *words):
    return project.runpytest_subprocess("-q", "-p", "no:randomly", "-p", "no:cacheprovider", *words, timeout=200)


@pytest.mark.parametrize(
    "name",
    [
        "good",
        "not reversible",
        *(pytest.param(n, marks=pytest.mark.chaos) for n in ("not idempotent", "applied twice")),
    ],
)
def test_each_broken_migration_fails_exactly_the_checks_made_for_it(project, name):
    operations, before, expected = CASES[name]
    write(project, operations, before)

    result = run(project, "-rA", "--mongo-ops-migrations=migrations")

    result.assert_outcomes(passed=3 - len(expected), failed=len(expected))
    text = result.stdout.str()
    for check in CHECKS:
        verdict = "FAILED" if check in expected else "PASSED"
        assert f"{verdict} migrations/001_plays.py::test_{check}" in text
    for message in expected.values():
        assert message in text


@pytest.mark.chaos
def test_the_reference_model_passes(project):
    chosen = "up_down_up or idempotent or 007"  # killing the others everywhere takes a minute
    result = run(project, f"--mongo-ops-migrations={INCLUDE}", "-k", chosen)
    count = len(list(INCLUDE.glob("0*.py")))
    result.assert_outcomes(passed=2 * count + 1, deselected=count - 1)


def test_the_fixture_takes_a_seed_and_says_what_cannot_be_undone(project):
    write(project, 'Backfill("people", {"$inc": {"plays": 1}})')
    project.makepyfile(
        """
        from pathlib import Path
        import pytest
        from mongo_ops.migrations.discover import MigrationFileError

        @pytest.fixture
        def mongo_ops_migrations():
            return Path("migrations")

        def test_it(migration_check):
            migration_check.survives_kills("001", seed={"people": [{"plays": i} for i in range(35)]})

        def test_it_there_and_back(migration_check):
            migration_check.up_down_up(1)

        def test_a_wrong_version(migration_check):
            migration_check.idempotent("009")
        """
    )
    result = run(project, "-rs")
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*There is no migration 009*", "*001_plays goes up; it cannot be undone: the Backfill of people*"]
    )


def test_without_a_server_the_checks_are_skipped_with_what_to_do(project, monkeypatch):
    monkeypatch.delenv("MONGO_OPS_TEST_URI")
    write(project, COUNT_UP)
    result = run(project, "-rs", "--mongo-ops-migrations=migrations")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*set MONGO_OPS_TEST_URI to the URI of a replica set*"])


def test_a_wrong_folder_is_an_error_of_usage(project):
    result = run(project, "--mongo-ops-migrations=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*nowhere is not a folder*"])


def test_unless_used_it_does_nothing_and_imports_no_driver(project):
    write(project, COUNT_UP)
    project.makepyfile("import sys\n\ndef test_it():\n    assert 'pymongo' not in sys.modules\n")
    run(project).assert_outcomes(passed=1)
