"""Refuse the writers for the moment of the cut-over. Which way is decided before anything is written, by what the deployment allows.

- ``user_write_block``: the server refuses every user's writes but ours (error 371), in all databases. Needs log-ins.
- ``role``: the writers' role loses insert, update and remove (error 13); an empty ``collMod`` waits for what is under way.
- ``view``: the collection becomes a view of itself for a moment (error 166); readers go on. Needs ``applyOps``.
- ``gate``: the writers ask ``gate.insist_open``; good only if all of them do. Never chosen by itself.

That a fence is closed is recorded before it closes, so whoever comes after a kill lifts it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.online import names, rights, swap
from mongo_ops.online.errors import NoFenceError
from mongo_ops.online.model import FenceKind
from mongo_ops.online.rights import Rights

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.model import OnlineMigration
    from mongo_ops.online.work import Work

WRITES = frozenset({"insert", "update", "remove"})


@dataclass(frozen=True)
class Preflight:
    """Which fence it will be and why; None when there is none, ``why`` then says what is missing."""

    kind: FenceKind | None
    why: str
    others: Mapping[str, str]

    def insist(self) -> FenceKind:
        """Return the kind.

        Raises:
            NoFenceError: there is none.
        """
        if self.kind is None:
            raise NoFenceError(self.why)
        return self.kind


def preflight(db: Database[Document], spec: OnlineMigration) -> Preflight:
    """Return which fence the deployment allows. Reads only."""
    ours = rights.read(db)
    missing = {
        FenceKind.USER_WRITE_BLOCK: _why_not_block(ours),
        FenceKind.ROLE: _why_not_role(db, ours, spec),
        FenceKind.VIEW: None if ours.anything else "needs any action on any resource (applyOps), on a replica set",
        FenceKind.GATE: None
        if spec.fence.kind == FenceKind.GATE
        else "only by fence=Fence(kind='gate'): all writers must ask it",
    }
    others = {kind.value: why or "possible" for kind, why in missing.items()}
    if spec.fence.kind != "auto":
        kind = FenceKind(spec.fence.kind)
        why = missing[kind]
        return Preflight(None if why else kind, why or "the spec asks for it", others)
    for kind, why in missing.items():
        if why is None:
            return Preflight(kind, "the first that this deployment allows", others)
    listed = "; ".join(f"{kind}: {why}" for kind, why in others.items())
    return Preflight(None, f"No fence is possible, so writes could be lost at the cut-over. {listed}.", others)


def _why_not_block(ours: Rights) -> str | None:
    if not ours.logged_in:
        return "needs log-ins: without them it would refuse our own writes too"
    lacking = [one for one in ("setUserWriteBlockMode", "bypassWriteBlockingMode") if not ours.on_cluster(one)]
    return f"our user lacks {' and '.join(lacking)} on the cluster" if lacking else None


def _why_not_role(db: Database[Document], ours: Rights, spec: OnlineMigration) -> str | None:
    if not spec.fence.roles:
        return "needs fence=Fence(roles=...), the roles of all writers"
    if not ours.logged_in:
        return "needs log-ins"
    for name in spec.fence.roles:
        role, at = _role(name, db.name)
        if not (ours.on_database("grantRole", at) and ours.on_database("revokeRole", at)):
            return f"our user lacks grantRole and revokeRole on {at}"
        found = db.client[at].command("rolesInfo", {"role": role, "db": at}, showPrivileges=True)["roles"]
        if not found or found[0].get("isBuiltin"):
            return f"{name} is no role that can be changed"
        own = [_plain(one) for one in found[0].get("privileges", ())]
        inherited = [one for one in found[0].get("inheritedPrivileges", ()) if _plain(one) not in own]
        if any(_writes(one, db.name, spec.collection) for one in inherited):
            return f"{name} inherits the right to write"
    return None


def close(work: Work, kind: FenceKind) -> None:
    """Refuse the writers from here on; returns when no write of theirs is under way any more."""
    name = work.spec.collection
    work.lease.check()
    if kind is FenceKind.USER_WRITE_BLOCK:
        work.target.client.admin.command({"setUserWriteBlockMode": 1, "global": True})
    elif kind is FenceKind.ROLE:
        for role, privileges in work.state["fence"]["roles"].items():
            _change_role(work, "revokePrivilegesFromRole", role, privileges)
        work.db.command("collMod", name)
    elif kind is FenceKind.VIEW:
        swap.behind_view(work)
    else:
        _gate(work.db, name, closed=True)
        time.sleep(work.spec.fence.settle_seconds)
        work.db.command("collMod", name)


def lift(work: Work, kind: FenceKind) -> None:
    """Let the writers write again. Lifting what is not closed changes nothing."""
    work.lease.check()
    if kind is FenceKind.USER_WRITE_BLOCK:
        work.target.client.admin.command({"setUserWriteBlockMode": 1, "global": False})
    elif kind is FenceKind.ROLE:
        for role, privileges in work.state["fence"]["roles"].items():
            _change_role(work, "grantPrivilegesToRole", role, privileges)
    elif kind is FenceKind.VIEW:
        swap.arrange(work, swap.rightful(work))
    else:
        _gate(work.db, work.spec.collection, closed=False)


def described(work: Work, kind: FenceKind) -> Document:
    """Return what is recorded before a fence closes, so that anybody can lift it: its kind, and what the roles lose."""
    roles = {}
    for name in work.spec.fence.roles if kind is FenceKind.ROLE else ():
        role, at = _role(name, work.db.name)
        found = work.target.client[at].command("rolesInfo", {"role": role, "db": at}, showPrivileges=True)["roles"][0]
        roles[f"{role}@{at}"] = catalogue.note(
            {"privileges": _lost(found["privileges"], work.db.name, work.spec.collection)}
        )
    return {"kind": kind.value, "roles": roles}


def _change_role(work: Work, command: str, name: str, noted: str) -> None:
    """Take the noted privileges from a role, or give them back. Doing it twice changes nothing."""
    role, at = _role(name, work.db.name)
    privileges = catalogue.recall(noted)["privileges"]
    if privileges:
        concern = {"writeConcern": {"w": "majority"}}
        work.target.client[at].command({command: role, "privileges": privileges, **concern})


def _role(name: str, database: str) -> tuple[str, str]:
    role, _, at = name.partition("@")
    return role, at or database


def _plain(privilege: Mapping[str, Any]) -> Document:
    return {"resource": dict(privilege["resource"]), "actions": list(privilege["actions"])}


def _writes(privilege: Mapping[str, Any], database: str, collection: str) -> bool:
    return bool(WRITES & set(privilege["actions"])) and rights.covers(privilege["resource"], database, collection)


def _lost(privileges: list[Document], database: str, collection: str) -> list[Document]:
    """Return what a role loses while the fence is closed: the right to write to the collection, wherever it comes from."""
    return [
        {"resource": dict(one["resource"]), "actions": sorted(WRITES & set(one["actions"]))}
        for one in privileges
        if _writes(one, database, collection)
    ]


def _gate(db: Database[Document], collection: str, *, closed: bool) -> None:
    db[names.GATES].update_one({"_id": collection}, {"$set": {"closed": closed}}, upsert=True)
