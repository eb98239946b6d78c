"""A write guard on the wire: a client made with it can read and nothing else. The dry run stands on it.

It listens to every command that the driver is about to send, so no helper, cursor or raw handle gets around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

READS = frozenset(
    {
        "abortTransaction", "aggregate", "buildInfo", "collStats", "connectionStatus", "count", "currentOp", "dbStats", "distinct",
        "endSessions", "explain", "find", "getCmdLineOpts", "getMore", "getParameter", "hello", "hostInfo", "isMaster", "ismaster",
        "killCursors", "listCollections", "listCommands", "listDatabases", "listIndexes", "ping", "replSetGetConfig",
        "replSetGetStatus", "rolesInfo", "saslContinue", "saslStart", "serverStatus", "top", "usersInfo", "authenticate",
    }
)  # fmt: skip
WRITING_STAGES = frozenset({"$out", "$merge"})


class WriteRefusedError(BaseException):
    """A write was tried through a read-only client.

    Not an ``Exception``: the driver logs and swallows those in listeners, and user code might catch them. Turn it into a
    ``PlanError`` where the dry run ends.
    """

    def __init__(self, command: str, collection: str) -> None:
        super().__init__(command, collection)
        self.command, self.collection = command, collection

    def __str__(self) -> str:
        where = f" on {self.collection}" if self.collection else ""
        return f"a dry run only reads, but {self.command}{where} would write"


class ReadOnlyGuard(CommandListener):
    """Refuses every command that could write, before it is sent."""

    def started(self, event: CommandStartedEvent) -> None:
        """Raise instead of letting a write leave the process."""
        command: Mapping[str, Any] = event.command
        subject = command.get(event.command_name)
        if event.command_name not in READS or _writes(command):
            raise WriteRefusedError(event.command_name, subject if isinstance(subject, str) else "")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to refuse any more."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to refuse any more."""


def _writes(command: Mapping[str, Any]) -> bool:
    """Say whether an aggregate ends in ``$out`` or ``$merge``, directly or inside an explain."""
    inner = command.get("explain")
    stages = command.get("pipeline", ())
    if isinstance(inner, Mapping) and _writes(inner):
        return True
    return any(WRITING_STAGES & set(stage) for stage in stages if isinstance(stage, Mapping))
