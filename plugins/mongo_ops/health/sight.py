"""What a check may look at: the snapshot, the database through a client that cannot write, every member, and what others know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.monitoring import CommandStartedEvent
from pymongo.uri_parser import parse_uri

from mongo_ops.health.model import FactMissingError, Limits, Mute
from mongo_ops.health.snapshot import Snapshot
from mongo_ops.mongo.connection import client_options
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.guard import ReadOnlyGuard

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.connection import ConnectionSpec, Target
    from mongo_ops.mongo.documents import Document

TOGETHER = 50
"""Collections that one command reads."""

AT_ONCE = 5_000
"""Documents of one answer, so that a row per index of ``TOGETHER`` collections is one command."""

LABEL = "ops_collection"
PRIMARY, SECONDARY, ARBITER = 1, 2, 7


class HealthGuard(ReadOnlyGuard):
    """Lets pass what reads, and ``validate`` in the background, which holds nobody up; counts the commands."""

    def __init__(self) -> None:
        self.commands = 0

    def started(self, event: CommandStartedEvent) -> None:
        """Count the command; refuse it when it could write."""
        self.commands += 1
        quiet = event.command.get("background") is True and not event.command.get("repair")
        if event.command_name != "validate" or not quiet:
            super().started(event)


@dataclass(frozen=True)
class Deviation:
    """A place where the catalogue is not as the applied migrations say. ``kind`` is ``missing``, ``changed`` or ``extra``."""

    kind: str
    scope: str
    subject: str
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overdue:
    """Documents that a retention schedule should have removed."""

    scope: str
    documents: int
    why: str


@dataclass(frozen=True)
class Waived:
    """A place that the data map leaves out until a day."""

    path: str
    until: date
    owner: str


@dataclass(frozen=True)
class Outside:
    """What other features know, handed in by the layer above; None where it is not known."""

    drift: Callable[[Snapshot], Sequence[Deviation]] | None = None
    coverage: Callable[[], Sequence[tuple[str, str]]] | None = None
    waivers: Callable[[], Sequence[Waived]] | None = None
    retention: Callable[[], Sequence[Overdue]] | None = None


@dataclass(frozen=True)
class Point:
    """A value in the history."""

    at: datetime
    value: float


@dataclass(frozen=True)
class Sight:
    """What one check may look at.

    ``limits`` are the check's own; ``past(check, scope)`` gives its earlier values, the oldest first.
    """

    target: Target
    spec: ConnectionSpec
    snapshot: Snapshot
    guard: HealthGuard
    limits: Limits = field(default_factory=Limits)
    outside: Outside = field(default_factory=Outside)
    past: Callable[[str, str], Sequence[Point]] = lambda _check, _scope: ()
    mutes: tuple[Mute, ...] = ()

    @property
    def db(self) -> Database[Document]:
        """The environment's database, through the guard."""
        return self.target.db

    @contextmanager
    def members(self) -> Iterator[Mapping[str, Database[Document]]]:
        """Yield the database on every member that holds data, each asked directly.

        Raises:
            FactMissingError: one of them is away, so that nobody can speak for all.
        """
        clients: dict[str, MongoClient[Document]] = {}
        try:
            for member in self.snapshot.need("replication")[-1]["members"]:
                if member["state"] == ARBITER:
                    continue
                if member["state"] not in (PRIMARY, SECONDARY) or member["health"] != 1:
                    raise FactMissingError(f"{member['name']} is away and cannot be asked.")
                clients[member["name"]] = self._direct(member["name"])
            yield {name: client.get_database(self.target.database, CODEC) for name, client in clients.items()}
        finally:
            for client in clients.values():
                client.close()

    def _direct(self, address: str) -> MongoClient[Document]:
        parsed = parse_uri(self.spec.uri)
        options = {**client_options(self.spec.options), "directConnection": True, "event_listeners": [self.guard]}
        options.pop("replicaSet", None)
        if parsed["username"]:
            options |= {"username": parsed["username"], "password": parsed["password"]}
            options.setdefault("authSource", parsed["options"].get("authsource") or parsed["database"] or "admin")
        return MongoClient(address, **{**options, "serverSelectionTimeoutMS": 5_000})


def together(
    db: Database[Document], pipelines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
) -> Iterator[tuple[str, Document]]:
    """Run a pipeline on each of many collections, ``TOGETHER`` of them in one command; yield (collection, document).

    Source: ``$unionWith`` takes ``$indexStats`` and ``$collStats`` as a sub-pipeline's first stage.
    """
    for start in range(0, len(pipelines), TOGETHER):
        (first, own), *rest = pipelines[start : start + TOGETHER]
        stages: list[Mapping[str, Any]] = [*own, _labelled(first)]
        stages += [{"$unionWith": {"coll": name, "pipeline": [*some, _labelled(name)]}} for name, some in rest]
        for document in db[first].aggregate(stages, allowDiskUse=True, batchSize=AT_ONCE):
            yield document.pop(LABEL), document


def _labelled(name: str) -> Mapping[str, Any]:
    return {"$set": {LABEL: {"$literal": name}}}
