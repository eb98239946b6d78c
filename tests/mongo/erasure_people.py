"""A person at every place of the reference model, neighbours who must not be touched, and the whole course of an erasure.

Nothing here uses what the engine looks for people with: ``Traces`` is a plain search of its own through decoded documents and raw bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bson
from bson import Binary, DBRef, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from tests.mongo.runner import INCLUDE, Project
from tests.people import GRACE, key_values, keyring

from mongo_ops import audit
from mongo_ops.audit.chain import GENESIS
from mongo_ops.audit.log import HEADS
from mongo_ops.erasure import requests
from mongo_ops.erasure.engine import Engine
from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.model import STAGES, DataMap
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.lease import Holder
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder

N = datetime(2026, 3, 1, tzinfo=UTC)
LATER = datetime(2030, 1, 1, tzinfo=UTC)
KEYS = key_values()
NAME = "Ann Lee"


def oid(number: int, head: str = "6b0a41c3") -> ObjectId:
    """An ObjectId that is the same in every run."""
    return ObjectId(f"{head}{number:016x}")


@dataclass(frozen=True)
class Person:
    """Somebody's identifiers. ``number`` keeps the ids of people apart."""

    number: int
    email: str
    phone: str
    name: str = NAME
    head: str = "6b0a41c3"

    def id(self, what: int) -> ObjectId:
        return oid(self.number * 256 + what, self.head)

    @property
    def user(self) -> ObjectId:
        return self.id(1)

    @property
    def artist(self) -> ObjectId:
        return self.id(2)

    @property
    def track(self) -> ObjectId:
        return self.id(3)

    @property
    def private(self) -> ObjectId:
        return self.id(4)

    @property
    def shared(self) -> ObjectId:
        return self.id(5)

    @property
    def image(self) -> str:
        return f"artists/{self.head}-{self.number:04}/portrait.png"

    @property
    def asset(self) -> str:
        return f"generated/{self.head}-{self.number:04}/cover.png"


ANN = Person(0x41, "Ann@Example.org", "+49 170 1234567")
JOANN = Person(0x61, "joann@example.org", "+49 170 12345678")
"""A namesake: the address ends as Ann's does, the number begins as hers, and the ids differ in one bit: in lower case they are the same."""

BOB = Person(0x42, "bob@example.org", "+49 30 7654321", "Bob Ray")
CAST = (ANN, BOB, JOANN)


def elsewhere(who: Person, number: int = 1) -> Person:
    """The same person for another database of the same server: the scan looks at all of them, so nobody may be in two."""
    email = who.email.lower().replace(".org", f"{number}.org").replace("ann@e", "Ann@E").replace("joAnn@E", "joann@e")
    return replace(who, email=email, phone=who.phone.replace("+49", f"+4{number}"), head=f"6b0a41d{number}")


def plant(db: Any, ann: Person = ANN, bob: Person = BOB, joann: Person = JOANN) -> None:
    """All three, and Ann entangled with the others."""
    for who in (ann, bob, joann):
        own(db, who)
    entangled(db, ann, bob, joann)


class Traces:
    """A plain search for one person's traces, apart from the engine's own."""

    def __init__(self, who: Person) -> None:
        low = who.email.lower()
        texts = [who.email, who.phone, who.image, who.asset]
        digits = "".join(one for one in who.phone if one.isdigit())
        ids = [who.user, who.artist, who.private, who.shared]
        self.texts = [one.lower().encode() for one in [*texts, digits, quote(who.email, safe=""), *map(str, ids)]]
        self.texts += [getattr(hashlib, name)(low.encode()).hexdigest().encode() for name in ("md5", "sha1", "sha256")]
        self.exact = [one.binary for one in ids] + [base64.b64encode(one.encode()).rstrip(b"=") for one in texts]

    def hit(self, raw: bytes) -> bool:
        """Say whether bytes hold a trace; one that continues a longer word (``joann@``) does not count."""
        low = raw.lower()
        return any(one in raw for one in self.exact) or any(_alone(low, one) for one in self.texts)

    def places(self, document: dict[str, Any], prefix: str) -> list[str]:
        found: list[str] = []

        def look(value: Any, path: str) -> None:
            value = value.as_doc() if isinstance(value, DBRef) else value
            if isinstance(value, dict):
                for key, inner in value.items():
                    if self.hit(key.encode()):
                        found.append(f"{path}.{{}}")
                    look(inner, f"{path}.{key}")
            elif isinstance(value, list):
                for inner in value:
                    look(inner, f"{path}[]")
            elif self.hit(value.binary if isinstance(value, ObjectId) else _bytes(value)):
                found.append(path)

        look(document, prefix)
        return found


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""


