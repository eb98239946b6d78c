"""Find and end the processes that belong to one stack, whatever became of the process that started them.

A process belongs to a stack when its environment carries the stack's marker, when it lives in one of the stack's
sessions, or when it descends from such a process. Three tests, because each has a gap: Airflow makes its task
supervisors non-dumpable (their environment is then unreadable for everybody but root), a process may leave its session,
and an orphan loses its parent. A process id alone is never trusted: ids are reused.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MARKER = "MONGO_OPS_STACK"
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """One line of the process table; ``started`` is in clock ticks since boot and tells a reused id."""

    pid: int
    parent: int
    session: int
    started: int
    name: str


def look_up(pid: int) -> Process | None:
    """Return the process, or None when there is none (a zombie has ended and does not count)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), before.partition("(")[2])


def table() -> dict[int, Process]:
    """Return every living process by its id."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {process.pid: process for process in map(look_up, pids) if process is not None}


def environment(pid: int) -> dict[str, str]:
    """Return the variables that the process was started with; none when we may not read them."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in content.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name}


def members(value: str, sessions: Iterable[int] = ()) -> list[Process]:
    """Return the living processes of the stack with this marker, without ourselves and our ancestors."""
    living = table()
    known = set(sessions)
    ours = {pid for pid, process in living.items() if process.session in known or environment(pid).get(MARKER) == value}
    while more := {pid for pid, process in living.items() if process.parent in ours} - ours:
        ours |= more
    return [living[pid] for pid in sorted(ours - _lineage(living))]


def children(pids: Iterable[int]) -> list[Process]:
    """Return the living children of these processes."""
    parents = set(pids)
    return [process for process in table().values() if process.parent in parents]


def _lineage(living: dict[int, Process]) -> set[int]:
    """Ourselves and everything above us: never to be signalled."""
    line, pid = {1}, os.getpid()
    while pid in living and pid not in line:
        line.add(pid)
        pid = living[pid].parent
    return line


def is_same(process: Process) -> bool:
    """Tell whether this very process still lives."""
    now = look_up(process.pid)
    return now is not None and now.started == process.started


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    """Signal each process that is still itself."""
    for process in processes:
        if is_same(process):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = POLL_SECONDS) -> bool:
    """Poll until the condition holds; return False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def wait_gone(processes: Iterable[Process], seconds: float) -> bool:
    """Wait until none of these processes lives; return False when some still do."""
    watched = list(processes)
    return wait_for(lambda: not any(is_same(process) for process in watched), seconds)
