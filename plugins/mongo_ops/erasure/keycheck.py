"""Notice that a key was exchanged under its epoch, before people get second references and holds no longer match.

``ops_erasure_keys`` keeps a check value for each key that was ever used here: a keyed digest that says nothing of the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import UpdateOne

from mongo_ops.erasure.keys import Keyring
from mongo_ops.errors import PlanError

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

KEYS = "ops_erasure_keys"


class KeyExchangedError(PlanError):
    """A key is not the one that this database was used with."""


def recognise(db: Database[Document], keyring: Keyring) -> None:
    """Compare the keys with those used before; note the new ones.

    Raises:
        KeyExchangedError: a key differs; nothing was noted of it.
    """
    checks = keyring.checks()
    if not checks:
        return
    known = {found["_id"]: found["check"] for found in db[KEYS].find({"_id": {"$in": list(checks)}})}
    new = [name for name in checks if name not in known]
    if new:
        db[KEYS].bulk_write(
            [UpdateOne({"_id": name}, {"$setOnInsert": {"check": checks[name]}}, upsert=True) for name in new]
        )
        known = {found["_id"]: found["check"] for found in db[KEYS].find({"_id": {"$in": list(checks)}})}
    strange = sorted(name for name, check in checks.items() if known[name] != check)
    if strange:
        raise KeyExchangedError(
            f"{db.name} was used with other keys than those of {', '.join(strange)} (purpose.epoch). With these, people would get "
            "second references and holds would not match. Put the former keys back; a new key needs a new epoch in front."
        )
