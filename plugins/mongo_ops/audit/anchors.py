"""Anchors: heads of the chains as files that the database's users cannot write, so that a rewritten or shortened chain is found.

One file per chain and head in ``<folder>/<environment>/<database>/<log>/``, written once and never overwritten or removed from here. Give
the bucket object lock, and nobody else can either.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mongo_ops import storage
from mongo_ops.audit.log import HEADS
from mongo_ops.audit.model import Head, Verification
from mongo_ops.audit.verify import verify
from mongo_ops.errors import PlanError

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target
    from mongo_ops.storage import Folder

FORM = "mongo-ops anchor 1"
DIGITS = 20


class AnchorDamagedError(PlanError):
    """A file among the anchors is not one."""


@dataclass(frozen=True)
class Anchored:
    """What became of one chain: what the verification against the newest anchor saw, that anchor, and the file written now, if any."""

    log: str
    seen: Verification
    newest: Head | None
    written: str | None

    def __str__(self) -> str:
        after = f" Anchored at entry {self.seen.head_seq:,}." if self.written else ""
        before = (
            f" Checked against the anchor at entry {self.newest.seq:,}." if self.newest else " There was no anchor yet."
        )
        return f"{self.log}: {self.seen}{before}{after}"


def chains(target: Target, folder: Folder) -> tuple[str, ...]:
    """Return the names of the collections that carry a chain, or carried one when it was anchored."""
    known = folder / target.environment.name / target.database
    with storage.telling(known):
        anchored = {path.name for path in known.iterdir()} if known.exists() else set()
    return tuple(sorted(anchored | {str(name) for name in target.db[HEADS].distinct("_id")}))


def place(folder: Folder, target: Target, log: str) -> Folder:
    """Return the folder with a chain's anchors."""
    return folder / target.environment.name / target.database / log


def newest(where: Folder) -> Head | None:
    """Return the newest anchor of a chain, or None.

    Raises:
        AnchorDamagedError: the newest file cannot be read as an anchor.
        StorageDeniedError, StorageFailedError: the store failed.
    """
    with storage.telling(where):
        names = sorted(path.name for path in where.iterdir() if path.name.endswith(".json")) if where.exists() else []
    if not names:
        return None
    with storage.reading(where / names[-1]) as source:
        text = source.read(64 * 1024)
    try:
        value = json.loads(text)
        head = Head(int(value["seq"]), str(value["hash"])) if value["form"] == FORM else None
    except (ValueError, KeyError, TypeError):
        head = None
    if head is None or names[-1] != _name(head):
        raise AnchorDamagedError(
            f"{storage.show(where / names[-1])} is not an anchor of this program. Find out who wrote it; then move it away."
        )
    return head


def anchor(target: Target, folder: Folder, *, only_look: bool = False) -> tuple[Anchored, ...]:
    """Verify every chain against its newest anchor, and anchor those that are whole and have grown since.

    Args:
        target: the environment.
        folder: where all anchors are.
        only_look: write nothing.
    """
    return tuple(
        _anchor(target, place(folder, target, log), log, only_look=only_look) for log in chains(target, folder)
    )


def _anchor(target: Target, where: Folder, log: str, *, only_look: bool) -> Anchored:
    before = newest(where)
    seen = verify(target.db, before, log=log)
    head = Head(seen.head_seq, seen.head_hash)
    if only_look or not seen.ok or head.seq == 0 or head == before:
        return Anchored(log, seen, before, None)
    value = {
        "form": FORM, "environment": target.environment.name, "database": target.database, "log": log,
        "seq": head.seq, "hash": head.hash, "previous": before.seq if before else None, "at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    path = where / _name(head)
    try:
        storage.create(path, json.dumps(value, indent=1).encode())
    except storage.AlreadyWrittenError:  # somebody else has just anchored this very head
        newest(where)
    return Anchored(log, seen, before, storage.show(path))


def _name(head: Head) -> str:
    return f"{head.seq:0{DIGITS}}-{head.hash[:16]}.json"
