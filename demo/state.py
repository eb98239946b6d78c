"""What one stack keeps in its run folder between commands: ports, process identity, generated secrets."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.environment import ROOT, USERS, Secrets
from mongo_ops.erasure import keys


class StackError(Exception):
    """The stack cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class State:
    """The last start. ``launcher`` and ``started`` name one process beyond doubt; 0 before it exists."""

    airflow_port: int
    mongo_port: int | None
    launcher: int = 0
    started: int = 0


@dataclass(frozen=True)
class RunFolder:
    """The folder that holds everything a stack writes."""

    path: Path

    @property
    def logs(self) -> Path:
        """One log per component."""
        return self.path / "logs"

    @property
    def database_stamp(self) -> Path:
        """Exists when Airflow's metadata database was made by the locked versions."""
        digest = hashlib.sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()[:16]
        return self.path / "airflow" / f".database-{digest}"

    def create(self) -> None:
        """Make the folders and remove the last start's logs."""
        for folder in (self.path, self.logs, self.path / "airflow", self.path / "storage"):
            folder.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for log in self.logs.glob("*.log"):
            log.unlink()

    def load(self) -> State | None:
        """Return the last start, or None."""
        try:
            return State(**json.loads((self.path / "stack.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, state: State) -> None:
        """Keep the start, in one step."""
        draft = self.path / "stack.json.new"
        draft.write_text(json.dumps(dataclasses.asdict(state)))
        draft.replace(self.path / "stack.json")

    def secrets(self) -> Secrets:
        """Return the stack's keys; the first call generates them."""
        fresh = Secrets(
            secrets.token_urlsafe(64), secrets.token_urlsafe(32), base64.urlsafe_b64encode(os.urandom(32)).decode()
        )
        return Secrets(**self._private("secrets.json", dataclasses.asdict(fresh)))

    def erasure_keys(self) -> dict[str, str]:
        """Return the erasure's keys by Airflow variable; the first call generates them. In production a secrets backend has them."""
        return self._private(
            "erasure_keys.json", {keys.variable(purpose): keys.renewed(purpose) for purpose in keys.PURPOSES}
        )

    def passwords(self) -> dict[str, str]:
        """Return each user's password; the first call generates them."""
        return self._private("passwords.json", {user: secrets.token_urlsafe(9) for user in USERS})

    def _private(self, name: str, fresh: dict[str, str]) -> dict[str, str]:
        path = self.path / name
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(fresh, file)
        kept: dict[str, str] = json.loads(path.read_text())
        return kept

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a component's log."""
        path = self.logs / f"{name}.log"
        if not path.exists():
            return "(no log was written)"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second start or stop.

        Raises:
            StackError: another command holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                message = f"Another command is starting or stopping the stack in {self.path}. Wait for it to end."
                raise StackError(message) from error
            yield


def port_is_free(port: int) -> bool:
    """Tell whether nothing listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_port(preferred: int) -> int:
    """Return the preferred port when it is free, else any free one (0 prefers none)."""
    if preferred and port_is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
