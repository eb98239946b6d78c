"""Read the whole audit log and check it against itself, its head and an anchor. Reads only; code apart from the writing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from mongo_ops.audit.log import AUDIT_LOG, CHAINED, entries, name_of, read_head
from mongo_ops.audit.model import Head, Verification
from mongo_ops.audit.walk import Walk

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

NO_HASH = "none"


def verify(
    db: Database[Document], anchor: Head | tuple[int, str] | None = None, *, log: str = AUDIT_LOG
) -> Verification:
    """Check every entry, in constant memory, while writers may go on.

    Writers add whole entries at the end only, so reading the head first, then the entries, then the head again sees no
    fault where there is none.

    Args:
        db: the environment's database.
        anchor: (seq, hash) as an earlier verification gave it and as it was kept outside the database. It finds an end
            that was cut off together with the head, which the database alone cannot tell.
        log: the collection that carries the chain.
    """
    steady = db.with_options(read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority"))
    with db.client.start_session(causal_consistency=True) as session:
        walk = Walk(_head(read_head(steady, session, log=log)), Head(*anchor) if isinstance(anchor, tuple) else anchor)
        stored = entries(steady, log)
        with stored.find(CHAINED, session=session).sort("chain.seq", 1).allow_disk_use(True) as cursor:
            for document in cursor:
                walk.step(document)
        faults = walk.finish(_head(read_head(steady, session, log=log)))
        unchained = stored.count_documents({"chain.seq": {"$exists": False}}, session=session)
    return Verification(
        walk.entries, unchained, walk.erased, faults, walk.last.seq, walk.last.hash, walk.more_faults, name_of(log)
    )


def _head(document: Mapping[str, Any] | None) -> Head | None:
    """Read a head document; one that makes no sense becomes a head that fits nothing."""
    if document is None:
        return None
    seq, value = document.get("seq"), document.get("hash")
    usable = isinstance(seq, int) and not isinstance(seq, bool) and seq >= 0
    return Head(int(seq) if usable and seq is not None else 0, value if usable and isinstance(value, str) else NO_HASH)
