"""The application gate: what writers ask where the server cannot refuse them. Used by applications, not by the engine.

Ask it inside the transaction that writes, so that a write and its question are one moment. It holds only if all writers ask it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongo_ops.errors import RunError
from mongo_ops.online import names

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document


class GateClosedError(RunError):
    """A cut-over is under way; the write may be tried again in a moment."""


def insist_open(db: Database[Document], collection: str, session: ClientSession | None = None) -> None:
    """Return when the collection may be written.

    Raises:
        GateClosedError: not just now.
    """
    found = db[names.GATES].find_one({"_id": collection}, session=session)
    if found is not None and found.get("closed"):
        raise GateClosedError(f"{collection} is being swapped; try the write again in a moment.")
