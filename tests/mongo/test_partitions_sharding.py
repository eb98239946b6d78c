"""Sharding as far as a real mongod goes: the facts, the verdict on indexes against the server's own, and the refusal."""

from __future__ import annotations

import json

import pytest
from pymongo import IndexModel
from pymongo.errors import OperationFailure
from tests.mongo.partition_runner import Partitions

from mongo_ops.partitions.errors import RefusedError
from mongo_ops.partitions.model import PartitionRequest, Strategy, Zone
from mongo_ops.partitions.sharding import ClusterFacts, steps
from mongo_ops.partitions.shardkey import ShardKey, supports

SHARDING = Strategy.SHARDING
NO_CONFIG_SERVER, FIELD_MISSING = 20, 40414
INDEXES = [
    IndexModel([("a", 1)], name="a"),
    IndexModel([("a", -1)], name="a_down"),
    IndexModel([("a", 1), ("b", 1)], name="ab"),
    IndexModel([("b", 1), ("a", 1)], name="ba"),
    IndexModel([("a", "hashed")], name="a_hashed"),
    IndexModel([("a", 1), ("b", "hashed")], name="a_b_hashed"),
    IndexModel([("a", 1)], name="a_sparse", sparse=True),
    IndexModel([("a", 1)], name="a_partial", partialFilterExpression={"a": {"$gt": 1}}),
    IndexModel([("a", 1)], name="a_german", collation={"locale": "de"}),
    IndexModel([("a", "text")], name="a_text"),
    IndexModel([("a", 1)], name="a_hidden", hidden=True),
]


@pytest.fixture
def partitions(target, tmp_path):
    return Partitions(target, (tmp_path / "archive").as_uri())


def test_the_verdict_on_an_index_is_the_servers_own(partitions):
    verdicts = {}
    for index in INDEXES:
        name = index.document["name"]
        partitions.db[name].create_indexes([index])
        (ours,) = [one for one in partitions.db[name].list_indexes() if one["name"] != "_id_"]
        for text in ("a", "a, b", "a:hashed", "a, b:hashed"):
            key = ShardKey.parse(text)
            verdicts[name, text] = (supports(ours, key), checked(partitions.db, name, key))

    assert [case for case, (ours, servers) in verdicts.items() if ours is not servers] == []
    assert {case for case, (ours, _) in verdicts.items() if ours} == {
        ("a", "a"), ("ab", "a"), ("ab", "a, b"), ("a_b_hashed", "a"), ("a_b_hashed", "a, b:hashed"), ("a_hashed", "a:hashed"),
    }  # fmt: skip


def checked(db, name, key):
    try:
        return bool(db.command({"checkShardingIndex": f"{db.name}.{name}", "keyPattern": key.pattern})["ok"])
    except OperationFailure:
        return False


def test_the_picture_shows_how_often_values_come_and_never_which(partitions):
    people = [f"person{i}@example.org" for i in range(20)]
    partitions.db.events.insert_many([{"who": people[min(i % 40, 19)], "n": i} for i in range(400)])

    plan = partitions.plan(SHARDING, key="who")

    assert plan.pictures[0].bars[0] == ("1. value", 210)
    assert plan.pictures[0].bars[-1] == ("other 10", 100)
    assert "example.org" not in json.dumps(plan.as_value())
    assert any("Only 20 different values in all 400 documents" in note for note in plan.notes)
    assert any("One value has 52.5 % of the documents" in note for note in plan.notes)


def test_what_a_cluster_could_not_enforce_is_refused_beside_the_missing_cluster(partitions):
    partitions.db.events.create_index("email", unique=True)
    partitions.db.events.insert_many([{"who": [1, 2], "email": "a"}, {"who": 3, "email": "b"}])

    plan = partitions.plan(SHARDING, key="who:hashed")

    assert len(plan.blockers) == 3
    assert plan.blockers[0].startswith("This deployment is a replica set. Sharding needs a sharded cluster")
    assert plan.blockers[1].startswith("1 documents have an array at a field of the key")
    assert "unique indexes email_1" in plan.blockers[2]
    with pytest.raises(RefusedError, match="replica set"):
        partitions.carry_out(plan)


def test_commands_are_shown_although_they_may_not_be_sent(partitions):
    partitions.db.create_collection("events", collation={"locale": "de"})

    plan = partitions.plan(SHARDING, key="who", balancer_window="23:00-06:00")

    name = partitions.db.name
    assert [one.data["command"] for one in plan.steps] == [
        {
            "createIndexes": "events",
            "indexes": [{"key": {"who": 1}, "name": "who_1_shard_key", "collation": {"locale": "simple"}}],
            "writeConcern": {"w": "majority"},
        },
        {"shardCollection": f"{name}.events", "key": {"who": 1}, "unique": False, "collation": {"locale": "simple"}},
        {
            "update": "settings",
            "updates": [{
                "q": {"_id": "balancer"}, "u": {"$set": {"activeWindow": {"start": "23:00", "stop": "06:00"}}}, "upsert": True,
            }],
            "writeConcern": {"w": "majority"},
        },
    ]  # fmt: skip
    partitions.db.command(plan.steps[0].data["command"])  # the only one of them that a replica set knows, too
    assert "who_1_shard_key" in partitions.db.events.index_information()


def test_a_time_series_is_refused_with_the_way_that_is_safe(partitions):
    partitions.db.create_collection("events", validator={"n": {"$type": "int"}})
    partitions.db.events.create_index("n", unique=True)
    partitions.db.events.insert_one({"n": 1})

    plan = partitions.plan(Strategy.TIME_SERIES, meta_field="sensor")

    assert [sentence.split(":")[0].split(",")[0] for sentence in plan.blockers][:3] == [
        "A time series has no unique index",
        "A time series has no validator.",
        "1 documents have no single date at at",
    ]
    assert "mongo-ops import" in plan.blockers[-1]
    assert '"metaField": "sensor"' in plan.blockers[-1]
    with pytest.raises(RefusedError):
        partitions.carry_out(plan)


def test_the_server_parses_our_resharding_and_misses_what_is_left_out(partitions):
    """A replica set knows the config server's half of the command: it parses it, and only then says that it is no config server."""
    zone = Zone.of({"name": "EU", "shards": ["s1"], "lower": {"country": "AT"}, "upper": {"country": "AU"}})
    request = PartitionRequest(collection="events", strategy=SHARDING, key="country, n:hashed", zones=(zone,))
    facts = ClusterFacts(sharded=True, version=(6, 0, 5), shards=("s1", "s2"), current={"n": 1})
    command = next(one for one in steps(request, facts, partitions.db.name) if one.subject == "reshardCollection").data[
        "command"
    ]
    rest = {name: value for name, value in command.items() if name != "reshardCollection"}
    inner = {"_configsvrReshardCollection": command["reshardCollection"], **rest, "writeConcern": {"w": "majority"}}

    assert _code(partitions, inner) == NO_CONFIG_SERVER
    assert _code(partitions, {name: value for name, value in inner.items() if name != "key"}) == FIELD_MISSING
    assert _code(partitions, {**inner, "zones": [{"zone": "EU", "min": {"country": "AT"}}]}) == FIELD_MISSING


def _code(partitions, command):
    with pytest.raises(OperationFailure) as caught:
        partitions.db.client.admin.command(command)
    return caught.value.code
