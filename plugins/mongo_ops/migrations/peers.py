"""The histories that other migration tools keep in a database, and how to read them. Reads only.

By tool, with the version whose documents were seen:

- migrate-mongo 14: ``changelog`` {fileName, appliedAt, migrationBlock, fileHash?}; a migration rolled back leaves no document.
- pymongo-migrate 1.0: ``pymongo_migrate`` {name, applied}; ``applied`` is null once rolled back.
- mongomig 0.4: ``__mongomig_migrations`` {_id, description, status, applied_at, ...}; status applied, failed or running.
- mongodb-migrations 1.3: ``database_migrations`` {migration_datetime, created_at}; names stand only in its folder, and
  ``created_at`` is the local time of the machine that ran it, without saying which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

_NUMBERS = re.compile(r"^(?:\d+_)+")
_EXTENSION = re.compile(r"\.(py|[cm]?[jt]s)$")
_STAMPED = re.compile(r"^(\d+)[_a-z]*\.py$")  # the files that mongodb-migrations takes for migrations


@dataclass(frozen=True)
class Entry:
    """One migration in another tool's history.

    Attributes:
        name: what the tool knows it by.
        state: ``applied``, or what the tool says instead.
        applied_at: when.
        title: what it is called, where the name is only an identifier.
    """

    name: str
    state: str
    applied_at: datetime | None
    title: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.title}".rstrip()

    @property
    def slug(self) -> str:
        """What it is called, without all that differs between tools."""
        return slug(self.title or self.name)


@dataclass(frozen=True)
class Source:
    """Where another tool's history is, and what its documents do not say.

    Attributes:
        peer: the tool.
        collection: where it keeps its history.
        folder: its migrations' folder; only mongodb-migrations needs it, for the names.
        pairs: their name -> our name, where the slugs differ.
    """

    peer: str
    collection: str
    folder: Path | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)


def slug(name: str) -> str:
    """Return what names have in common across tools: ``20240131-Add-Status.js`` and ``007_add_status`` are ``add_status``."""
    stem = _EXTENSION.sub("", name.strip().lower().replace("\\", "/").rpartition("/")[2])
    return _NUMBERS.sub("", re.sub(r"[^a-z0-9]+", "_", stem).strip("_"))


@dataclass(frozen=True)
class Peer:
    """Another tool: where it keeps its history and its lock, which fields its documents have, how to read them."""

    name: str
    collection: str
    fields: tuple[str, ...]
    read: Callable[[Database[Document], Source], Iterator[Entry]]
    lock: str | None = None


def is_history(db: Database[Document], peer: Peer) -> bool:
    """Say whether the collection has documents and all have the tool's fields: ``changelog`` may well be the application's."""
    rows = db[peer.collection]
    strange = {"$or": [{name: {"$exists": False}} for name in peer.fields]}
    return rows.find_one({}, {"_id": 1}) is not None and rows.find_one(strange, {"_id": 1}) is None


def _migrate_mongo(db: Database[Document], source: Source) -> Iterator[Entry]:
    for row in db[source.collection].find().sort([("appliedAt", 1), ("_id", 1)]):
        yield Entry(str(row["fileName"]), "applied", row["appliedAt"])


def _pymongo_migrate(db: Database[Document], source: Source) -> Iterator[Entry]:
    for row in db[source.collection].find().sort("_id", 1):
        yield Entry(str(row["name"]), "applied" if row["applied"] else "rolled back", row["applied"])


def _mongomig(db: Database[Document], source: Source) -> Iterator[Entry]:
    for row in db[source.collection].find().sort([("applied_at", 1), ("_id", 1)]):
        yield Entry(str(row["_id"]), str(row["status"]), row.get("applied_at"), str(row["description"]))


def _mongodb_migrations(db: Database[Document], source: Source) -> Iterator[Entry]:
    found = (path.name for path in sorted(source.folder.glob("*.py"))) if source.folder else iter(())
    names = {match[1]: match[0] for match in map(_STAMPED.match, found) if match}
    for row in db[source.collection].find().sort("migration_datetime", 1):
        stamp = str(row["migration_datetime"])
        yield Entry(names.get(stamp, stamp), "applied", row["created_at"])


PEERS = {
    peer.name: peer
    for peer in (
        Peer("migrate-mongo", "changelog", ("fileName", "appliedAt"), _migrate_mongo, "changelog_lock"),
        Peer("pymongo-migrate", "pymongo_migrate", ("name", "applied"), _pymongo_migrate),
        Peer("mongomig", "__mongomig_migrations", ("description", "status"), _mongomig, "__mongomig_lock"),
        Peer("mongodb-migrations", "database_migrations", ("migration_datetime", "created_at"), _mongodb_migrations),
    )
}
