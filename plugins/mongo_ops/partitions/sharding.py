"""Plan sharding: facts of the deployment in, exact commands out, in the server's documented shapes. Pure.

Shapes: https://www.mongodb.com/docs/manual/reference/command/nav-sharding/ (shardCollection, reshardCollection, addShardToZone,
updateZoneKeyRange, analyzeShardKey) and /tutorial/manage-sharded-cluster-balancer/ (the window).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mongo_ops.partitions.model import PartitionRequest, PartitionStep, Phase
from mongo_ops.partitions.shardkey import ShardKey, against, supports, unique_against, zone_faults
from mongo_ops.partitions.spread import KeySpread

SIMPLE = {"locale": "simple"}
RESHARDING = (5, 0)
WITHOUT_ENABLING = (6, 0)
MAJORITY = {"w": "majority"}
NEEDED = (
    "This deployment is a replica set. Sharding needs a sharded cluster: config servers, at least two shards (each a replica set), and a "
    "connection that leads to its mongos routers. Nothing was done; docs/partitions.md says what else spreads the load."
)


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """What was seen of the deployment and the collection.

    Attributes:
        sharded: whether a mongos answered.
        version: of the server.
        shards: their names.
        current: the collection's shard key pattern; None when it is not sharded.
        kind, collation: of the collection; kind None when it is not there.
        indexes: as ``listIndexes`` shows them.
        spread: how often the key's values come.
        analysis: sentences from ``analyzeShardKey``, where the server has it.
    """

    sharded: bool
    version: tuple[int, ...]
    shards: tuple[str, ...] = ()
    current: Mapping[str, Any] | None = None
    kind: str | None = None
    collation: Mapping[str, Any] | None = None
    indexes: tuple[Mapping[str, Any], ...] = ()
    spread: KeySpread | None = None
    analysis: tuple[str, ...] = field(default=())


def blockers(request: PartitionRequest, facts: ClusterFacts) -> Iterator[str]:
    """Yield reasons for which the collection may not be sharded like that."""
    key = ShardKey.parse(request.key)
    if not facts.sharded:
        yield NEEDED
    if facts.kind not in (None, "collection"):
        yield f"{request.collection} is a {facts.kind}; this strategy shards ordinary collections."
    if facts.spread is not None and facts.spread.arrays:
        yield f"{facts.spread.arrays:,} documents have an array at a field of the key, which a shard key must not be."
    unique = unique_against(facts.indexes, key)
    if unique:
        yield (
            f"A cluster cannot enforce the unique indexes {', '.join(unique)}: they do not begin with the shard key. Choose a key that they "
            "begin with, or give their uniqueness up first."
        )
    if facts.sharded:
        yield from zone_faults(request.zones, facts.shards, key)
        if facts.current is not None and not key.is_(facts.current) and facts.version < RESHARDING:
            yield f"The collection is sharded by another key, and resharding needs MongoDB 5.0 (this is {_dotted(facts.version)})."


def notes(request: PartitionRequest, facts: ClusterFacts) -> Iterator[str]:
    """Yield what a person should know before deciding."""
    key = ShardKey.parse(request.key)
    if facts.spread is not None:
        yield from against(facts.spread, key)
    yield from facts.analysis
    if facts.current is not None and key.is_(facts.current):
        yield "The collection is sharded by this key already."
    elif facts.current is not None:
        yield "Resharding copies the collection: each shard needs free space for 1.2 times its part, and writes are refused for about two seconds."
    if facts.sharded and len(facts.shards) < 2:  # noqa: PLR2004
        yield "The cluster has one shard: nothing is spread until there is another one."


def steps(request: PartitionRequest, facts: ClusterFacts, database: str) -> tuple[PartitionStep, ...]:
    """Return the commands in their order. They are shown also where they may not be sent."""
    key, namespace = ShardKey.parse(request.key), f"{database}.{request.collection}"
    done = key.is_(facts.current)
    found = [*_zones(request, namespace, ranges=facts.current is None or done)]
    if not done:
        found += _enabling(facts, database)
        found += _index(request, facts, key, database)
        found.append(_reshard(request, key, namespace) if facts.current is not None else _shard(facts, key, namespace))
    found += _window(request)
    return tuple(found)


def _enabling(facts: ClusterFacts, database: str) -> Iterator[PartitionStep]:
    if facts.sharded and facts.version < WITHOUT_ENABLING:
        yield _step("admin", {"enableSharding": database}, f"allow sharding in {database}")


def _zones(request: PartitionRequest, namespace: str, *, ranges: bool) -> Iterator[PartitionStep]:
    for zone in request.zones:
        for shard in zone.shards:
            yield _step("admin", {"addShardToZone": shard, "zone": zone.name}, f"put {shard} into zone {zone.name}")
        if ranges:
            bounds = {"min": dict(zone.lower), "max": dict(zone.upper)}
            yield _step(
                "admin",
                {"updateZoneKeyRange": namespace, **bounds, "zone": zone.name},
                f"give zone {zone.name} its range",
            )


def _index(request: PartitionRequest, facts: ClusterFacts, key: ShardKey, database: str) -> Iterator[PartitionStep]:
    if any(supports(index, key) for index in facts.indexes):
        return
    name = "_".join(f"{field}_{way}" for field, way in key.fields)
    specification: dict[str, Any] = {"key": key.pattern, "name": f"{name}_shard_key" if facts.collation else name}
    if facts.collation:
        specification["collation"] = SIMPLE
    command = {"createIndexes": request.collection, "indexes": [specification], "writeConcern": MAJORITY}
    yield _step(database, command, "build the index that supports the key")


def _shard(facts: ClusterFacts, key: ShardKey, namespace: str) -> PartitionStep:
    collation = {"collation": SIMPLE} if facts.collation else {}
    return _step(
        "admin", {"shardCollection": namespace, "key": key.pattern, "unique": False, **collation}, f"shard {namespace}"
    )


def _reshard(request: PartitionRequest, key: ShardKey, namespace: str) -> PartitionStep:
    zones = [{"min": dict(one.lower), "max": dict(one.upper), "zone": one.name} for one in request.zones]
    more = {"zones": zones} if zones else {}
    return _step(
        "admin", {"reshardCollection": namespace, "key": key.pattern, **more}, f"shard {namespace} by the new key"
    )


def _window(request: PartitionRequest) -> Iterator[PartitionStep]:
    if request.balancer_window is None:
        return
    start, _, stop = request.balancer_window.partition("-")
    change = {"$set": {"activeWindow": {"start": start, "stop": stop}}}
    command = {
        "update": "settings",
        "updates": [{"q": {"_id": "balancer"}, "u": change, "upsert": True}],
        "writeConcern": MAJORITY,
    }
    yield _step("config", command, f"let the balancer move chunks only from {start} to {stop}")


def _step(database: str, command: Mapping[str, Any], sentence: str) -> PartitionStep:
    return PartitionStep(
        phase=Phase.COMMAND,
        subject=next(iter(command)),
        sentence=sentence,
        data={"database": database, "command": dict(command)},
    )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version[:2]))
