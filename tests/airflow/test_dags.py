"""The DAGs as Airflow's parser sees them: whole, light, in order, and without a database. No scheduler runs."""

from __future__ import annotations

import ast
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
DAG_IDS = [file.stem for file in DAG_FILES]
FILES = sorted(path.stem for path in (ROOT / "include" / "migrations").glob("[0-9]*.py"))
HEAVY = ("pymongo", "pandas", "pyarrow", "fastapi", "mongo_ops.migrations.engine")
CPU_SECONDS = 4.0

PARSE = """
import importlib.util, json, socket, sys, time
import airflow.sdk
import airflow.providers.standard.operators.hitl


def refuse(*_):
    raise AssertionError("a DAG file opened a connection while it was parsed")


socket.socket.connect = refuse
heavy = json.loads(sys.argv[1])
before = [name for name in heavy if name in sys.modules]
began = time.process_time()
for path in sys.argv[2:]:
    spec = importlib.util.spec_from_file_location("parsed_" + path.rpartition("/")[2].removesuffix(".py"), path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
seconds = time.process_time() - began
print(json.dumps({"seconds": seconds, "imported": [name for name in heavy if name in sys.modules], "before": before}))
"""

DESCRIBE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization


def described(dag):
    return {
        "order": [task.task_id for task in dag.topological_sort()],
        "upstream": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "groups": {name: [child for child in group.children] for name, group in dag.task_group.get_task_group_dict().items() if name},
        "setups": [task.task_id for task in dag.tasks if task.is_setup],
        "teardowns": [task.task_id for task in dag.tasks if task.is_teardown],
        "retries": {task.task_id: [task.retries, bool(task.retry_exponential_backoff)] for task in dag.tasks},
        "doc": dag.doc_md,
        "docs": {task.task_id: task.doc_md for task in dag.tasks},
        "schedule": type(dag.timetable).__name__, "catchup": dag.catchup,
        "params": {n: {**dag.params.get_param(n).schema, "description": dag.params.get_param(n).description} for n in dag.params},
        "assets": {t.task_id: [[a.name, a.uri] for a in (*t.inlets, *t.outlets)] for t in dag.tasks},
    }


bag = DagBag(sys.argv[1])
back = {dag_id: DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))) for dag_id, dag in bag.dags.items()}
print(json.dumps({
    "errors": bag.import_errors,
    "files": {dag.dag_id: dag.fileloc for dag in bag.dags.values()},
    "dags": {dag_id: described(dag) for dag_id, dag in bag.dags.items()},
    "back": {i: {"upstream": {n: sorted(t.upstream_task_ids) for n, t in d.task_dict.items()}, "params": list(d.params)} for i, d in back.items()},
}))
"""


def python(program, *words, home):
    """Run a program in a fresh process that knows no connection; return what it says in its last line."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "MONGO_OPS", "PYTHON"))}
    ours = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/airflow.db",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=clean | ours, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    return python(DESCRIBE, str(ROOT / "dags"), home=tmp_path_factory.mktemp("home"))


@pytest.fixture(params=DAG_IDS)
def dag(request, parsed):
    return parsed["dags"][request.param]


@pytest.fixture(params=["mongo_migrate", "mongo_rollback"])
def migrating(request, parsed):
    return parsed["dags"][request.param]


def test_every_file_is_one_dag_of_its_name_and_imports_without_an_error(parsed):
    assert parsed["errors"] == {}
    assert {dag_id: Path(file).stem for dag_id, file in parsed["files"].items()} == {name: name for name in DAG_IDS}
    assert {"mongo_migrate", "mongo_rollback"} <= set(DAG_IDS)


def test_parsing_is_quick_and_takes_neither_a_connection_nor_a_driver(tmp_path):
    seen = python(PARSE, json.dumps(HEAVY), *map(str, DAG_FILES), home=tmp_path)

    print(f"parsing {len(DAG_FILES)} DAG files took {seen['seconds']:.2f} s of CPU")
    assert seen["before"] == [], "Airflow itself imports it, so this proves nothing"
    assert seen["imported"] == []
    assert seen["seconds"] < CPU_SECONDS


def test_every_dag_survives_serialization(parsed):
    for dag_id, dag in parsed["dags"].items():
        assert parsed["back"][dag_id]["params"] == list(dag["params"])
        assert parsed["back"][dag_id]["upstream"] == dag["upstream"]


