"""The stack behind `make up`, `make demo` and the scheduler tests: it starts once, works, and leaves no process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from demo import processes
from demo.environment import ROOT
from demo.stack import Stack
from demo.state import RunFolder, State

DAGS = """
import signal, sys, time
from airflow.sdk import dag, task

@dag(schedule=None)
def quick():
    @task
    def answer():
        return 42
    answer()

@dag(schedule=None)
def endless():
    @task
    def sleep(folder):
        signal.signal(signal.SIGTERM, lambda *_: (open(f"{folder}/told", "w").close(), sys.exit(1)))
        open(f"{folder}/sleeping", "w").close()
        time.sleep(600)
    sleep("{{ params.folder }}")

quick()
endless()
"""


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    yield folder
    Stack(folder).stop()


@pytest.fixture
def dags(tmp_path):
    folder = tmp_path / "dags"
    folder.mkdir()
    text = DAGS.replace("@dag(schedule=None)\ndef endless", '@dag(schedule=None, params={"folder": ""})\ndef endless')
    (folder / "trial.py").write_text(text)
    return {"AIRFLOW__CORE__DAGS_FOLDER": str(folder)}


@pytest.mark.timeout(180)
@pytest.mark.chaos
def test_a_stack_starts_once_works_and_leaves_no_process(run, dags, tmp_path):
    stack = Stack(run, airflow_port=0, detached=True)

    assert stack.start(extra_env=dags)

    assert stack.health() == dict.fromkeys(["metadatabase", "scheduler", "triggerer", "dag_processor"], "healthy")
    assert result_of(stack, "quick", "answer") == 42
    assert {mode(run / name) for name in ("passwords.json", "secrets.json")} == {0o600}

    first = stack.state
    again = command("up", run)
    assert (again.returncode, "up already" in again.stdout) == (0, True)
    assert stack.state == first
    assert [process.pid for process in stack.members() if process.pid == process.session] == sorted(
        [first.launcher, mongod(stack)]
    )

    sleep_in(stack, tmp_path)
    assert command("down", run).returncode == 0

    assert (tmp_path / "told").exists(), "the running task was not told to stop"
    assert with_marker(run) == []
    assert command("down", run).stdout.strip() == "Nothing is running."


@pytest.mark.chaos
@pytest.mark.timeout(180)
def test_down_leaves_nothing_even_after_kill_nine(run, dags, tmp_path):
    stack = Stack(run, airflow_port=0, detached=True)
    stack.start(extra_env=dags)
    sleep_in(stack, tmp_path)
    launcher = stack.state.launcher
    components = [process.pid for process in processes.children([launcher])]

    for pid in (launcher, *components[:2]):
        os.kill(pid, signal.SIGKILL)

    assert with_marker(run) != []
    assert command("down", run).returncode == 0
    assert with_marker(run) == []


def test_a_reused_process_id_is_neither_taken_for_the_stack_nor_stopped(run):
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    folder = RunFolder(run)
    folder.create()
    folder.save(State(airflow_port=1, mongo_port=None, launcher=stranger.pid, started=1))
    try:
        stack = Stack(run)

        assert (stack.is_up(), stack.members(), stack.stop()) == (False, [], [])
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_start_at_the_same_moment_is_refused_with_a_sentence(run):
    run.mkdir()
    with RunFolder(run).locked():
        refused = command("up", run)

    assert refused.returncode == 1
    assert "Another command is starting or stopping the stack" in refused.stdout


def command(word: str, run: Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "MONGO_OPS_RUN": str(run), "AIRFLOW_PORT": "0", "COLUMNS": "300"}
    return subprocess.run(
        [sys.executable, "-m", "demo", word], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def result_of(stack, dag_id, task_id):
    assert processes.wait_for(lambda: stack.api.has_dag(dag_id), 60)
    run = stack.api.trigger(dag_id)
    assert stack.api.wait(run, 60) == "success"
    return json.loads(json.dumps(stack.api.xcom(run, task_id)))


def sleep_in(stack, folder):
    assert processes.wait_for(lambda: stack.api.has_dag("endless"), 60)
    stack.api.trigger("endless", {"folder": str(folder)})
    assert processes.wait_for((folder / "sleeping").exists, 60)


def mongod(stack):
    return next(process.pid for process in stack.members() if process.name == "mongod")


def mode(path):
    return path.stat().st_mode & 0o777


def with_marker(run):
    """Scan the process table by hand, so that this proof does not rest on the code it proves."""
    marker = f"{processes.MARKER}={run}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found
