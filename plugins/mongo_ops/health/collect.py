"""Take the snapshot: few commands, each part on its own, so that one refusal leaves the others known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import ReadPreference
from pymongo.errors import ConnectionFailure, OperationFailure

from mongo_ops.health.model import FactMissingError
from mongo_ops.health.sight import together
from mongo_ops.health.snapshot import Snapshot, has_primary
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.lease import LEASES

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document

ANYBODY = (
    ReadPreference.PRIMARY_PREFERRED
)  # without a primary, what the deployment says of itself is needed all the more
PART_SECONDS, LOST_SECONDS = 30.0, 0.5
SERVER = ("version", "uptime", "localTime", "connections", "extra_info", "security", "transportSecurity", "process")
PARAMETERS = (
    "ttlMonitorEnabled",
    "ttlMonitorSleepSecs",
    "featureCompatibilityVersion",
    "transactionLifetimeLimitSeconds",
)
MEMBER = ("name", "health", "state", "stateStr", "optimeDate", "uptime")
MIGRATIONS = "ops_migrations"


@dataclass
class Collector:
    """Reads part after part and notes what could not be read; ``lost``: the server, or at least the primary, is away."""

    target: Target
    parts: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    lost: bool = False

    def read(self, part: str, how: Callable[[], Any]) -> None:
        """Read one part; after the server went away the others are given up quickly."""
        try:
            with pymongo.timeout(LOST_SECONDS if self.lost else PART_SECONDS):
                self.parts[part] = how()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are read all the same
            self.missing[part] = kind_of(error)
            self.lost = self.lost or isinstance(error, ConnectionFailure)

    def admin(self, command: str, value: Any = 1, **options: Any) -> Document:
        """Send a command to ``admin``."""
        return self.target.client.admin.command(command, value, codec_options=CODEC, read_preference=ANYBODY, **options)


def kind_of(error: BaseException) -> str:
    """Return the kind of an error: its class, and the server's name for its code. Never its text."""
    name = type(error).__name__
    code = (error.details or {}).get("codeName", error.code) if isinstance(error, OperationFailure) else None
    return f"{name} {code}" if code else name


def take(target: Target, sample_seconds: float = 1.0) -> Snapshot:
    """Return the facts of the deployment; the two samples are ``sample_seconds`` apart."""
    made, began = Collector(target), time.monotonic()
    made.read("earlier", lambda: _server(made.admin("serverStatus")))
    made.read("replication", lambda: [_replication(made.admin("replSetGetStatus"))])
    made.lost = made.lost or not has_primary(made.parts.get("replication", ()))
    made.read("parameters", lambda: made.admin("getParameter", **dict.fromkeys(PARAMETERS, 1)))
    made.read("options", lambda: _options(made.admin("getCmdLineOpts")["parsed"]))
    made.read("catalogue", lambda: _catalogue(target))
    made.read("sizes", lambda: _sizes(target, made.parts.get("catalogue")))
    made.read("disk", lambda: _disk(made.admin("dbStats"), target))
    made.read("oplog", lambda: _oplog(target))
    made.read("operations", lambda: _operations(target))
    made.read("users", lambda: _users(made.admin("usersInfo", {"forAllDBs": True})["users"]))
    made.read("leases", lambda: list(target.db[LEASES].find({}, {"evicted": 0})))
    made.read("migrations", lambda: list(target.db[MIGRATIONS].find({}, {"state": 1, "updated_at": 1})))
    time.sleep(max(0.0, sample_seconds - (time.monotonic() - began)))
    made.read("server", lambda: _server(made.admin("serverStatus")))
    if "replication" in made.parts:
        first = made.parts["replication"]
        made.read("replication", lambda: [*first, _replication(made.admin("replSetGetStatus"))])
    parts = {name: value for name, value in made.parts.items() if name not in made.missing}
    return Snapshot(
        environment=target.environment.name,
        database=target.database,
        protected=target.environment.protected,
        taken_at=parts.get("server", {}).get("localTime") or datetime.now(UTC),
        seconds_between=time.monotonic() - began,
        missing=made.missing,
        **parts,
    )


def _database(target: Target, name: str) -> Database[Document]:
    return target.client.get_database(name, CODEC, read_preference=ANYBODY)


