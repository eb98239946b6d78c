"""Give the collection's name to the one or the other, whatever a killed run has left. Collections are known by their UUID.

With the right to ``applyOps`` the steps go to the server as one command and readers on the primary find a collection at every moment;
without it there is a gap of a few milliseconds between two renames, which is measured. Documents are never touched.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure

from mongo_ops.migrations.operations import catalogue
from mongo_ops.online import names
from mongo_ops.online.errors import SourceChangedError
from mongo_ops.online.model import Phase

if TYPE_CHECKING:
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.work import Work

NOT_FOUND = 26


def rightful(work: Work) -> str:
    """Return the UUID of the collection that has the name in this phase, as far as the swap has come.

    Before the swap the source has it, afterwards the target. During a cut-over or rollback it is decided by ``swapped`` in the state,
    which is recorded before the swap: from there on it only goes forward.
    """
    source, target = work.state["source"]["uuid"], work.state["target"]["uuid"]
    if work.phase in (Phase.SOAK, Phase.CONTRACTING, Phase.DONE):
        return str(target)
    if work.phase is Phase.CUT_OVER:
        return str(target if work.state.get("swapped") else source)
    if work.phase is Phase.ROLLING_BACK:
        return str(source if work.state.get("swapped_back") else target)
    return str(source)


def parking(work: Work, uuid: str) -> str:
    """Return the name that a collection has while the other one has the collection's."""
    of_source = uuid == work.state["source"]["uuid"]
    return names.old(work.spec.collection) if of_source else names.ghost(work.spec.collection)


def behind_view(work: Work) -> None:
    """Move the collection aside and put a view of it in its place: reads go on, writes fail."""
    live = work.spec.collection
    uuid = rightful(work)
    if catalogue.identity(work.db, live) != uuid:
        raise _changed(work)
    aside = parking(work, uuid)
    work.lease.check()
    _apply_ops(work, [_rename(work, live, aside), {"create": live, "viewOn": aside, "pipeline": []}])


def arrange(work: Work, uuid: str) -> float:
    """Give the name to the collection with this UUID; return for how many milliseconds it may have been nobody's.

    Raises:
        SourceChangedError: something that is not ours has the name, or the collection is gone.
    """
    work.lease.check()  # no transaction can guard a rename
    live = work.spec.collection
    where, there = names.where(work.db), catalogue.collection(work.db, live)
    if uuid not in where:
        raise _changed(work)
    steps: list[Document] = []
    if there is not None and there.type == "view":
        if there.options.get("viewOn") not in (names.old(live), names.ghost(live)):
            raise _changed(work)
        steps.append({"drop": live})
    elif there is not None and there.uuid != uuid:
        ours = {work.state["source"]["uuid"], work.state["target"]["uuid"]}
        if there.uuid not in ours:
            raise _changed(work)
        steps.append(_rename(work, live, parking(work, str(there.uuid))))
    if where[uuid] != live:
        steps.append(_rename(work, where[uuid], live))
    return _carry_out(work, steps)


def _carry_out(work: Work, steps: list[Document]) -> float:
    if not steps:
        return 0.0
    if work.rights.anything:
        _apply_ops(work, steps)
        return 0.0
    began = time.monotonic()
    for step in steps:
        where = work.target.client.admin if "renameCollection" in step else work.db
        where.command({**step, "writeConcern": {"w": "majority"}})
    return 1000 * (time.monotonic() - began)


def _apply_ops(work: Work, steps: list[Document]) -> None:
    operations = [{"op": "c", "ns": f"{work.db.name}.$cmd", "o": step} for step in steps]
    try:
        work.target.client.admin.command({"applyOps": operations, "writeConcern": {"w": "majority"}})
    except OperationFailure as error:
        if error.code == NOT_FOUND:
            raise _changed(work) from None
        raise


def _rename(work: Work, name: str, to: str) -> Document:
    return {"renameCollection": f"{work.db.name}.{name}", "to": f"{work.db.name}.{to}"}


def _changed(work: Work) -> SourceChangedError:
    return SourceChangedError(
        f"{work.name}: {work.spec.collection} is not what this migration left there; somebody dropped, renamed or made it anew. "
        "Look at the collections, then abort."
    )
