"""The facts of a deployment at one moment, as a value that can be stored and judged again. Pure; ``collect`` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import bson

from mongo_ops.health.model import FactMissingError
from mongo_ops.mongo.documents import CODEC

Facts = Mapping[str, Any]
PRIMARY = 1


def has_primary(samples: Sequence[Facts]) -> bool:
    """Say whether the latest sample of ``replSetGetStatus`` shows a primary; without a sample nobody knows of its absence."""
    return not samples or any(one["state"] == PRIMARY for one in samples[-1]["members"])


@dataclass(frozen=True)
class IndexFacts:
    """An index as ``$listCatalog`` shows it."""

    collection: str
    name: str
    spec: Facts
    ready: bool

    @property
    def scope(self) -> str:
        """How findings name it."""
        return f"{self.collection}.{self.name}"

    @property
    def key(self) -> tuple[tuple[str, Any], ...]:
        """Fields and directions, in order."""
        return tuple(self.spec["key"].items())

    @property
    def is_ttl(self) -> bool:
        """Whether documents expire by it."""
        return "expireAfterSeconds" in self.spec


@dataclass(frozen=True)
class Snapshot:
    """What was read, part by part; ``missing`` names what could not be, with the kind of the error.

    Attributes:
        taken_at: the server's clock.
        server: a part of ``serverStatus``; ``earlier`` the same, ``seconds_between`` before.
        replication: two samples of ``replSetGetStatus``.
        catalogue: ``$listCatalog`` of the database.
        sizes: per collection: its declared count.
        disk: from ``dbStats``: the file system under the data, and the free space in all files of the database together.
        operations: ``currentOp`` without commands and without clients.
    """

    environment: str
    database: str
    protected: bool
    taken_at: datetime
    server: Facts = field(default_factory=dict)
    earlier: Facts = field(default_factory=dict)
    seconds_between: float = 0.0
    replication: Sequence[Facts] = ()
    parameters: Facts = field(default_factory=dict)
    options: Facts = field(default_factory=dict)
    catalogue: Sequence[Facts] = ()
    sizes: Mapping[str, Facts] = field(default_factory=dict)
    disk: Facts = field(default_factory=dict)
    oplog: Facts = field(default_factory=dict)
    operations: Sequence[Facts] = ()
    users: Sequence[Facts] = ()
    leases: Sequence[Facts] = ()
    migrations: Sequence[Facts] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def need(self, part: str) -> Any:
        """Return a part.

        Raises:
            FactMissingError: it could not be read.
        """
        if part in self.missing:
            raise FactMissingError(f"{part} could not be read ({self.missing[part]}).")
        return getattr(self, part)

    @property
    def has_primary(self) -> bool:
        """Whether somebody takes writes and majority reads, as far as is known."""
        return has_primary(self.replication)

    @property
    def collections(self) -> tuple[Facts, ...]:
        """Real collections of the database, the server's own left out, in order of their names."""
        rows = [one for one in self.need("catalogue") if one["type"] == "collection"]
        return tuple(
            sorted((one for one in rows if not one["name"].startswith("system.")), key=lambda one: str(one["name"]))
        )

    def has(self, collection: str) -> bool:
        """Whether there is such a collection."""
        return any(one["name"] == collection for one in self.collections)

    @property
    def indexes(self) -> tuple[IndexFacts, ...]:
        """All indexes of real collections."""
        return tuple(
            IndexFacts(str(one["name"]), index["spec"]["name"], index["spec"], bool(index.get("ready", True)))
            for one in self.collections
            for index in one["md"].get("indexes", ())
        )

    def as_bytes(self) -> bytes:
        """Return it as BSON: Extended JSON would take a validator's ``$regex`` for a value of its own."""
        return bson.encode({item.name: getattr(self, item.name) for item in fields(self)}, codec_options=CODEC)

    @classmethod
    def of_bytes(cls, data: bytes) -> Snapshot:
        """Read it back."""
        return cls(**bson.decode(data, CODEC))
