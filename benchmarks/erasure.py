"""People erased per second: with mongo-ops, the naive way (a delete per collection and person), and at the limit (one per collection).

Everybody deletes the documents of other people, as many each, from the same database; afterwards it is counted that nothing of them is
left and nothing of the others is missing. What mongo-ops does beyond the deletes is timed by step, so that each has its price.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import Binary, ObjectId
from pymongo.database import Database

from benchmarks.engine import Engine as Connected
from benchmarks.measure import Goal, Notebook, Series, ratio
from benchmarks.server import Server
from benchmarks.table import Table
from mongo_ops.erasure import deadlines, references, register, requests, vault
from mongo_ops.erasure.engine import Engine
from mongo_ops.erasure.keys import PURPOSES, Keyring, renewed, variable
from mongo_ops.erasure.map_file import parse_map
from mongo_ops.erasure.model import STAGES
from mongo_ops.migrations.history import Actor
from mongo_ops.mongo.lease import Holder
from mongo_ops.storage import open_folder

DATABASE = "erasure"
SIZES = (1, 100, 10_000)
FASTER, WITHIN = 20.0, 3.0
NAIVE, LIMIT, OURS = "naive: a delete per collection and person", "limit: one delete_many per collection", "mongo-ops"
SAMPLE = 30
"""People after whom the naive way is stopped: it takes as long for each."""

SHARE = {"users": 0.2, "analytics": 0.5, "geo_events": 0.15, "logs": 0.15}
"""Of all documents. ``logs`` has no index on the person: every database has such a collection."""

KEY = {"users": "_id", "analytics": "user_id", "geo_events": "user_id", "logs": "user_id"}
MAP = """
version: 1
subject: user_id
backups: P35D
limits: {subjects: 20000, documents_per_subject: 100000, share: 1.0}
identifiers:
  user_id: {collection: users, path: _id, types: [objectId, string]}
  email: {collection: users, path: email}
  phone: {collection: users, path: phone}
collections:
  users:
    fields: {_id: user.unique_id, email: user.contact.email, phone: user.contact.phone_number, name: user.name}
    rules: {account: {select: {_id: $user_id}, action: delete, stage: root}}
  analytics:
    fields: {_id: system, user_id: user.unique_id, track: system, ms: user.behavior, at: user.behavior}
    rules: {events: {select: {user_id: $user_id}, action: delete}}
  geo_events:
    fields: {_id: system, user_id: user.unique_id, place.type: system, "place.coordinates[]": user.location, at: user.behavior}
    rules: {events: {select: {user_id: $user_id}, action: delete}}
  logs:
    fields: {_id: system, user_id: user.unique_id, text: system, at: system}
    rules: {entries: {select: {user_id: $user_id}, action: delete}}
  audit_log:
    fields: {_id: system, entity_type: system, entity_id: system, action: system, timestamp: system, actor_id: system,
             environment: system, result: system, run_id: system, plan_digest: system, actor_kind: system, details.*: system,
             chain.*: system, commitments.*: system, personal.*: user}
    rules:
      sealed:
        select: {anywhere: [user_id, email, phone]}
        action: anonymize
        why: The chain stays.
        changes: [{path: "personal.*", op: unset, where: anywhere}]
  ops_before_*:
    fields: {_id: system, value.*: user}
    rules: {copies: {select: {anywhere: [user_id, email, phone]}, action: delete}}
