"""One MongoDB and one Airflow, started, found again, and stopped to the last process.

The same class serves `make up`, `make demo` and the tests that go through a real scheduler:

    stack = Stack(tmp_path / "run", airflow_port=0)
    stack.start(extra_env={"MONGO_OPS_INCLUDE": str(my_include)})
    run = stack.api.trigger("mongo_migrate", {"environment": "development"})
    assert stack.api.wait(run) == "success"
    stack.stop()
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from demo import processes
from demo.api import Api
from demo.environment import DATABASES, ROOT, airflow_environment
from demo.launcher import COMPONENTS
from demo.mongo import start_replica_set
from demo.state import RunFolder, StackError, State, choose_port

START_SECONDS = 240.0
STOP_SECONDS = 40.0
NEEDED = ("metadatabase", "scheduler", "dag_processor")


def _silent(_message: str) -> None:
    """Say nothing."""


@dataclass
class Stack:
    """A stack in a run folder.

    ``airflow_port`` is the wish; a free one is taken when somebody else has it (0: any). ``detached`` lets the stack
    outlive the process that started it; otherwise it ends with that process, even after kill -9. ``say`` hears what is
    going on.
    """

    run: Path
    airflow_port: int = 8080
    detached: bool = False
    say: Callable[[str], None] = _silent
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run = self.run.resolve()
        self._folder = RunFolder(self.run)
        self._launcher: subprocess.Popen[bytes] | None = None

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The last start.

        Raises:
            StackError: there was none.
        """
        state = self._folder.load()
        if state is None:
            raise StackError(f"No stack was started in {self.run}. Run `make up`.")
        return state

    @property
    def url(self) -> str:
        """The address of Airflow's UI and API."""
        return f"http://localhost:{self.state.airflow_port}"

    @property
    def mongo_uri(self) -> str:
        """The connection string of the embedded MongoDB, without a database."""
        return f"mongodb://127.0.0.1:{self.state.mongo_port}/?replicaSet=rs0"

    @property
    def passwords(self) -> dict[str, str]:
        """Each user's password."""
        return self._folder.passwords()

    @property
    def api(self) -> Api:
        """Airflow's REST API as admin."""
        return self.api_as("admin")

    def api_as(self, user: str) -> Api:
        """Airflow's REST API as this user (``admin``, or ``olivia`` who approves)."""
        return Api(f"http://127.0.0.1:{self.state.airflow_port}", user, self.passwords[user])

    @staticmethod
    def database(environment: str = "development") -> str:
        """Return the name of an environment's database."""
        return DATABASES[environment]

    def environment(self) -> dict[str, str]:
        """Return the environment in which the stack's Airflow runs, without what a caller of `start` added."""
        state = self.state
        port, keys = state.airflow_port, self._folder.erasure_keys()
        return airflow_environment(os.environ, self.run, port, state.mongo_port, self._folder.secrets(), keys)

    @property
    def started_at(self) -> datetime:
        """When the last start began."""
        return datetime.fromtimestamp((self.run / "stack.json").stat().st_mtime, UTC)

    def variable(self, name: str) -> str | None:
        """Return an environment variable of the running Airflow, whoever started it."""
        launcher = self._living_launcher()
        variables = processes.environment(launcher.pid) if launcher else {}
        return variables.get(name)

    def members(self) -> list[processes.Process]:
        """Return the stack's living processes."""
        state = self._folder.load()
        leader = processes.look_up(state.launcher) if state else None
        reused = state is not None and leader is not None and leader.started != state.started
        return processes.members(str(self.run), [state.launcher] if state and state.launcher and not reused else [])

    def _living_launcher(self) -> processes.Process | None:
        state = self._folder.load()
        found = processes.look_up(state.launcher) if state and state.launcher else None
        return found if state and found and found.started == state.started else None

    def is_up(self) -> bool:
        """Tell whether Airflow's parent process lives and everything answers."""
        return self._living_launcher() is not None and self._is_healthy()

    def health(self) -> dict[str, str]:
        """Return the state of each Airflow component; empty when nothing answers."""
        return self.api.health() if self._folder.load() else {}

    def _is_healthy(self) -> bool:
        health = self.health()
        return all(health.get(name) == "healthy" for name in NEEDED)

    # Start ----------------------------------------------------------------------------------------------------------

    def start(self, *, mongo: bool = True, extra_env: Mapping[str, str] | None = None) -> bool:
        """Start what is not running and wait until it works; return False when it was up already.

        Raises:
            StackError: it did not come up; everything is stopped again and the message ends with the log.
        """
        with self._folder.locked():
            if self.is_up():
                return False
            if self.members():
                self.say("An earlier start left processes behind; stopping them first.")
                self._stop()
            try:
                self._start(mongo, extra_env or {})
            except BaseException:
                with uninterrupted():
                    self._stop()
                raise
        return True

    def _start(self, mongo: bool, extra_env: Mapping[str, str]) -> None:  # noqa: FBT001
        self._folder.create()
        before = self._folder.load()
        port = choose_port(self.airflow_port)
        if self.airflow_port not in (0, port):
            self.say(f"Port {self.airflow_port} is taken; Airflow uses {port}.")
        mongo_port = choose_port(before.mongo_port or 0 if before else 0) if mongo else None
        state = State(port, mongo_port)
        self.passwords  # noqa: B018  (the file must exist before Airflow makes one)
        self._folder.save(state)
        self.env = self.environment() | dict(extra_env)
        self._folder.save(self._launch(state))
        if mongo_port is not None:
            with marked(str(self.run)):
                start_replica_set(self.run / "mongo", mongo_port, detached=self.detached)
            self.say(f"MongoDB answers on port {mongo_port}.")
        self._await_healthy()

    def _launch(self, state: State) -> State:
        words = [sys.executable, "-m", "demo.launcher", "--logs", str(self._folder.logs)]
        words += ["--stamp", str(self._folder.database_stamp)]
        if not self.detached:
            words.append("--bound")
        with (self._folder.logs / "launcher.log").open("wb") as log:
            self._launcher = subprocess.Popen(
                words, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        found = processes.look_up(self._launcher.pid)
        return replace(state, launcher=self._launcher.pid, started=found.started if found else 0)

    def _await_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        api = self.api
        while not (api.warm_up() and self._is_healthy()):
            if self._living_launcher() is None:
                raise StackError(f"Airflow stopped while it started.\n{self._what_the_logs_say()}")
            if time.monotonic() > deadline:
                message = f"Airflow was not ready after {START_SECONDS:.0f} s: {self.health() or 'no answer'}."
                raise StackError(f"{message}\n{self._what_the_logs_say()}")
            time.sleep(0.1)
        self.say(f"Airflow answers on {self.url}.")

    def _what_the_logs_say(self) -> str:
        ended = self._folder.tail("launcher", 10)
        guilty = [log.stem for log in sorted(self._folder.logs.glob("*.log")) if f"{log.stem} ended" in ended]
        shown = guilty or [component.name for component in COMPONENTS]
        tails = [f"--- the end of {name}.log ---\n{self._folder.tail(name, 40 // len(shown))}" for name in shown]
        return "\n".join([ended, *tails, f"--- all logs: {self._folder.logs}; `make up` tries again ---"])

    # Stop -----------------------------------------------------------------------------------------------------------

    def stop(self) -> list[processes.Process]:
        """Stop every process of the stack; return those that had to be killed. Stopping what is down does nothing.

        Raises:
            StackError: something survived even SIGKILL.
        """
        with self._folder.locked():
            return self._stop()

    def _stop(self) -> list[processes.Process]:
        launcher = self._living_launcher()
        ours = self.members()
        if launcher is not None:
            self._end([launcher], signal.SIGTERM, STOP_SECONDS)
        ours = [process for process in ours if processes.is_same(process)] or self.members()
        self._end([process for process in ours if process.name == "mongod"], signal.SIGTERM, STOP_SECONDS)
        self._end(ours, signal.SIGTERM, 3.0)
        stubborn = [process for process in ours if processes.is_same(process)]
        self._end(stubborn, signal.SIGKILL, 10.0)
        if survivors := [*filter(processes.is_same, stubborn), *self.members()]:
            names = ", ".join(f"{process.name} ({process.pid})" for process in survivors)
            raise StackError(f"These processes did not end: {names}. Look at them with `ps`.")
        return stubborn

    def _end(self, targets: list[processes.Process], number: signal.Signals, seconds: float) -> None:
        processes.send(targets, number)
        processes.wait_gone(targets, seconds)
        if self._launcher is not None and self._launcher.poll() is not None:
            self._launcher = None


@contextlib.contextmanager
def marked(value: str) -> Iterator[None]:
    """Let the processes started inside inherit the marker."""
    os.environ[processes.MARKER] = value
    try:
        yield
    finally:
        del os.environ[processes.MARKER]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a clean-up finish although Ctrl-C is pressed again."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: no signal arrives here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
