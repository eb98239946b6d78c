"""A transaction of its own, for writes that belong to no run. What belongs to a run goes through ``Lease.transaction``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

T = TypeVar("T")


def transact(db: Database[Document], body: Callable[[ClientSession], T]) -> T:
    """Run ``body`` in a transaction: snapshot reads, majority commit. After a conflict ``body`` is called again."""
    with db.client.start_session() as session:
        return session.with_transaction(
            body, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority")
        )
