"""Writers who keep a ledger of what the server acknowledged, and what a collection must hold according to it.

Each writer has keys of its own, so its ledger says exactly what became of each. It inserts, updates, replaces, upserts, deletes and
inserts again, alone and two at a time in a transaction; with majority concern and retryable writes, for nothing else is safe across an
election. What the server refuses for a moment (a fence, an election) it sends again until it is acknowledged, and notes for how long
it was refused. A write that finds less than the ledger says (an update of nothing, say) is a surprise, and a surprise is a loss.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from mongo_ops.mongo.documents import CODEC
from mongo_ops.online import gate

Document = dict[str, Any]
FENCED = {13: "role", 166: "view", 371: "user_write_block"}
PASSING = frozenset({6, 7, 89, 91, 112, 175, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
"""Elections, shutdowns, conflicts, and a plan killed by a rename: codes after which the same write may be sent again."""

MAJORITY = WriteConcern("majority")
READS = 0.2
PATIENCE = 60.0
NEW_KEYS = 1_000_000
"""What a writer adds begins here, times its number plus one: beyond what was there, so that the backfill's bound matters."""


def document(key: int, version: int) -> Document:
    """What a writer means by a version of a document."""
    return {"_id": key, "v": version, "ms": 7 * key + version, "pad": "x" * (version % 40)}


@dataclass(frozen=True)
class Entry:
    """The last acknowledged state of a key: its version (None: deleted), and between which moments the write took place."""

    version: int | None
    sent: float = float("-inf")
    acked: float = float("-inf")


