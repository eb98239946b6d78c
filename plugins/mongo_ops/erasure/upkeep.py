"""What a night does for requests: say which are overdue, open again what lapsed, close what is proven, forget old tombstones.

Erases no document. A request is closed when the last backup that may hold the person is gone; then its sealed identity is destroyed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure import holds, periods, register, requests, tombstones
from mongo_ops.erasure.conclusion import CERTIFICATES
from mongo_ops.erasure.model import State
from mongo_ops.erasure.requests import OpenRequestExistsError
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.documents import Document

CHUNK = 500
ENDED = (State.COMPLETED, State.COMPLETED_WITH_RETENTION, State.NOT_FOUND, State.REFUSED)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done: requests closed and opened again (ids), files of tombstones removed."""

    closed: int
    reopened: tuple[str, ...]
    tombstones: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"closed": self.closed, "reopened": list(self.reopened), "tombstones": self.tombstones}


def overdue(db: Database[Document], now: datetime) -> tuple[str, ...]:
    """Return the open requests whose deadline has passed, the longest overdue first."""
    return tuple(one.id for one in requests.listing(db, overdue_at=now))


def unreviewed_holds(db: Database[Document], now: datetime) -> tuple[str, ...]:
    """Return the legal holds whose review is due."""
    return tuple(one.id for one in holds.listing(db, review_before=now))


def keep(engine: Engine, now: datetime) -> Kept:
    """Open again the requests whose retention has lapsed, close those whose backups are gone, and let old tombstones go."""
    requests.prepare(engine.target.db, engine.keyring)
    reopened = tuple(_reopened(engine, now))
    closed = _close(engine, now)
    horizon = periods.before(now, engine.data_map.backups_period)
    return Kept(closed, reopened, tombstones.expire(tombstones.at(engine.folder), horizon))


def _reopened(engine: Engine, now: datetime) -> Iterator[str]:
    db = engine.target.db
    for document in list(_ended(db, (State.COMPLETED_WITH_RETENTION,))):
        lapse = _lapse(db, document)
        if lapse is None or lapse > now:
            continue
        try:
            _move(engine, [document["_id"]], State.RECEIVED, now, lapsed=True)
        except OpenRequestExistsError:  # which erases the same
            continue
        yield document["_id"]


def _close(engine: Engine, now: datetime) -> int:
    """Close what nothing is owed for any more: erased, or nobody's, and no backup is as old as that."""
    db, closed = engine.target.db, 0
    horizon = periods.before(now, engine.data_map.backups_period)
    passed = (one["_id"] for one in _ended(db, ENDED) if one["at"] < horizon and not _waits(db, one))
    while some := list(islice(passed, CHUNK)):
        _move(engine, some, State.CLOSED, now, horizon=horizon)
        closed += len(some)
    return closed


def _move(engine: Engine, ids: Sequence[str], to: State, now: datetime, **facts: Any) -> None:
    db = engine.target.db

    def move(session: ClientSession) -> None:
        requests.transition_all(db, session, ids, to, now=now, **facts)

    transact(db, move)


def _ended(db: Database[Document], states: tuple[State, ...]) -> Iterator[Document]:
    shown = {"state": 1, "outcome": 1, "at": {"$arrayElemAt": ["$transitions.at", -1]}}
    yield from db[register.REQUESTS].find({"state": {"$in": [str(one) for one in states]}}, shown).sort("_id", 1)


def _waits(db: Database[Document], request: Mapping[str, Any]) -> bool:
    """Say whether somebody must still find the person: for a hold to be released, or for what is kept as it is to lapse."""
    if request["state"] != State.COMPLETED_WITH_RETENTION:
        return False
    return bool(request["outcome"].get("holds")) or bool(_as_it_is(db, request["_id"]))


def _lapse(db: Database[Document], request: Mapping[str, Any]) -> datetime | None:
    """Return when all that is kept as it is may be kept no longer, at the latest; None when that is not known, or nothing is.

    Counted from the completion. Where a period begins later than that, the request is completed with retention once more.
    """
    kept = _as_it_is(db, request["_id"])
    if not kept or request["outcome"].get("holds") or any(one["period"] is None for one in kept):
        return None
    at: datetime = request["at"]
    return max(periods.after(at, str(one["period"])) for one in kept)


def _as_it_is(db: Database[Document], request_id: str) -> list[Mapping[str, Any]]:
    """Return what the latest certificate says is kept with the person's identifiers in it."""
    found = db[CERTIFICATES].find_one({"_id": request_id}, {"certificates": {"$slice": -1}})
    latest = found["certificates"] if found else []
    return [one for made in latest for one in made["retained"] if one["form"] == "as it is"]
