"""Airflow's four components from one interpreter: import once, fork four times, stop in the right order.

`airflow standalone` imports Airflow five times over and, on SIGTERM, leaves its children behind. Here one parent
imports it, forks each component (which then runs Airflow's own command line), restarts one that dies later on, and ends
them all on SIGTERM. What that is worth was measured: docs/decisions/0001-airflow-from-one-process.md.

Run by `demo.stack` with the environment of `demo.environment`; never by hand.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from demo import processes

SHARED = (
    "airflow.cli.commands.scheduler_command",
    "airflow.cli.commands.dag_processor_command",
    "airflow.cli.commands.triggerer_command",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.operators.hitl",
    "pymongo",
)
"""Imported before the first fork. Third-party code only: an edit of ours must reach the next task without a restart."""

STOPPING = {signal.SIGTERM, signal.SIGINT}
WATCHED = {*STOPPING, signal.SIGCHLD}
YOUNG_SECONDS = 10.0
"""A component that dies younger than this is broken, not unlucky: the stack stops instead of restarting it."""

TASKS_GRACE = 10.0
OTHERS_GRACE = 1.5
STOP_GRACE = 4.0


@dataclass(frozen=True)
class Component:
    """One Airflow process: the words of its command line and what it imports beyond the shared part."""

    name: str
    words: Sequence[str]
    preload: Sequence[str] = ()


API_SERVER = Component(
    "api-server", ["api-server"], ["airflow.cli.commands.api_server_command", "airflow.api_fastapi.main"]
)
SCHEDULER = Component("scheduler", ["scheduler", "--skip-serve-logs"])
DAG_PROCESSOR = Component("dag-processor", ["dag-processor"])
TRIGGERER = Component("triggerer", ["triggerer", "--skip-serve-logs"])
COMPONENTS = (API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL("libc.so.6", use_errno=True).prctl(option, value)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send us this signal when our parent dies."""
    _prctl(1, number)


def adopt_orphans() -> None:
    """Become the new parent of descendants whose parent dies, so that none of them escapes."""
    _prctl(36, 1)


