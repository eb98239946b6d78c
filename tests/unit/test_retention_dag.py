"""The retention DAG over environments.yaml: the schedule looks after every environment that is nightly, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mongo_ops.settings import PROJECT

PARSE = """
import json, runpy
found = runpy.run_path("dags/mongo_retention.py")
dag = found["report"].dag
nights = dag.task_dict.get("other_nights")
print(json.dumps({
    "default": dag.params["environment"],
    "others": nights.expand_input.value["environment"] if nights else [],
    "before_report": sorted(found["report"].upstream_task_ids),
}))
"""


@pytest.mark.parametrize(("nightly", "default", "others"), [("", "a", []), ("bcd", "b", ["c", "d"])])
def test_each_nightly_environment_has_its_night(tmp_path, nightly, default, others):
    rows = {name: {"connection": "x", "nightly": name in nightly} for name in "abcd"}
    (tmp_path / "environments.yaml").write_text(json.dumps({"environments": rows}))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "MONGO_OPS", "PYTHON"))}
    ours = {"AIRFLOW_HOME": str(tmp_path), "MONGO_OPS_INCLUDE": str(tmp_path), "PYTHONPATH": str(PROJECT / "plugins")}

    done = subprocess.run(
        [sys.executable, "-c", PARSE], env=clean | ours, cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["default"], found["others"]) == (default, others)
    assert "other_nights" not in found["before_report"]
