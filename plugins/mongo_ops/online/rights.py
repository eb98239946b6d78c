"""What the deployment and our user allow. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document


@dataclass(frozen=True)
class Rights:
    """Our user's rights. ``logged_in`` is False where nobody has to log in: then everything is allowed, to everybody."""

    logged_in: bool
    privileges: tuple[Mapping[str, Any], ...]
    sharded: bool

    def on_cluster(self, action: str) -> bool:
        """Whether we may do something to the deployment as a whole."""
        return any(
            action in one["actions"] and (one["resource"].get("cluster") or one["resource"].get("anyResource"))
            for one in self.privileges
        )

    def on_database(self, action: str, database: str) -> bool:
        """Whether we may do something to a database as a whole."""
        return any(
            action in one["actions"] and (one["resource"].get("anyResource") or _covers(one["resource"], database, ""))
            for one in self.privileges
        )

    @property
    def anything(self) -> bool:
        """Whether we may send ``applyOps`` with commands: any action on any resource, or no log-in at all."""
        return not self.sharded and (
            not self.logged_in
            or any("anyAction" in one["actions"] and one["resource"].get("anyResource") for one in self.privileges)
        )


def read(db: Database[Document]) -> Rights:
    """Ask the server."""
    found = db.command("connectionStatus", showPrivileges=True)["authInfo"]
    sharded = db.client.admin.command("hello").get("msg") == "isdbgrid"
    return Rights(bool(found["authenticatedUsers"]), tuple(found["authenticatedUserPrivileges"]), sharded)


def _covers(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    """Whether a privilege's resource holds a collection; the empty name stands for all."""
    return resource.get("db") in ("", database) and resource.get("collection") in ("", collection)


def covers(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    """Whether a privilege's resource holds a collection, by whatever name it has it."""
    return bool(resource.get("anyResource")) or _covers(resource, database, collection)