@dataclass
class Launcher:
    """The parent of the components."""

    logs: Path
    mask: set[int]
    running: dict[int, tuple[Component, float]]

    def start(self, component: Component, gate: tuple[int, int] | None = None) -> None:
        """Fork one component; with a gate (a pipe) it touches the database only after we closed the writing end."""
        pid = os.fork()
        if pid == 0:
            self._become(component, gate)
        self.running[pid] = (component, time.monotonic())

    def _become(self, component: Component, gate: tuple[int, int] | None) -> NoReturn:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        log = os.open(self.logs / f"{component.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for module in component.preload:
            importlib.import_module(module)
        if gate is not None:
            os.close(gate[1])
            os.read(gate[0], 1)
        gc.freeze()  # what was imported stays: collecting it would only make every later collection, and the exit, slow
        gc.enable()
        sys.argv = ["airflow", *component.words]
        airflow = importlib.import_module("airflow.__main__")
        sys.exit(airflow.main())

    def watch(self) -> int:
        """Wait for the signal to stop; restart what dies; return the exit code."""
        while True:
            received = signal.sigtimedwait(WATCHED, 1.0)
            if received is not None and received.si_signo in STOPPING:
                return 0
            for component, age, status in self._reap():
                print(f"{component.name} ended (status {status}) after {age:.0f} s", flush=True)  # noqa: T201
                if age < YOUNG_SECONDS:
                    return 1
                self.start(component)

    def _reap(self) -> list[tuple[Component, float, int]]:
        ended: list[tuple[Component, float, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid in self.running:
                component, started = self.running.pop(pid)
                ended.append((component, time.monotonic() - started, os.waitstatus_to_exitcode(status)))

    def stop(self) -> None:
        """End everything: tasks first (they release their leases), the API server last (they report to it)."""
        components = {component.name: process for process, component in self._living()}
        others = [process for name, process in components.items() if name != API_SERVER.name]
        scheduler = [process for name, process in components.items() if name == SCHEDULER.name]
        processes.send(others, signal.SIGTERM)  # the scheduler starts nothing more and waits for its workers
        self._await_scheduler(scheduler)
        processes.wait_for(lambda: self._gone(others), OTHERS_GRACE)
        self._end(others, signal.SIGKILL)  # Airflow's triggerer may miss its child's end and wait 10 s for nothing
        self._end([process for name, process in components.items() if name == API_SERVER.name], signal.SIGINT)
        self._end(self._leftovers(), signal.SIGTERM, OTHERS_GRACE)
        self._end(self._leftovers(), signal.SIGKILL)

    def _await_scheduler(self, scheduler: list[processes.Process]) -> None:
        """Wait for the scheduler's end while each running task is told, once, to stop.

        Airflow's scheduler leaves by raising SystemExit wherever the signal met it. In the middle of a garbage
        collection that exception is lost, so an idle scheduler that stays is told again.
        """
        told: set[int] = set()
        again = time.monotonic() + OTHERS_GRACE

        def gone() -> bool:
            nonlocal again
            workers = processes.children(process.pid for process in scheduler)
            tasks = processes.children(worker.pid for worker in workers)
            processes.send([task for task in tasks if task.pid not in told], signal.SIGTERM)
            told.update(task.pid for task in tasks)
            if not tasks and time.monotonic() > again:
                again = time.monotonic() + OTHERS_GRACE
                processes.send(scheduler, signal.SIGTERM)
            return self._gone(scheduler)

        processes.wait_for(gone, TASKS_GRACE)

    def _living(self) -> list[tuple[processes.Process, Component]]:
        found = [(processes.look_up(pid), component) for pid, (component, _) in self.running.items()]
        return [(process, component) for process, component in found if process is not None]

    def _leftovers(self) -> list[processes.Process]:
        me = os.getpid()
        return [process for process in processes.table().values() if process.session == me and process.pid != me]

    def _end(self, targets: list[processes.Process], number: signal.Signals, seconds: float = STOP_GRACE) -> None:
        processes.send(targets, number)
        processes.wait_for(lambda: self._gone(targets), seconds)

    def _gone(self, targets: list[processes.Process]) -> bool:
        self._reap()
        return not any(processes.is_same(process) for process in targets)


def main() -> None:
    """Run until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--stamp", type=Path, required=True, help="exists when the metadata database is ready")
    parser.add_argument("--bound", action="store_true", help="stop when the process that started us dies")
    options = parser.parse_args()
    root = str(Path.cwd())
    sys.path[:] = [entry for entry in sys.path if entry not in ("", root)]  # tasks must not see the project root
    if options.bound:
        die_with_parent()
    adopt_orphans()
    launcher = Launcher(options.logs, signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED), {})
    gc.disable()  # a fifth of the import time
    importlib.import_module("airflow.__main__")
    gate = os.pipe()
    launcher.start(API_SERVER, gate)
    if prepare(options.stamp):
        os.close(gate[1])
        os.close(gate[0])
        for component in COMPONENTS[1:]:
            launcher.start(component)
    code = launcher.watch()
    launcher.stop()
    sys.exit(code)


def prepare(stamp: Path) -> bool:
    """Import the shared part and make the database ready; return False when we were told to stop meanwhile."""
    for module in SHARED:
        if signal.sigpending() & STOPPING:
            return False
        importlib.import_module(module)
    prepare_database(stamp)
    return not signal.sigpending() & STOPPING


def prepare_database(stamp: Path) -> None:
    """Create or upgrade Airflow's metadata database, unless the stamp says that this version has done so."""
    from airflow.configuration import write_default_airflow_configuration_if_needed  # noqa: PLC0415

    write_default_airflow_configuration_if_needed()
    if stamp.exists():
        return
    from airflow.utils.db import initdb  # noqa: PLC0415

    initdb()
    stamp.touch()


if __name__ == "__main__":
    main()