def _alone(low: bytes, pattern: bytes) -> bool:
    at = low.find(pattern)
    while at >= 0:
        around = low[at - 1 : at] + low[at + len(pattern) : at + len(pattern) + 1]
        if not any(chr(byte).isalnum() for byte in around):
            return True
        at = low.find(pattern, at + 1)
    return False


REMAIN = {"artists._id", "tracks.artist_id", "playlists._id"}
"""Where a trace of Ann's may stay: keys of what others use, which lead to nobody any more."""


def everywhere(client: Any) -> list[tuple[str, bytes]]:
    """Every document of every database as raw bytes: what a dump holds."""
    found = []
    for database in client.list_database_names():
        if database in {"local", "config", "admin"}:
            continue
        for info in client[database].list_collections():
            if info["type"] == "view" or info["name"].startswith("system."):
                continue
            collection = client[database].get_collection(
                info["name"], codec_options=CODEC.with_options(document_class=RawBSONDocument)
            )
            found += [(info["name"], bytes(document.raw)) for document in collection.find()]
    return found


def traced_places(client: Any, who: Person) -> Counter[str]:
    """``collection.path`` of every trace of a person, with how many documents have it there."""
    traces, found = Traces(who), Counter()
    for name, raw in everywhere(client):
        if traces.hit(raw):
            found.update(set(traces.places(bson.decode(raw, CODEC), name)) or {f"{name}.?"})
    return found


def raw_of(db: Any, collection: str, key: Any) -> bytes:
    """A document's bytes."""
    found = db.get_collection(collection, codec_options=CODEC.with_options(document_class=RawBSONDocument)).find_one(
        {"_id": key}
    )
    return bytes(found.raw) if found is not None else b""


def images(db: Any) -> dict[tuple[str, str], bytes]:
    """Every document of the product's own collections, as bytes."""
    raw = CODEC.with_options(document_class=RawBSONDocument)
    names = [one for one in db.list_collection_names() if not one.startswith(("ops_", "system.", "audit_log"))]
    return {
        (name, str(one["_id"])): bytes(one.raw)
        for name in sorted(names)
        for one in db.get_collection(name, codec_options=raw).find()
    }


def snapshot(db):
    """All that an erasure may write, but for its own requests, closures and evidence."""
    names = [
        one
        for one in db.list_collection_names()
        if not one.startswith(("ops_erasure", "ops_leases", "audit_log", "ops_audit", "system."))
    ]
    return {name: sorted(bson.encode(one) for one in db[name].find()) for name in names}


def files(folder: Any) -> Iterator[Any]:
    """Every file in a folder of storage."""
    for path in folder.iterdir():
        yield from files(path) if path.is_dir() else [path]


# A person's documents -----------------------------------------------------------------------------------------------------


def own(db: Any, who: Person, events: int = 5) -> None:
    """What anybody has: an account, an artist with a track, two playlists, and events."""
    db.users.insert_one(
        {"_id": who.user, "email": who.email, "display_name": who.name, "phone": who.phone, "status": "active",
         "subscription_type": "free", "created_at": N, "address": {"city": "Berlin"}}
    )  # fmt: skip
    db.artists.insert_one(
        {"_id": who.artist, "name": who.name, "user_id": who.user, "bio": f"{who.name}, write to {who.email}",
         "links": [f"https://example.org/{who.user}"], "image_key": who.image, "genres": ["folk"], "created_at": N}
    )  # fmt: skip
    db.tracks.insert_one(
        {"_id": who.track, "title": "Home", "artist_id": who.artist, "duration_ms": 1000, "composer": who.name,
         "credits": [{"name": who.name, "role": "voice", "user_id": who.user}], "created_at": N}
    )  # fmt: skip
    entry = {"track_id": who.track, "added_by": who.user, "added_at": N}
    db.playlists.insert_one(
        {
            "_id": who.private,
            "name": "mine",
            "visibility": "private",
            "owner_id": who.user,
            "tracks": [entry],
            "created_at": N,
        }
    )
    db.playlists.insert_one(
        {"_id": who.shared, "name": f"{who.name}'s party", "visibility": "shared", "owner_id": who.user, "tracks": [entry],
         "description": f"questions to {who.email}", "collaborators": [], "created_at": N}
    )  # fmt: skip
    base = who.number * 256 + 64
    db.analytics.insert_many(
        [
            {"_id": oid(base + n, who.head), "event_type": "play", "user_id": who.user, "track_id": who.track, "ts": N}
            for n in range(events)
        ]
    )
    point = {"type": "Point", "coordinates": [13.4, 52.5]}
    db.geo_events.insert_one(
        {
            "_id": oid(base, who.head),
            "user_id": who.user,
            "event_type": "check_in",
            "location": point,
            "track_id": who.track,
            "ts": N,
        }
    )
    decision = {"granted": True, "policy_version": "1", "source": "web", "recorded_at": N}
    db.consent.insert_one({"_id": oid(base, who.head), "user_id": who.user, "type": "marketing", **decision})
    db.security_events.insert_one(
        {"_id": oid(base, who.head), "event_type": "login_succeeded", "severity": "info", "user_id": who.user, "ip": "192.0.2.7",
         "user_agent": "x", "details": {"as": who.email}, "occurred_at": N, "expires_at": LATER}
    )  # fmt: skip