"""
Document = dict[str, Any]
STEPS = ("plan", "begin", "carry out", "sweep", "verify", "conclude")


def load(db: Database[Document], documents: int) -> int:
    """Fill the database anew; return how many people it has."""
    db.client.drop_database(db.name)
    people, now = int(documents * SHARE["users"]), datetime(2026, 3, 1, tzinfo=UTC)
    whole: dict[str, Callable[[int], Document]] = {
        "users": lambda n: {"_id": _key(n), "email": f"user{n}@example.org", "phone": f"+49 30 {n:08}", "name": f"Name {n}"},
        "analytics": lambda n: {"user_id": _key(n % people), "track": n % 3503, "ms": n, "at": now},
        "geo_events": lambda n: {
            "user_id": _key(n % people), "place": {"type": "Point", "coordinates": [13.4, 52.5]}, "at": now,
        },
        "logs": lambda n: {"user_id": _key(n % people), "text": f"GET /tracks/{n % 3503} 200 " + "x" * 60, "at": now},
    }  # fmt: skip
    for name, share in SHARE.items():
        count = int(documents * share)
        for begin in range(0, count, 10_000):
            db[name].insert_many([whole[name](n) for n in range(begin, min(count, begin + 10_000))], ordered=False)
        if KEY[name] != "_id" and name != "logs":
            db[name].create_index(KEY[name])
    return people


def _key(number: int) -> ObjectId:
    return ObjectId(f"6b0a41c3{number:016x}")


@dataclass
class Bench:
    """One database and a supply of people, each of whom can be erased once."""

    server: Server
    folder: Path
    documents: int
    next: int = 0
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def db(self) -> Database[Document]:
        """The database."""
        return self.server.database(DATABASE)

    def people(self, count: int) -> list[ObjectId]:
        """Return people who are still there."""
        self.next += count
        return [_key(n) for n in range(self.next - count, self.next)]

    def naive(self, count: int) -> float:
        """Return the seconds per person of one delete after the other."""
        some = self.people(min(count, SAMPLE))
        began = time.perf_counter()
        for key in some:
            for name in reversed(SHARE):
                self.db[name].delete_many({KEY[name]: key})
        return (time.perf_counter() - began) / len(some)

    def limit(self, count: int) -> float:
        """Return the seconds per person of one command per collection. Killed half-way, nobody knows how far it came."""
        some = self.people(count)
        began = time.perf_counter()
        for name in reversed(SHARE):
            self.db[name].delete_many({KEY[name]: {"$in": some}})
        return (time.perf_counter() - began) / count

    def ours(self, count: int) -> dict[str, float]:
        """Return the seconds per person of each step of a run."""
        for purpose in PURPOSES:
            self.keys.setdefault(variable(purpose), renewed(purpose))
        keyring = Keyring.from_lookup(self.keys.get)
        data_map, actor = parse_map(MAP, "the benchmark's map"), Actor("benchmark", "os")
        with Connected(self.folder, self.folder / "storage").connected(self.server, DATABASE) as target:
            register.prepare(target.db, keyring)
            ids = _received(target.db, keyring, self.people(count))
            run = requests.make_batch(target.db, "development", actor=actor, now=datetime.now(UTC), requests=ids)
            storage = open_folder((self.folder / "storage").as_uri())
            engine = Engine(target, data_map, keyring, storage, Holder(run), actor, report=lambda _: None)
            return {step: seconds / count for step, seconds in _timed(engine, run, count).items()}

    def prove(self, people: int) -> None:
        """Make sure that everybody deleted what they should and nothing else.

        Raises:
            RuntimeError: somebody is left, or somebody else is missing.
        """
        for name, share in SHARE.items():
            gone = self.db[name].count_documents({KEY[name]: {"$lt": _key(self.next)}})
            expected = sum(1 for n in range(int(self.documents * share)) if n % people >= self.next)
            if gone or self.db[name].count_documents({}) != expected:
                raise RuntimeError(f"{name}: {gone:,} documents of erased people are left, or others are missing.")


def _received(db: Database[Document], keyring: Keyring, people: Sequence[ObjectId]) -> list[str]:
    """Store requests in bulk; receiving one by one, with its evidence, is not what is measured."""
    documents, now = [], datetime.now(UTC)
    for key in people:
        request, known = register.new_id("er"), references.references_of(keyring, "user_id", key)
        sealed = vault.seal(keyring, {"request": request, "identifier": "user_id", "value": key})
        documents.append(
            {"_id": request, "environment": "development", "state": "received", "open": True, "subject_ref": known[0],
             "references": list(known), "sealed": Binary(sealed), "received_at": now, "due_at": deadlines.due(now), "source": "web",
             "reopened": 0, "run_id": None, "outcome": {}, "transitions": []}
        )  # fmt: skip
    db[register.REQUESTS].insert_many(documents, ordered=False)
    return [str(one["_id"]) for one in documents]


def _timed(engine: Engine, run: str, count: int) -> dict[str, float]:
    seconds: dict[str, float] = {}

    def lap(step: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return act()
        finally:
            seconds[step] = time.perf_counter() - began

    plan = lap("plan", lambda: engine.plan(run))
    engine.hold()
    lap("begin", lambda: engine.begin(plan))
    lap("carry out", lambda: [engine.carry_out(plan, rule) for stage in STAGES for rule in plan.stage(stage)])
    lap("sweep", lambda: engine.sweep(plan))
    lap("verify", lambda: engine.verify(plan))
    concluded = lap("conclude", lambda: engine.conclude(plan))
    engine.release()
    if concluded.states != {"completed": count}:
        raise RuntimeError(f"The run came to {concluded.states}: {'; '.join(concluded.reasons)}")
    return seconds


def measure(server: Server, folder: Path, documents: int, count: int, tell: Callable[[str], None]) -> Notebook:
    """Let each way erase 1, 100 and 10,000 people, in every round others."""
    for name in set(server.client.list_database_names()) - {"admin", "config", "local"}:
        server.client.drop_database(name)  # what other parts have left would be scanned, too
    tell(f"loading {documents:,} documents ...")
    bench, book = Bench(server, folder / "erasure", documents), Notebook()
    people = load(bench.db, documents)
    sizes = [size for size in SIZES if 3 * size * count <= people // 2]
    for number in range(count):
        for size in sizes:
            server.settle()
            book.write(NAIVE, f"{size}", bench.naive(size))
            book.write(LIMIT, f"{size}", bench.limit(size))
            steps = bench.ours(size)
            for step, seconds in steps.items():
                book.write(step, f"{size}", seconds)
            book.write(OURS, f"{size}", sum(steps.values()))
            tell(f"round {number}, {size:,} people: {1000 * sum(steps.values()):.2f} ms each")
    bench.prove(people)
    return book


def goals(book: Notebook | None) -> list[Goal]:
    """Return the promises about the largest batch."""
    size = str(max(SIZES))
    known = book if book is not None and book.has(OURS, size) else None
    faster = ratio(known.series(NAIVE, size), known.series(OURS, size)) if known else None
    within = ratio(known.series(OURS, size), known.series(LIMIT, size)) if known else None
    return [
        Goal(f"erasure of {max(SIZES):,} people against the naive way, per person", FASTER, "at least", "x", faster),
        Goal(f"erasure of {max(SIZES):,} people against the limit", WITHIN, "at most", "x", within),
    ]


def table(book: Notebook, documents: int) -> Table:
    """Return the times per person, and of which step they are."""
    sizes = [size for size in SIZES if book.has(OURS, str(size))]
    thousand = 1000.0
    rows = [
        [
            name,
            *(
                Series(tuple(v * thousand for v in book.series(name, str(size)).values)).show("{:.2f}")
                for size in sizes
            ),
        ]
        for name in (NAIVE, LIMIT, OURS, *STEPS)
    ]
    heading = ["milliseconds per person: median (min - max)", *(f"{size:,} people" for size in sizes)]
    note = (
        "The rows below mongo-ops are its steps: `plan` and `verify` read every byte of every database, `begin` leaves tombstones, "
        "`sweep` looks for late writers, `conclude` issues a certificate for each. Neither other way has any of them."
    )
    return Table(f"Erasure from {documents:,} documents", heading, rows, [note])
