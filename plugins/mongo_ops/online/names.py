"""What an online migration calls its collections, and where a collection is now. Collections are known by their UUID."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

STATES = "ops_online"
MARKS = "ops_online_marks"
GATES = "ops_online_gates"


def ghost(collection: str) -> str:
    """Return the name under which the target waits."""
    return f"ops_ghost_{collection}"


def old(collection: str) -> str:
    """Return the name under which the source waits after the swap."""
    return f"ops_old_{collection}"


def ids(collection: str) -> str:
    """Return the name of the map from old to new ``_id``."""
    return f"ops_ids_{collection}"


def kept(collection: str) -> str:
    """Return the name of the keys that changed while the parts of a backfill were filled."""
    return f"ops_keys_{collection}"


def resource(collection: str) -> str:
    """Return the name of the lease."""
    return f"online:{collection}"


def where(db: Database[Document]) -> dict[str, str]:
    """Return the name of every collection (views left out) by its UUID as text."""
    listed = db.list_collections(filter={"type": {"$ne": "view"}})
    return {str(one["info"]["uuid"]): one["name"] for one in listed if "uuid" in one.get("info", {})}
