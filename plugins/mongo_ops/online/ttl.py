"""Only the collection that has the name expires documents; the copy follows by replay. So both sides always hold the same documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mongo_ops.migrations.operations import catalogue

if TYPE_CHECKING:
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.work import Work

NEVER = 2147483647
EXPIRES = "expireAfterSeconds"


def of(work: Work, name: str) -> dict[str, Any]:
    """Return after how many seconds each expiring index of a collection expires, by the index's name."""
    found = catalogue.indexes(work.db, name)
    return {one.name: one.spec[EXPIRES] for one in found if EXPIRES in one.spec}


def held(spec: Document) -> Document:
    """Return an index definition that does not expire anything yet."""
    return {**spec, EXPIRES: NEVER} if EXPIRES in spec else spec


def hand_over(work: Work, *, to: Literal["source", "target"]) -> None:
    """Let one side expire documents, and the other no longer."""
    sides: tuple[Literal["source", "target"], ...] = ("source", "target")
    for side in sides:
        for index, seconds in work.state[side].get("ttl", {}).items():
            wanted = seconds if side == to else NEVER
            change = {"collMod": work.place(side), "index": {"name": index, EXPIRES: wanted}}
            catalogue.carry_out(work.db, change, f"The index {index}")
