"""Sharding on a real cluster, for whoever has one: set MONGO_OPS_SHARDED_URI to its mongos. Without it there is no test here."""

from __future__ import annotations

import os
import uuid

import pytest
from tests.mongo.partition_runner import Partitions

from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.partitions.cluster import current_key
from mongo_ops.partitions.model import Strategy, Zone
from mongo_ops.settings import Environment

CLUSTER = os.environ.get("MONGO_OPS_SHARDED_URI")

if CLUSTER:

    @pytest.fixture
    def cluster(tmp_path):
        name = f"test_{uuid.uuid4().hex[:12]}"
        spec = ConnectionSpec("cluster", CLUSTER, "the cluster", name)
        with connect(spec, Environment("development", "cluster", database=name)) as target:
            yield Partitions(target, (tmp_path / "archive").as_uri())
            target.client.drop_database(name)

    def test_a_collection_is_sharded_and_a_second_run_sends_nothing(cluster):
        cluster.db.events.insert_many([{"country": f"c{i % 50}", "n": i} for i in range(2_000)])
        before = cluster.content("events")

        done = cluster.run(Strategy.SHARDING, key="country, _id:hashed")

        assert done["command"]["commands"] >= 2
        assert dict(current_key(cluster.db, "events")) == {"country": 1, "_id": "hashed"}
        assert cluster.content("events") == before
        assert cluster.plan(Strategy.SHARDING, run="run 2", key="country, _id:hashed").steps == ()

    def test_a_new_key_reshards_without_losing_a_document(cluster):
        cluster.db.events.insert_many([{"country": f"c{i % 50}", "user": i} for i in range(2_000)])
        cluster.run(Strategy.SHARDING, key="country")
        before = cluster.content("events")

        cluster.run(Strategy.SHARDING, run="run 2", key="user:hashed")

        assert dict(current_key(cluster.db, "events")) == {"user": "hashed"}
        assert cluster.content("events") == before

    def test_a_zone_gets_its_range(cluster):
        (shard, *_) = cluster.db.client.config.shards.find()
        cluster.db.create_collection("events")
        zone = {
            "name": f"z{uuid.uuid4().hex[:6]}",
            "shards": [shard["_id"]],
            "lower": {"country": "a"},
            "upper": {"country": "b"},
        }

        cluster.carry_out(cluster.plan(Strategy.SHARDING, key="country", zones=(Zone.of(zone),)))

        (tag,) = cluster.db.client.config.tags.find({"ns": f"{cluster.db.name}.events"})
        assert (tag["min"], tag["max"], tag["tag"]) == ({"country": "a"}, {"country": "b"}, zone["name"])