def entangled(db: Any, who: Person, other: Person, third: Person = JOANN) -> None:
    """Where ``who`` stands in documents of ``other``, and in all that is written about either."""
    db.tracks.insert_one(
        {"_id": other.id(11), "title": "Together", "artist_id": other.artist, "duration_ms": 1,
         "composer": f"{other.name}, {who.name}",
         "credits": [
             {"name": other.name, "role": "guitar", "user_id": other.user},
             {"name": who.name, "role": "voice", "user_id": who.user},
             {"name": who.name, "role": "piano", "user_id": third.user},
         ], "created_at": N}
    )  # fmt: skip
    db.playlists.update_one(
        {"_id": who.shared},
        {
            "$set": {"collaborators": [other.user]},
            "$push": {"tracks": {"track_id": other.track, "added_by": other.user, "added_at": N}},
        },
    )
    tracks = [{"track_id": other.track, "added_by": one, "added_at": N} for one in (other.user, who.user, third.user)]
    db.playlists.insert_one(
        {"_id": other.id(6), "name": "ours", "visibility": "shared", "owner_id": other.user, "tracks": tracks,
         "collaborators": [third.user, who.user], "created_at": N}
    )  # fmt: skip
    _written(db, who, other, third)
    _versions(db, who, other, third)
    _logged(db, who, other, third)


def _written(db: Any, who: Person, other: Person, third: Person) -> None:
    keys = (who.id(128 + n) for n in range(64))
    made = {"kind": "description", "version": 1, "model": "m", "prompt": "p", "status": "draft", "created_at": N}
    text = {"field": "bio", "lang": "en", "text": "t", "translation": "human", "created_at": N}
    entities = {"user": who.user, "artist": who.artist, "track": who.track, "playlist": who.private}
    for kind, key in (*entities.items(), ("playlist", who.shared)):
        db.ai_content.insert_one({"_id": next(keys), "entity_type": kind, "entity_id": key, **made})
        db.multilingual_content.insert_one({"_id": next(keys), "entity_type": kind, "entity_id": key, **text})
    prompted = {**made, "kind": "cover_art", "asset_key": who.asset, "user_id": who.user}
    db.ai_content.insert_one({"_id": next(keys), "entity_type": "track", "entity_id": other.track, **prompted})
    prompt = f"{who.email.upper()} and {third.email} and {hashlib.sha256(who.email.lower().encode()).hexdigest()}"
    content = f"?to={quote(who.email, safe='')}&b={base64.b64encode(who.email.encode()).decode()} call {who.phone}"
    theirs = {**made, "user_id": other.user, "prompt": prompt, "content": content, "asset_key": f"x/{who.user}.png"}
    db.ai_content.insert_one({"_id": other.id(7), "entity_type": "artist", "entity_id": other.artist, **theirs})
    db.multilingual_content.insert_one(
        {"_id": other.id(7), "entity_type": "artist", "entity_id": other.artist, **text, "title": f"with {who.email}",
         "text": f"md5 {hashlib.md5(who.email.lower().encode()).hexdigest()}, twin {third.user} {third.email}"}
    )  # fmt: skip