@dataclass
class Ledger:
    """What was acknowledged, what surprised, how long writes were refused (seconds, by writer), which errors came how often."""

    entries: dict[int, Entry] = field(default_factory=dict)
    surprises: list[tuple[int, str]] = field(default_factory=list)
    refused: dict[int, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0

    def add(self, other: Ledger) -> None:
        """Take another writer's ledger in."""
        assert not self.entries.keys() & other.entries.keys(), "writers have keys of their own"
        self.entries |= other.entries
        self.surprises += other.surprises
        self.refused |= other.refused
        self.errors += other.errors
        self.acknowledged += other.acknowledged


@dataclass(frozen=True)
class Losses:
    """Where a collection differs from a ledger, by ``_id``. True when it does."""

    missing: tuple[Any, ...] = ()
    zombie: tuple[Any, ...] = ()
    stale: tuple[Any, ...] = ()
    surprises: tuple[tuple[int, str], ...] = ()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __len__(self) -> int:
        return len(self.missing) + len(self.zombie) + len(self.stale) + len(self.surprises)

    def __str__(self) -> str:
        kinds = [f"{len(keys)} {kind} {sorted(keys, key=str)[:20]}" for kind, keys in vars(self).items() if keys]
        return "; ".join(kinds) or "nothing lost"


NOTHING_LOST = Losses()
NEVER = (float("inf"), float("inf"))


def compare(
    ledger: Ledger,
    collection: Collection[Document],
    transform: Callable[[Document], Document] = dict,
    swapped: tuple[float, float] = NEVER,
) -> Losses:
    """Say where the collection differs from what the ledger and the transform say that it must hold. All writers are at rest.

    Args:
        ledger: everything that was acknowledged.
        collection: what is there.
        transform: makes the wanted document of a writer's; independent of the engine's.
        swapped: from when until when, by the monotonic clock, the swap may have happened. What was written before is transformed,
            what was sent afterwards stands as it was written, in between it may be either.
    """
    wanted: dict[bytes, tuple[Any, list[bytes]]] = {}
    for key, entry in ledger.entries.items():
        if entry.version is None:
            continue
        plain = document(key, entry.version)
        forms = [transform(plain)] if entry.sent < swapped[1] else []
        forms += [plain] if entry.acked > swapped[0] else []
        for form in forms:
            wanted.setdefault(_bytes(form["_id"]), (form["_id"], []))[1].append(_bytes(form))
    zombie, stale = [], []
    for row in collection.with_options(CODEC, read_concern=ReadConcern("majority")).find():
        found = wanted.pop(_bytes(row["_id"]), None)
        if found is None:
            zombie.append(row["_id"])
        elif _bytes(row) not in found[1]:
            stale.append(row["_id"])
    missing = tuple(key for key, _ in wanted.values())
    return Losses(missing, tuple(zombie), tuple(stale), tuple(ledger.surprises))


def _bytes(value: Any) -> bytes:
    """Return BSON that tells types apart but not the order of fields."""
    ordered = dict(sorted(value.items())) if isinstance(value, Mapping) else value
    return bson.encode({"": ordered}, codec_options=CODEC)


class Writer(threading.Thread):
    """One writer of a crowd."""

    def __init__(self, crowd: Crowd, number: int, keys: Iterable[int]) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.number, self._crowd = number, crowd
        self.ledger = Ledger({key: Entry(0) for key in keys})
        self.failure: BaseException | None = None
        self._dice = random.Random(crowd.seed * 1_000 + number)
        self._alive, self._dead = list(self.ledger.entries), list[int]()
        self._versions, self._next = Counter[int](), NEW_KEYS * (number + 1)
        self.at_work = threading.Lock()

    def run(self) -> None:
        """Write until told to stop. What has begun is brought to its end."""
        try:
            with MongoClient(self._crowd.uri, retryWrites=True, serverSelectionTimeoutMS=10_000) as client:
                self._db = client.get_database(self._crowd.database, write_concern=MAJORITY)
                self._collection, self._client = self._db[self._crowd.collection], client
                while not self._crowd.over.wait(self._crowd.pause):
                    with self.at_work:
                        if not self._crowd.held.is_set():
                            self._step()
        except BaseException as failure:  # noqa: BLE001 - the crowd raises it in the test
            self.failure = failure

    def _step(self) -> None:
        if self._crowd.reads and self._alive and self._dice.random() < READS:
            self._read(self._dice.choice(self._alive))
        kind = self._dice.choices(("add", "change", "replace", "pair", "delete", "again"), (20, 30, 15, 5, 15, 15))[0]
        if kind == "add" or not self._alive or (kind == "again" and not self._dead):
            self._next += 1
            self._one("insert", self._next, self._version(self._next))
        elif kind == "again":
            key = self._dead.pop(self._dice.randrange(len(self._dead)))
            self._one(self._dice.choice(("insert", "upsert")), key, self._version(key))
        elif kind == "delete":
            self._one("delete", self._take(), None)
        elif kind == "pair" and len(self._alive) > 1:
            self._pair(self._take(), self._take())
        else:
            key = self._take()
            self._one("change" if kind == "pair" else kind, key, self._version(key))

    def _take(self) -> int:
        """Take a key out of those that exist."""
        place = self._dice.randrange(len(self._alive))
        self._alive[place], self._alive[-1] = self._alive[-1], self._alive[place]
        return self._alive.pop()

    def _version(self, key: int) -> int:
        """Return the key's next version. Versions go on after a deletion, so that an earlier life is not taken for this one."""
        self._versions[key] += 1
        return self._versions[key]

    def _one(self, kind: str, key: int, version: Any) -> None:
        send: dict[str, Callable[[Any, bool], bool]] = {
            "insert": lambda session, unsure: self._insert(key, version, session, unsure),
            "upsert": lambda session, _: self._upsert(key, version, session),
            "change": lambda session, _: self._change(key, version, session),
            "replace": lambda session, _: self._replace(key, version, session),
            "delete": lambda session, unsure: self._remove(key, session) or unsure,
        }
        together = self._in_transaction if self._crowd.asks_gate else lambda work: work(None)
        self._until_acknowledged(kind, {key: version}, lambda unsure: together(lambda at: send[kind](at, unsure)))

    def _pair(self, *keys: int) -> None:
        versions = {key: self._version(key) for key in keys}

        def both(session: Any) -> bool:
            done = [self._change(key, version, session) for key, version in versions.items()]
            return all(done)

        self._until_acknowledged("pair", versions, lambda _: self._in_transaction(both))

    def _read(self, key: int) -> None:
        """Read a document of its own, which must be as it was last written, at every moment of a swap too."""
        ends, found = time.monotonic() + PATIENCE, None
        while found is None:
            try:
                found = self._collection.find_one({"_id": key}) or {}
            except PyMongoError as error:
                if not self._may_pass(error) or time.monotonic() > ends:
                    raise
        if found.get("v") != self.ledger.entries[key].version:
            self.ledger.surprises.append((key, "read"))

    def _in_transaction(self, work: Callable[[Any], bool]) -> bool:
        def body(session: Any) -> bool:
            if self._crowd.asks_gate:
                gate.insist_open(self._db, self._crowd.collection, session)
            return work(session)

        with self._client.start_session() as session:
            return session.with_transaction(body, ReadConcern("snapshot"), MAJORITY)

    def _until_acknowledged(self, kind: str, versions: Mapping[int, Any], send: Callable[[bool], bool]) -> None:
        """Send until there is an answer; note it. ``send`` is told whether an earlier try may have arrived."""
        sent, refused, unsure = time.monotonic(), None, False
        while True:
            try:
                fine = send(unsure)
                break
            except (PyMongoError, gate.GateClosedError) as error:
                if not self._may_pass(error) or time.monotonic() > sent + PATIENCE:
                    raise
                refused = refused or time.monotonic()
                unsure = unsure or not _fenced(error)
                time.sleep(0.001)
        now = time.monotonic()
        if refused is not None:
            self.ledger.refused.setdefault(self.number, []).append(now - refused)
        self.ledger.acknowledged += 1
        for key, version in versions.items():
            if not fine:
                self.ledger.surprises.append((key, kind))
                continue  # nobody touches it again
            self.ledger.entries[key] = Entry(version, sent, now)
            (self._dead if version is None else self._alive).append(key)

    def _may_pass(self, error: Exception) -> bool:
        code = error.code if isinstance(error, OperationFailure) else None
        self.ledger.errors[_fenced(error) or str(code or type(error).__name__)] += 1
        if isinstance(error, gate.GateClosedError | AutoReconnect):
            return True
        labels = ("RetryableWriteError", "TransientTransactionError")
        labelled = isinstance(error, PyMongoError) and any(map(error.has_error_label, labels))
        return labelled or code in PASSING or code in FENCED

    def _insert(self, key: int, version: int, session: Any, unsure: bool) -> bool:
        try:
            self._collection.insert_one(document(key, version), session=session)
        except DuplicateKeyError:
            return unsure and (self._collection.find_one({"_id": key}) or {}).get("v") == version
        return True

    def _upsert(self, key: int, version: int, session: Any) -> bool:
        self._collection.replace_one({"_id": key}, document(key, version), upsert=True, session=session)
        return True

    def _change(self, key: int, version: int, session: Any) -> bool:
        update: Document = {"$set": document(key, version)}
        if self._crowd.forget:
            update["$unset"] = dict.fromkeys(self._crowd.forget, "")
        return self._collection.update_one({"_id": key}, update, session=session).matched_count == 1

    def _replace(self, key: int, version: int, session: Any) -> bool:
        return self._collection.replace_one({"_id": key}, document(key, version), session=session).matched_count == 1

    def _remove(self, key: int, session: Any) -> bool:
        return self._collection.delete_one({"_id": key}, session=session).deleted_count == 1


def _fenced(error: Exception) -> str | None:
    """Return which fence refused a write; None when it was none, and the write may have arrived."""
    if isinstance(error, gate.GateClosedError):
        return "fence: gate"
    code = error.code if isinstance(error, OperationFailure) else None
    return f"fence: {FENCED[code]}" if code in FENCED else None


@dataclass
class Crowd:
    """Several writers on one collection. ``with crowd.writing():`` they write; ``crowd.ledger()`` is what they were told.

    ``forget`` names fields that their updates unset, so that what they write is all of a document; writers of the old shape, who know
    nothing of new fields, forget none. ``asks_gate``: each write asks the application gate, in its own transaction. ``reads``: now and then
    one reads what it wrote; not where elections happen, for a primary that does not know yet that it is none reads what was.
    """

    uri: str
    database: str
    collection: str
    documents: int = 2_000
    writers: int = 3
    pause: float = 0.002
    forget: Sequence[str] = ()
    asks_gate: bool = False
    reads: bool = True
    seed: int = field(default_factory=lambda: random.randrange(2**32))
    over: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    threads: list[Writer] = field(default_factory=list)

    def load(self) -> None:
        """Insert what is there before anybody writes."""
        with MongoClient(self.uri) as client:
            rows = [document(key, 0) for key in range(self.documents)]
            client.get_database(self.database, write_concern=MAJORITY)[self.collection].insert_many(rows)
        self.threads = [
            Writer(self, number, range(number, self.documents, self.writers)) for number in range(self.writers)
        ]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Crowd]:
        """Let them write meanwhile; at the end each has brought its last write to its end."""
        print(f"writers' seed {self.seed}")  # shown when the test fails
        for writer in self.threads:
            writer.start()
        try:
            yield self
        finally:
            self.over.set()
            for writer in self.threads:
                writer.join(2 * PATIENCE)
        self._insist()

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[Ledger]:
        """Nobody writes meanwhile."""
        self.held.set()
        try:
            for writer in self.threads:
                assert writer.at_work.acquire(timeout=2 * PATIENCE), f"{writer.name} does not come to rest"
                writer.at_work.release()
            self._insist()
            yield self.ledger()
        finally:
            self.held.clear()

    def await_writes(self, number: int) -> None:
        """Wait until so many more writes were acknowledged, by all together."""
        goal, ends = self.acknowledged + number, time.monotonic() + PATIENCE
        while self.acknowledged < goal:
            self._insist()
            assert time.monotonic() < ends, f"{number} writes did not happen in {PATIENCE} s"
            time.sleep(0.005)

    @property
    def acknowledged(self) -> int:
        """Writes so far."""
        return sum(writer.ledger.acknowledged for writer in self.threads)

    def ledger(self) -> Ledger:
        """The ledgers of all, as one. They are at rest or have ended."""
        whole = Ledger()
        for writer in self.threads:
            whole.add(writer.ledger)
        return whole

    def _insist(self) -> None:
        for writer in self.threads:
            if writer.failure is not None:
                raise AssertionError(f"{writer.name} could not go on: {writer.failure!r}") from writer.failure