def _server(status: Mapping[str, Any]) -> Document:
    tiger = status.get("wiredTiger", {})
    queues = status.get("queues", {}).get("execution") or tiger.get("concurrentTransactions", {})
    cache = tiger.get("cache", {})
    return {
        **{name: status[name] for name in SERVER if name in status},
        "ttl": status.get("metrics", {}).get("ttl", {}),
        "tickets": {way: dict(queues[way]) for way in ("read", "write") if way in queues},
        "cache": {
            "used": cache.get("bytes currently in the cache", 0),
            "dirty": cache.get("tracked dirty bytes in the cache", 0),
            "most": cache.get("maximum bytes configured", 0),
        },
    }


def _replication(status: Mapping[str, Any]) -> Document:
    members = [{name: member.get(name) for name in MEMBER} for member in status["members"]]
    return {"set": status["set"], "majority": status.get("majorityVoteCount"), "members": members}


def _options(parsed: Mapping[str, Any]) -> Document:
    net, security = parsed.get("net", {}), parsed.get("security", {})
    tls = net.get("tls", net.get("ssl", {}))
    return {
        "bind": str(net.get("bindIp", "127.0.0.1")),
        "bind_all": bool(net.get("bindIpAll")),
        "tls": str(tls.get("mode", "disabled")),
        "authorization": security.get("authorization") == "enabled"
        or "keyFile" in security
        or "clusterAuthMode" in security,
    }


def _catalogue(target: Target) -> list[Document]:
    stages: list[Mapping[str, Any]] = [{"$listCatalog": {}}, {"$match": {"db": target.database}}]
    found = {str(one["name"]): one for one in _database(target, "admin").aggregate(stages)}
    return list(found.values())


def _sizes(target: Target, catalogue: Iterable[Mapping[str, Any]] | None) -> Mapping[str, Document]:
    """Return the declared counts. ``storageStats`` costs thirty times as much, most of it for indexes: only ``fragmentation`` asks, when it must."""
    if catalogue is None:
        raise FactMissingError("The catalogue is missing.")
    names = [one["name"] for one in catalogue if one["type"] == "collection" and not one["name"].startswith("system.")]
    sums: dict[str, Document] = {}
    db = target.db.with_options(read_preference=ANYBODY)
    for name, one in together(db, [(name, [{"$collStats": {"count": {}}}]) for name in names]):
        sums.setdefault(name, {"count": 0})["count"] += one["count"]
    return sums


def _disk(admin: Document, target: Target) -> Document:
    """Return the file system, which a database that is not there yet does not show, and the free space in the database's files."""
    own = target.db.command("dbStats", freeStorage=1, read_preference=ANYBODY)
    names = ("fsUsedSize", "fsTotalSize")
    return {**{name: admin[name] for name in names if name in admin}, "freeStorageSize": own.get("freeStorageSize", 0)}


def _oplog(target: Target) -> Document:
    oplog = _database(target, "local")["oplog.rs"]
    ends = [next(iter(oplog.find({}, {"ts": 1}).sort("$natural", way).limit(1))) for way in (1, -1)]
    stages: list[Mapping[str, Any]] = [
        {"$collStats": {"storageStats": {}}},
        {"$project": {"size": "$storageStats.size", "most": "$storageStats.maxSize"}},
    ]
    size = next(iter(oplog.aggregate(stages)))
    return {
        "first": ends[0]["ts"].as_datetime(),
        "last": ends[1]["ts"].as_datetime(),
        "size": size["size"],
        "most": size["most"],
    }


def _operations(target: Target) -> list[Document]:
    found = _database(target, "admin").aggregate([{"$currentOp": {"allUsers": True, "idleSessions": True}}])
    return [_operation(one) for one in found if "client" in one or "client_s" in one]


def _operation(one: Mapping[str, Any]) -> Document:
    """Keep what says how long and where; a command may hold values of documents."""
    command = one.get("command", {})
    return {
        "opid": one.get("opid"),
        "active": bool(one.get("active")),
        "seconds": one.get("secs_running", 0),
        "op": one.get("op", one.get("type", "")),
        "command": next(iter(command), ""),
        "waits": bool(one.get("cursor", {}).get("tailable")) or "hello" in command or "isMaster" in command,
        "ns": one.get("ns", ""),
        "transaction_seconds": one.get("transaction", {}).get("timeOpenMicros", 0) / 1e6,
    }


def _users(users: Iterable[Mapping[str, Any]]) -> list[Document]:
    return [
        {"name": f"{one['db']}.{one['user']}", "roles": [role["role"] for role in one.get("roles", ())]}
        for one in users
    ]