def _versions(db: Any, who: Person, other: Person, third: Person) -> None:
    keys = (who.id(192 + n) for n in range(32))
    known = {"version": 1, "changed_at": N, "changed_by": other.user, "snapshot": {"name": "x"}}
    for kind, key in (
        ("user", who.user), ("user", str(who.user)), ("artist", who.artist), ("track", who.track), ("playlist", who.private),
        ("playlist", who.shared),
    ):  # fmt: skip
        db.versioning.insert_one({"_id": next(keys), "entity_type": kind, "entity_id": key, **known})
    for number, by in enumerate((who.user, str(who.user))):
        former = {**known, "version": 2 + number, "changed_by": by}
        db.versioning.insert_one(
            {"_id": other.id(8 + number), "entity_type": "track", "entity_id": other.track, **former}
        )
    snapshot = {
        "collaborators": [third.user, who.user],
        "likes": {str(who.user): 1, str(third.user): 2},
        "deep": {"er": [{"est": [who.user, third.user]}, {"mail": who.email}]},
        "raw": Binary(b"\x00" + who.user.binary + b"\x01"),
        "ref": DBRef("users", who.user),
        "credits": [{"name": who.name, "user_id": who.user}, {"name": third.name, "user_id": third.user}],
    }
    diff = [{"op": "add", "path": "/email", "value": {"was": [who.email], "is": third.email}}]
    db.versioning.insert_one(
        {"_id": other.id(10), "entity_type": "playlist", "entity_id": other.id(6), **known, "snapshot": snapshot, "diff": diff,
         "reason": f"asked by {who.email}"}
    )  # fmt: skip


def _logged(db: Any, who: Person, other: Person, third: Person) -> None:
    event = {"severity": "warning", "occurred_at": N, "expires_at": LATER}
    db.security_events.insert_one(
        {"_id": other.id(7), "event_type": "login_failed", "user_id": None, "user_agent": f"mail/{who.email}",
         "details": {"tried": who.email, "key": {str(who.user): 1}, "phone": "".join(filter(str.isdigit, who.phone))}, **event}
    )  # fmt: skip
    entry = {"action": "edited", "timestamp": N, "details": {}}
    for number, (kind, entity, actor, details) in enumerate(
        (
            ("user", who.user, other.user, {}),
            ("user", str(who.user), str(other.user), {}),
            ("artist", who.artist, "admin", {}),
            ("track", other.track, who.user, {"n": 1}),
            ("track", other.track, str(who.user), {}),
            ("track", other.track, other.user, {"to": [f"<{who.email}>"], str(who.user): {"x": third.email}}),
        )
    ):
        told = {**entry, "entity_type": kind, "entity_id": entity, "actor_id": actor, "details": details}
        db.audit_log.insert_one({"_id": f"{who.number}-{number}", **told})
    audit.prepare(db)
    said = {"reason": f"{who.email} asked", "other": third.email}
    sealed = {"action": "x.done", "entity_type": "system", "environment": "development", "result": "done"}
    audit.record(db, audit.AuditEntry(actor="Grace Example", **sealed, personal=said))
    db["ops_before_009_x.0.backfill"].insert_many(
        [
            {"_id": who.user, "made": False, "had": True, "value": {"city": "Berlin"}},
            {"_id": who.track, "made": False, "had": True, "before": {"composer": who.name}},
            {"_id": other.user, "made": False, "had": True, "value": {"friend": who.email}},
            {"_id": third.user, "made": False, "had": True, "value": {"email": third.email}},
        ]
    )
    db["ops_checkpoints"].insert_one(
        {
            "_id": "009_x",
            "collection": "users",
            "next": who.user,
            "upper": who.user,
            "upper_inclusive": True,
            "finished": True,
        }
    )


PLANTED = {
    *("users._id", "users.email", "users.phone"),
    *("artists.user_id", "artists.bio", "artists.links[]", "artists.image_key"),
    *("tracks.credits[].user_id", "playlists.owner_id", "playlists.collaborators[]", "playlists.tracks[].added_by"),
    *("playlists.description", "analytics.user_id", "geo_events.user_id", "consent.user_id"),
    *("security_events.user_id", "security_events.details.as", "security_events.details.tried", "security_events.user_agent"),
    *("security_events.details.key.{}", "security_events.details.phone"),
    *("ai_content.user_id", "ai_content.entity_id", "ai_content.prompt", "ai_content.content", "ai_content.asset_key"),
    *("multilingual_content.entity_id", "multilingual_content.title", "multilingual_content.text"),
    *("versioning.entity_id", "versioning.changed_by", "versioning.snapshot.collaborators[]", "versioning.snapshot.likes.{}"),
    *("versioning.snapshot.deep.er[].est[]", "versioning.snapshot.deep.er[].mail", "versioning.snapshot.raw"),
    *("versioning.snapshot.ref.$id", "versioning.snapshot.credits[].user_id", "versioning.diff[].value.was[]", "versioning.reason"),
    *("audit_log.entity_id", "audit_log.actor_id", "audit_log.details.to[]", "audit_log.details.{}", "audit_log.personal.reason.value"),
    *("ops_before_009_x.0.backfill._id", "ops_before_009_x.0.backfill.value.friend"),
    *("ops_checkpoints.next", "ops_checkpoints.upper"),
}  # fmt: skip


