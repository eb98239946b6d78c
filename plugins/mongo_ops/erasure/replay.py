"""After a restore or an import: erase again what came back, under the requests by which it was erased before.

A tombstone knows that a value was erased and by which request, and not whose it is; what came back says that by itself. So the values
that are recognised become the request's closure, sealed, the request is opened again, and the engine does the rest: it resolves,
plans, erases, verifies and certifies. May be killed and called again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import bson
from bson import Binary
from pymongo.errors import DuplicateKeyError

from mongo_ops import audit
from mongo_ops.erasure import closure, deadlines, ledger, requests, resurrection, vault
from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.model import Change, DataMap, State, Subject, names_of
from mongo_ops.erasure.plan import NobodyError
from mongo_ops.erasure.register import REQUESTS
from mongo_ops.erasure.requests import BATCH_LIMIT, OpenRequestExistsError
from mongo_ops.erasure.transitions import audited
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.transactions import transact

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.erasure.conclusion import Concluded
    from mongo_ops.erasure.engine import Engine
    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.erasure.resurrection import Seen
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document
    from mongo_ops.storage import Folder

SOURCE = "replay"
"""The channel of requests that the database does not know any more, and the mark of those that are opened again."""


@dataclass(frozen=True)
class Replayed:
    """What a replay found and did.

    ``found`` came back; ``runs`` are the batches that erased it, ``states`` what their requests came to, with ``reasons`` for those that
    are not complete. ``elsewhere`` are people with another open request, which erases the same. ``unnamed`` are people who came back
    without their account: names that stood there, and that no tombstone is made of, may be left in these documents. ``pending`` requests
    wait (for a hold), ``left`` is what is there still.
    """

    found: Seen
    runs: tuple[str, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    elsewhere: int = 0
    unnamed: int = 0
    pending: int = 0
    left: Seen | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing of what was erased is there, and nobody needs to look at anything."""
        return not ((self.left or self.found).hits or self.elsewhere or self.unnamed or self.pending)

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines; nothing in it names a person."""
        return {
            "ok": self.ok,
            "found": _spots(self.found),
            "people": len(self.found.values),
            "runs": list(self.runs),
            "states": dict(self.states),
            "reasons": list(self.reasons),
            "elsewhere": self.elsewhere,
            "unnamed": self.unnamed,
            "pending": self.pending,
            "left": _spots(self.left or self.found),
        }

    def __str__(self) -> str:
        parts = [str(self.found)]
        parts += [f"{number:,} {state}" for state, number in sorted(self.states.items())]
        parts += [f"{self.elsewhere:,} people have another open request; run that."] if self.elsewhere else []
        parts += [f"{self.pending:,} requests wait."] if self.pending else []
        parts += [_UNNAMED.format(self.unnamed)] if self.unnamed else []
        return "\n".join([*parts, *self.reasons])


_UNNAMED = (
    "{:,} people came back without their account, so their names are not known any more and may be left in these documents. Restore the "
    "account's collection from the same backup too and run the replay again, or look at these documents by hand."
)


def replay(engine: Engine, *, only: bool = False) -> Replayed:
    """Find what came back and erase it again.

    Args:
        engine: of the environment that was restored or imported into.
        only: just say what came back; writes nothing.

    Raises:
        TombstonesDamagedError, KeyMissingError: nobody can say what was erased; nothing was written.
    """
    target, now = engine.target, datetime.now(UTC)
    found = resurrection.scan(target.db, engine.data_map, engine.keyring, engine.folder)
    if only:
        return Replayed(found)
    requests.prepare(target.db, engine.keyring)
    people = sorted(found.values.items(), key=lambda one: one[0])
    opened = [request for (request, reference), values in people if _open(engine, request, reference, values, now)]
    ids = sorted({*opened, *_begun(engine)})
    runs: list[str] = []
    reasons: list[str] = []
    for start in range(0, len(ids), BATCH_LIMIT):
        some = ids[start : start + BATCH_LIMIT]
        runs.append(requests.make_batch(target.db, target.environment.name, actor=engine.actor, now=now, requests=some))
        try:
            reasons += carry_through(engine, runs[-1]).reasons
        except NobodyError as error:  # all of them are held
            reasons.append(str(error))
    left = resurrection.scan(target.db, engine.data_map, engine.keyring, engine.folder) if ids else found
    return Replayed(
        found,
        tuple(runs),
        dict(Counter(str(one.state) for one in requests.load_all(target.db, ids))),
        tuple(reasons),
        elsewhere=len(people) - len(opened),
        unnamed=_unnamed(engine.data_map, found),
        pending=sum(1 for _ in _begun(engine)),
        left=left,
    )


def _unnamed(data_map: DataMap, found: Seen) -> int:
    """Count the people whose account did not come back while documents did in which rules look for names of it."""
    home = data_map.identifiers[data_map.subject].collection
    loose = {one.name for one in data_map.identifiers.values() if not one.trace and one.collection == home}
    named = {
        rule.collection
        for rule in data_map.rules
        if loose & {name for change in rule.changes for name in _asked(change)}
    }
    return sum(1 for places in found.where.values() if home not in places and places & named)


def _asked(change: Change) -> tuple[str, ...]:
    return (*names_of(change.where), *((change.of,) if change.of and change.op == "redact" else ()))


def carry_through(engine: Engine, run: str) -> Concluded:
    """Take a request or a batch through the whole course. The approvals are those under which it was erased before."""
    return engine.carry_through(engine.plan(run))


def tombstone_filter(
    target: Target, data_map: DataMap, keyring: Keyring, folder: Folder
) -> Callable[[str, bytes], bool]:
    """Return what an import asks of each document: (collection, raw BSON) -> whether it holds what was erased for somebody.

    Args:
        target: where the import goes.
        data_map: where identifiers stand.
        keyring: needs `tombstone`.
        folder: the environment's storage.

    Raises:
        TombstonesDamagedError, KeyMissingError: nobody can say what was erased.
    """
    asked = resurrection.recogniser(target.db, data_map, keyring, folder)

    def refuses(collection: str, raw: bytes) -> bool:
        if asked is None or not asked.spots(collection):
            return False
        document: Document = bson.decode(raw, CODEC)
        return bool(asked.returned(collection, document))

    return refuses


def _open(
    engine: Engine, request_id: str, reference: str, values: Mapping[str, Mapping[Any, Any]], now: datetime
) -> bool:
    """Keep the values as the request's closure, and open it again; say whether that was possible.

    The closure first: killed in between, the next try finds the same values and the request still finished.
    """
    db, name = engine.target.db, engine.data_map.subject
    known = closure.load(db, engine.keyring, [request_id])
    merged: dict[str, dict[Any, Any]] = {name: {}}
    for some in (*(one.closure for one in known), {which: tuple(v.values()) for which, v in values.items()}):
        for which, found in some.items():
            merged.setdefault(which, {}).update({key_of(value): value for value in found})
    subject = Subject(request_id, reference, {which: tuple(found.values()) for which, found in merged.items()})
    closure.keep(db, engine.keyring, [subject], SOURCE, {}, frozenset())

    def body(session: ClientSession) -> None:
        if db[REQUESTS].find_one({"_id": request_id}, {"_id": 1}, session=session) is None:
            _anew(engine, session, subject, now)
        else:
            requests.transition_all(
                db, session, [request_id], State.RECEIVED, actor=engine.actor, now=now, source=SOURCE
            )
            db[REQUESTS].update_one({"_id": request_id}, {"$set": {"replay": engine.run_id}}, session=session)

    try:
        transact(db, body)
    except (OpenRequestExistsError, DuplicateKeyError):
        return False
    return True


def _anew(engine: Engine, session: ClientSession, subject: Subject, now: datetime) -> None:
    """Store a request that the restored database does not know, under its former id."""
    db, environment = engine.target.db, engine.target.environment.name
    document: Document = {
        "_id": subject.request_id,
        "environment": environment,
        "state": str(State.RECEIVED),
        "open": True,
        "subject_ref": subject.reference,
        "references": [subject.reference],
        "received_at": now,
        "due_at": deadlines.due(now),
        "source": SOURCE,
        "reopened": 1,
        "run_id": None,
        "outcome": {},
        "transitions": [{"from": None, "to": str(State.RECEIVED), "at": now, "run_id": None}],
        "replay": engine.run_id,
    }
    for value in subject.closure[engine.data_map.subject][:1]:
        content = {"request": subject.request_id, "identifier": engine.data_map.subject, "value": value}
        document["sealed"] = Binary(vault.seal(engine.keyring, content))
    db[REQUESTS].insert_one(document, session=session)
    event = ledger.Event(
        "request.replayed", subject.request_id, environment, subject.reference, facts={"source": SOURCE}
    )
    ledger.note(db, session, [event])
    audit.append(db, session, audited(event, engine.actor))


def _begun(engine: Engine) -> Iterator[str]:
    """Yield the requests that a replay has opened and nobody has finished."""
    for one in engine.target.db[REQUESTS].find({"replay": {"$exists": True}, "open": True}, {"_id": 1}):
        yield one["_id"]


def _spots(seen: Seen) -> Sequence[dict[str, Any]]:
    return [
        {"collection": name, "path": path, "identifier": identifier, "documents": number}
        for (name, path, identifier), number in sorted(seen.hits.items())
    ]