@pytest.mark.parametrize(("dag_id", "expected"), [("mongo_migrate", FILES), ("mongo_rollback", FILES[::-1])])
def test_migrations_run_one_after_the_other_in_the_order_of_their_versions(parsed, dag_id, expected):
    dag = parsed["dags"][dag_id]
    tasks = [task for task in dag["order"] if name_of(task) in FILES]

    assert [name_of(task) for task in tasks] == expected
    for before, after in itertools.pairwise(tasks):
        assert before in dag["upstream"][after]


def test_core_and_advanced_migrations_are_in_groups(parsed):
    groups = parsed["dags"]["mongo_migrate"]["groups"]

    grouped = {name: [name_of(task) for task in tasks] for name, tasks in groups.items()}
    assert grouped == {"core": FILES[:4], "advanced": FILES[4:6], "core_2": FILES[6:]}


WORK = {
    "mongo_migrate": [*FILES, "verify"],
    "mongo_rollback": [*FILES, "verify"],
    "mongo_gdpr_erasure": ["objects", "leaves", "parents", "root", "sweep", "verify", "certify"],
    "mongo_bulk_export": ["parts", "finish"],
    "mongo_bulk_import": ["parts", "finish"],
    "mongo_partition": ["create", "move", "archive", "remove", "command", "restore"],
}


@pytest.mark.parametrize(("dag_id", "work"), WORK.items())
def test_everything_that_writes_is_between_taking_the_lease_and_giving_it_back(parsed, dag_id, work):
    dag = parsed["dags"][dag_id]
    order = [name_of(task) for task in dag["order"]]

    assert (dag["setups"], dag["teardowns"]) == (["lease"], ["release"])
    assert set(work) <= set(order[order.index("lease") + 1 : order.index("release")])
    last = work[-1]
    assert {"lease", last} <= {name_of(task) for task in dag["upstream"]["release"]}


def test_lint_comes_before_everything(migrating):
    assert migrating["order"][0] == "lint"
    assert migrating["upstream"]["lint"] == []


@pytest.mark.parametrize(
    "dag_id", ["mongo_migrate", "mongo_rollback", "mongo_gdpr_erasure", "mongo_bulk_import", "mongo_partition"]
)
def test_a_person_approves_the_plan_before_anything_is_written(parsed, dag_id):
    dag = parsed["dags"][dag_id]

    assert dag["order"].index("plan") < dag["order"].index("approve") < dag["order"].index("lease")
    assert dag["upstream"]["lease"] == ["approve"]


def test_every_task_is_tried_again_with_growing_delays_but_an_approval_never(dag):
    for approval in [task for task in dag["retries"] if task.startswith("approve")]:
        assert dag["retries"].pop(approval)[0] == 0
    assert dag["retries"].pop("verdict", [0])[0] == 0  # critical is a finding, not a fault
    assert {task: tuple(found) for task, found in dag["retries"].items()} == dict.fromkeys(dag["retries"], (5, True))


def test_a_person_finds_a_title_and_a_description_for_every_field_and_a_manual(dag):
    assert all(schema.get("title") and schema.get("description") for schema in dag["params"].values())
    assert dag["params"]["environment"]["enum"] == ["development", "staging", "production"]
    assert {"environment", "plan_only", "reason"} <= set(dag["params"])
    assert all(heading in dag["doc"] for heading in ("What it does", "What it touches", "Resume", "Undo"))
    assert all(dag["docs"][task] for task in dag["order"] if name_of(task) in FILES)


def test_only_the_nightly_dags_run_by_themselves_and_none_catches_up(parsed):
    scheduled = {dag_id for dag_id, dag in parsed["dags"].items() if dag["schedule"] != "NullTimetable"}

    assert scheduled <= {"mongo_retention", "mongo_health_check", "mongo_audit_anchor"}
    assert not any(dag["catchup"] for dag in parsed["dags"].values())


def test_collections_are_assets_with_names_and_without_credentials(migrating):
    assets = {name_of(task): found for task, found in migrating["assets"].items() if name_of(task) in FILES}

    assert all(assets.values()), "a migration names no collection"
    assert ["mongodb/geo_events", "x-mongodb://mongo-ops/spotify_ai_agent/geo_events"] in assets[FILES[4]]
    assert [
        uri for found in assets.values() for name, uri in found if "@" in uri or not name.startswith("mongodb/")
    ] == []


@pytest.mark.parametrize("file", DAG_FILES, ids=DAG_IDS)
def test_a_dag_file_is_wiring_only(file):
    tree = ast.parse(file.read_text())

    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert all(name == "__future__" or name.startswith(("airflow.sdk", "mongo_ops.orchestration")) for name in imported)
    assert plain == []
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)] == []


def name_of(task_id):
    """Return a task's name without its group."""
    return task_id.rpartition(".")[2]
