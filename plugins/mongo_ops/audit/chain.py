"""How an entry is sealed: its hash, its link to the one before, and the commitments to personal values. Pure.

The hash covers everything of a stored entry except ``personal`` and the hash itself, so that erasing a personal value
leaves the chain whole. A personal value enters only as SHA-256(salt || canonical value) with 32 random bytes of salt, which
are erased together with the value; without them nobody can find the value again by trying likely ones.

Source of the scheme: hash chain, Haber & Stornetta, "How to time-stamp a digital document" (1991); salted commitments as in
selective disclosure, RFC 9901 section 4.2.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bson import Binary, Int64, ObjectId

from mongo_ops.audit.model import AuditEntry, Head
from mongo_ops.mongo.documents import Document, canonical, digest

VERSION = 1
SALT_BYTES = 32
GENESIS = Head(0, "0" * 64)


def commit(salt: bytes, value: Any) -> str:
    """Return the commitment to a personal value (64 hex digits)."""
    return hashlib.sha256(salt + canonical({"value": value}).encode()).hexdigest()


def entry_hash(document: Mapping[str, Any]) -> str:
    """Return the hash (64 hex digits) that a stored entry must carry in ``chain.hash``."""
    covered = {name: value for name, value in document.items() if name != "personal"}
    if isinstance(covered.get("chain"), Mapping):
        covered["chain"] = {name: value for name, value in covered["chain"].items() if name != "hash"}
    return digest(covered)


def seal(entry: AuditEntry, key: ObjectId, previous: Head, at: datetime, salts: Mapping[str, bytes]) -> Document:
    """Return the document to store: the entry, chained to ``previous``.

    Args:
        entry: what happened.
        key: the document's ``_id``.
        previous: the head that this entry follows.
        at: the server's time.
        salts: 32 random bytes for each of ``entry.personal_values``.
    """
    values = entry.personal_values
    document: Document = {
        "_id": key,
        "entity_type": entry.entity_type,
        "entity_id": entry.entity_id,
        "action": entry.action,
        "timestamp": at,
        "environment": entry.environment,
        "result": entry.result,
        "run_id": entry.run_id,
        "plan_digest": entry.plan_digest,
        "actor_kind": entry.actor_kind,
        "details": dict(entry.details),
        "chain": {"seq": Int64(previous.seq + 1), "previous": previous.hash, "version": VERSION},
        "commitments": {name: commit(salts[name], value) for name, value in values.items()},
        "personal": {name: {"salt": Binary(salts[name]), "value": value} for name, value in values.items()},
    }
    document["chain"]["hash"] = entry_hash(document)
    return document


def altered_values(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the personal values that are there but are not what the entry committed to. Erased ones are no fault."""
    committed, personal = _mapping(document, "commitments"), document.get("personal", {})
    if not isinstance(personal, Mapping):
        return ("personal",)
    return tuple(str(name) for name, opened in personal.items() if not _opens(committed.get(name), opened))


def erased_values(document: Mapping[str, Any]) -> int:
    """Count the personal values that the entry committed to and no longer holds."""
    return len(_mapping(document, "commitments").keys() - _mapping(document, "personal").keys())


def _opens(commitment: Any, opened: Any) -> bool:
    if not isinstance(commitment, str) or not isinstance(opened, Mapping) or opened.keys() != {"salt", "value"}:
        return False
    salt = opened["salt"]
    return isinstance(salt, bytes) and hmac.compare_digest(commitment.encode(), commit(salt, opened["value"]).encode())


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
