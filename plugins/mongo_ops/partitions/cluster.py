"""Look at a deployment before sharding, and send the plan's commands. Each command is looked up first: what is done is not done twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandStartedEvent

from mongo_ops.mongo.guard import ReadOnlyGuard
from mongo_ops.partitions import spread
from mongo_ops.partitions.model import PartitionPlan, PartitionRequest, PartitionStep
from mongo_ops.partitions.sharding import ClusterFacts
from mongo_ops.partitions.shardkey import ShardKey
from mongo_ops.storage import ejson

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.work import Work

ANALYZE = "analyzeShardKey"
SAMPLE = 100_000


class PlanGuard(ReadOnlyGuard):
    """Lets pass what reads, and ``analyzeShardKey`` as long as it only looks at the key (its other half writes split points)."""

    def started(self, event: CommandStartedEvent) -> None:
        """Refuse a command that could write."""
        if event.command_name != ANALYZE or event.command.get("readWriteDistribution") is not False:
            super().started(event)


def look(work: Work, request: PartitionRequest) -> ClusterFacts:
    """Look at the deployment and the collection. Reads only."""
    db, admin = work.db, work.db.client.admin
    key = ShardKey.parse(request.key)
    hello = admin.command("hello")
    sharded = hello.get("msg") == "isdbgrid"
    info = next(iter(db.list_collections(filter={"name": request.collection})), None)
    options = (info or {}).get("options", {})
    kind = None if info is None else ("capped" if options.get("capped") else str(info["type"]))
    plain = kind == "collection"
    return ClusterFacts(
        sharded=sharded,
        version=tuple(admin.command("buildInfo")["versionArray"][:3]),
        shards=tuple(str(one["_id"]) for one in db.client.config.shards.find({}, {"_id": 1})) if sharded else (),
        current=current_key(db, request.collection) if sharded else None,
        kind=kind,
        collation=options.get("collation"),
        indexes=tuple(dict(index) for index in db[request.collection].list_indexes()) if plain else (),
        spread=spread.of_key(db, request.collection, key.paths) if plain else None,
        analysis=_analysis(db, request.collection, key) if plain else (),
    )


def current_key(db: Database[Document], collection: str) -> Mapping[str, Any] | None:
    """Return by what a collection is sharded, or None."""
    found = db.client.config.collections.find_one({"_id": f"{db.name}.{collection}", "dropped": {"$ne": True}})
    return found["key"] if found is not None else None


def send(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Send one command of the plan, unless it has had its effect. Return {commands}."""
    collection = plan.request.collection
    command = ejson.rich(step.data["command"])
    if _had_effect(work, plan, step):
        return {"commands": 0}
    lease.check()
    with lease.renewing():
        work.db.client[step.data["database"]].command(command)
    number = plan.steps.index(step)
    facts = {"collection": collection, "command": step.subject}
    work.note(
        lease, f"{collection}/command/{work.occasion.run_id}/{number}", "commanded", facts, plan_digest=plan.digest
    )
    return {"commands": 1}


def _had_effect(work: Work, plan: PartitionPlan, step: PartitionStep) -> bool:
    """Whether the collection is sharded as a command wants it. The other commands may be sent again: they then change nothing."""
    if step.subject not in ("shardCollection", "reshardCollection"):
        return False
    return ShardKey.parse(plan.request.key).is_(current_key(work.db, plan.request.collection))


def _analysis(db: Database[Document], collection: str, key: ShardKey) -> tuple[str, ...]:
    """Return what ``analyzeShardKey`` says, where the server has it (7.0). Its most common values are not shown, only their share."""
    if ANALYZE not in db.client.admin.command("listCommands")["commands"]:
        return ()
    command = {
        ANALYZE: f"{db.name}.{collection}",
        "key": key.pattern,
        "keyCharacteristics": True,
        "readWriteDistribution": False,
    }
    try:
        found = db.client.admin.command({**command, "sampleSize": SAMPLE})
    except OperationFailure as error:  # an empty collection, or no right to
        return (f"The server did not analyze the key (code {error.code}).",)
    told = found.get("keyCharacteristics", {})
    growth = told.get("monotonicity", {}).get("type", "unknown")
    unique = "unique" if told.get("isUnique") else "not unique"
    values, sampled = told.get("numDistinctValues", 0), told.get("numDocsSampled", 0)
    return (f"analyzeShardKey: {values:,} values in {sampled:,} sampled documents, {unique}, {growth}.",)