# The whole course ----------------------------------------------------------------------------------------------------------


@dataclass
class Course:
    """An erasure from the request to the certificate, on one database."""

    target: Target
    data_map: DataMap = field(default_factory=load_map)
    keyring: Keyring = field(default_factory=lambda: keyring(KEYS))
    owner: str = "cli 1"

    @property
    def db(self) -> Any:
        return self.target.db

    @property
    def folder(self) -> Any:
        return open_folder(self.target.environment.storage)

    @property
    def assets(self) -> Any:
        """The product's own objects."""
        return open_folder(f"{self.target.environment.storage}-assets")

    @property
    def engine(self) -> Engine:
        return Engine(
            self.target,
            self.data_map,
            self.keyring,
            self.folder,
            Holder(self.owner),
            GRACE,
            report=lambda _: None,
            assets=self.assets,
        )

    def model(self) -> Course:
        """Bring the reference model's collections, validators and indexes into being."""
        Project(self.target, INCLUDE).migrate()
        return self

    def emptied(self, folder: Path) -> Course:
        """The same database as it was after ``model``, and another folder for its files: much faster than a new one."""
        for info in list(self.db.list_collections()):
            name = info["name"]
            if name in self.data_map.collections or (name.startswith("ops_") and not name.startswith("ops_before_")):
                if name != HEADS:
                    self.db[name].delete_many({})
            elif not name.startswith("system."):
                self.db.drop_collection(name)
        self.db[HEADS].update_many({}, {"$set": {"seq": Int64(0), "hash": GENESIS.hash}})
        environment = replace(self.target.environment, storage=(folder / "storage").as_uri())
        return replace(self, target=replace(self.target, environment=environment))

    def receive(self, value: Any = ANN.user) -> str:
        now = datetime.now(UTC) - timedelta(minutes=1)
        return requests.receive(self.db, "development", self.data_map, self.keyring, value, "web", GRACE, now).id

    def batch(self, *ids: str) -> str:
        return requests.make_batch(self.db, "development", actor=GRACE, now=datetime.now(UTC), requests=ids)

    def execute(self, plan: Any) -> None:
        """Erase the objects and carry every rule out, in order."""
        self.engine.erase_objects(plan)
        for stage in STAGES:
            for rule in plan.stage(stage):
                self.engine.carry_out(plan, rule)

    def whole(self, run: str) -> Any:
        """The whole course; return what it came to."""
        plan = self.engine.plan(run)
        self.engine.hold()
        try:
            self.engine.begin(plan)
            self.execute(plan)
            return self.finish(plan)
        finally:
            self.engine.release()

    def finish(self, plan: Any) -> Any:
        self.engine.sweep(plan)
        self.engine.verify(plan)
        return self.engine.conclude(plan)

    def state(self, request: str) -> str:
        return str(requests.load(self.db, request).state)

    def without(self, *rules: str) -> Course:
        """The same with rules taken out of the map."""
        entries = {
            name: replace(entry, rules=tuple(one for one in entry.rules if one.id not in rules))
            for name, entry in self.data_map.collections.items()
        }
        digest = hashlib.sha256(json.dumps([self.data_map.digest, *rules]).encode()).hexdigest()
        return replace(self, data_map=replace(self.data_map, collections=entries, digest=digest))


@contextmanager
def database(replica_set: Any, folder: Path) -> Iterator[Target]:
    """A target on a database of its own: for a module, where the fixture ``target`` is for a test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    environment = Environment("development", "mongo_development", database=name, storage=(folder / "storage").as_uri())
    spec = ConnectionSpec("mongo_development", replica_set.uri, replica_set.nodes[0].address, name)
    with connect(spec, environment) as connected:
        try:
            yield connected
        finally:
            connected.client.drop_database(name)
