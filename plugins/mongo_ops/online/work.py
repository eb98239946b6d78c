"""What every part of a migration works with, and its state in ``ops_online``: one document, written only under the lease.

The state holds no value of a document. The stream's token is stored as the server gave it and never looked into.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from bson import Timestamp
from pymongo.errors import OperationFailure

from mongo_ops import audit
from mongo_ops.audit import AuditEntry
from mongo_ops.migrations import history
from mongo_ops.online import names, rights
from mongo_ops.online.errors import NotStartedError, SourceChangedError
from mongo_ops.online.model import OnlineMigration, Phase, SpecFile
from mongo_ops.online.rights import Rights

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.migrations.history import Occasion
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

NAMESPACE_EXISTS = 48
Reporter = Callable[[str], None]
MOST_OWN = 100_000


class OwnWrites:
    """The transactions in which this process has changed documents in place, so that the replay need not look at its own work.

    Bounded: the oldest are forgotten, and so is everything with the process. What is forgotten is replayed, which changes nothing.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], None] = {}

    def note(self, session: ClientSession) -> None:
        """Remember the transaction that is open in this session."""
        number = session._server_session.transaction_id  # noqa: SLF001 - the driver has no public name for it
        self._known[bytes(session.session_id["id"]), int(number)] = None
        if len(self._known) > MOST_OWN:
            del self._known[next(iter(self._known))]

    def made(self, event: Mapping[str, Any]) -> bool:
        """Whether an event of the change stream comes from one of these."""
        number = event.get("txnNumber")
        if number is None or not self._known:
            return False
        return (event["lsid"]["id"].bytes, int(number)) in self._known


class Budget:
    """The time that one slice may take."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self._ends - time.monotonic())

    @property
    def spent(self) -> bool:
        """Whether it is used up."""
        return self.left == 0.0


@dataclass
class Work:
    """One call's tools: the target, the spec, the lease, a causal session for reads and the stream, and the state.

    Reads in ``session`` see at least what the stream has shown, whichever member answers.
    """

    target: Target
    file: SpecFile
    lease: Lease
    occasion: Occasion
    session: ClientSession
    report: Reporter
    own: OwnWrites = field(default_factory=OwnWrites)
    state: Document = field(default_factory=dict)

    @property
    def db(self) -> Database[Document]:
        """The environment's database."""
        return self.target.db

    @property
    def spec(self) -> OnlineMigration:
        """What is to be done."""
        return self.file.migration

    @property
    def name(self) -> str:
        """The migration's name."""
        return self.file.name

    @property
    def phase(self) -> Phase:
        """Where the migration is."""
        return Phase(self.state["phase"])

    @functools.cached_property
    def rights(self) -> Rights:
        """What our user may do, asked once."""
        return rights.read(self.db)

    @property
    def walk_prefix(self) -> str:
        """What the ids of this attempt's checkpoints begin with."""
        return f"online/{self.name}.{self.state['attempt']}/"

    def place(self, side: Literal["source", "target"]) -> str:
        """Return the name under which the source or the target is found now.

        Raises:
            SourceChangedError: it is gone.
        """
        name = names.where(self.db).get(self.state[side]["uuid"])
        if name is None:
            raise SourceChangedError(
                f"{self.name}: {self.spec.collection}, or the copy that belongs to it, was dropped or made anew by somebody else. "
                "Abort this migration and start it again."
            )
        return name

    def reload(self) -> None:
        """Read the state again.

        Raises:
            NotStartedError: there is none.
        """
        self.state = load(self.db, self.name, self.session)

    def save(self, session: ClientSession, **fields: Any) -> None:
        """Set fields of the state in the caller's transaction, and here."""
        values: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()}
        self.db[names.STATES].update_one(
            {"_id": self.name}, [{"$set": {**values, "updated_at": "$$NOW"}}], session=session
        )
        self.state.update(fields)

    def count(self, session: ClientSession, **counts: int) -> None:
        """Add to the state's counters in the caller's transaction. Counters are for people; nothing is decided by them."""
        self.db[names.STATES].update_one(
            {"_id": self.name}, {"$inc": {f"counts.{name}": number for name, number in counts.items()}}, session=session
        )

    def commit(self, **fields: Any) -> None:
        """Set fields of the state in a transaction that asserts the lease."""
        self.lease.transaction(lambda session: self.save(session, **fields))

    def move(self, phase: Phase, event: str, facts: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Enter a phase, together with its history event and its audit entry."""

        def body(session: ClientSession) -> None:
            self.save(session, phase=phase.value, **fields)
            self.note(session, event, facts or {})

        self.lease.transaction(body)
        self.report(f"{self.name}: {event}")

    def note(self, session: ClientSession, event: str, facts: Mapping[str, Any]) -> None:
        """Append a history event and an audit entry in the caller's transaction."""
        made = history.event(f"online/{self.name}", event, self.occasion, checksum=self.file.checksum, **facts)
        history.append(self.db, session, [made])
        entry = AuditEntry(
            action=f"online.{event}", entity_type="collection", entity_id=self.spec.collection, actor=self.occasion.actor.name,
            actor_kind=self.occasion.actor.kind, environment=self.target.environment.name, run_id=self.occasion.run_id,
            plan_digest=self.occasion.plan_digest, result=event, details={"migration": self.name, **facts},
        )  # fmt: skip
        audit.append(self.db, session, entry)


def load(db: Database[Document], name: str, session: ClientSession | None = None) -> Document:
    """Return a migration's state.

    Raises:
        NotStartedError: it was not started on this database.
    """
    found = db[names.STATES].find_one({"_id": name}, session=session)
    if found is None:
        raise NotStartedError(f"{name} was not started on {db.name}. Start it with `mongo-ops online start`.")
    return found


def prepare(db: Database[Document]) -> None:
    """Create the collections that transactions write to. Called before the first write of any kind."""
    history.prepare(db)
    audit.prepare(db)
    wanted = (names.STATES, names.MARKS)
    there = set(db.list_collection_names(filter={"name": {"$in": list(wanted)}}))
    for name in wanted:
        if name not in there:
            with taken_by_another():
                db.create_collection(name, check_exists=False)


@contextlib.contextmanager
def taken_by_another() -> Iterator[None]:
    """Let it pass when a collection exists already: another run, started at the same moment, was quicker."""
    try:
        yield
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise


def server_time(db: Database[Document]) -> Timestamp:
    """Return the server's logical time now."""
    found = db.client.admin.command("ping").get("operationTime")
    return found if isinstance(found, Timestamp) else Timestamp(int(time.time()), 0)


def now(db: Database[Document]) -> datetime:
    """Return the server's clock."""
    found: datetime = db.command("hello")["localTime"]
    return found if found.tzinfo else found.replace(tzinfo=UTC)
