"""Who may do what with a collection, so that its months are no less and no more open. Changes roles only; users stay as they are.

Roles that name the collection itself are looked at: what is granted on the whole database counts for months by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.mongo.throttle import UNAUTHORIZED

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

READING = ("find",)
"""What a view can be used for."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role (of a database) and the actions that it has on one collection."""

    role: str
    database: str
    actions: tuple[str, ...]


def grants(db: Database[Document], collection: str) -> tuple[Grant, ...] | None:
    """Return the roles with privileges on a collection; None when the user may not see roles."""
    found: list[Grant] = []
    for name in dict.fromkeys((db.name, "admin")):
        try:
            roles = db.client[name].command({"rolesInfo": 1, "showPrivileges": True})["roles"]
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            return None
        for role in roles:
            actions = _on(role.get("privileges", ()), db.name, collection)
            if actions:
                found.append(Grant(role["role"], name, actions))
    return tuple(found)


def missing(there: Sequence[Grant], wanted: Sequence[Grant]) -> tuple[Grant, ...]:
    """Return what of ``wanted`` is not there."""
    known = {(one.role, one.database): set(one.actions) for one in there}
    return tuple(one for one in wanted if not set(one.actions) <= known.get((one.role, one.database), set()))


def reading(wanted: Sequence[Grant]) -> tuple[Grant, ...]:
    """Return what of these grants makes sense for a view."""
    return tuple(Grant(one.role, one.database, READING) for one in wanted if "find" in one.actions)


def grant(db: Database[Document], collection: str, wanted: Sequence[Grant]) -> None:
    """Give roles what they lack on a collection."""
    for one in wanted:
        privileges = [{"resource": {"db": db.name, "collection": collection}, "actions": list(one.actions)}]
        db.client[one.database].command({"grantPrivilegesToRole": one.role, "privileges": privileges})


def revoke(db: Database[Document], collection: str) -> int:
    """Take from all roles what they have on a collection that is gone; return from how many."""
    found = grants(db, collection) or ()
    for one in found:
        privileges = [{"resource": {"db": db.name, "collection": collection}, "actions": list(one.actions)}]
        db.client[one.database].command({"revokePrivilegesFromRole": one.role, "privileges": privileges})
    return len(found)


def _on(privileges: Sequence[Any], database: str, collection: str) -> tuple[str, ...]:
    resource = {"db": database, "collection": collection}
    return tuple(sorted({action for one in privileges if one["resource"] == resource for action in one["actions"]}))
