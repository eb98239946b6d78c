"""Shard keys and the commands for a cluster: shapes as documented, order, and what speaks against a key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mongo_ops.partitions import sharding
from mongo_ops.partitions.errors import RequestError
from mongo_ops.partitions.model import PartitionRequest, Strategy, Zone
from mongo_ops.partitions.sharding import ClusterFacts
from mongo_ops.partitions.shardkey import ShardKey, against, picture, unique_against, zone_faults
from mongo_ops.partitions.spread import KeySpread

ZONE = Zone.of({"name": "EU", "shards": ["s1", "s2"], "lower": {"country": "AT"}, "upper": {"country": "AU"}})
REQUEST = PartitionRequest(collection="events", strategy=Strategy.SHARDING, key="country, user:hashed")
CLUSTER = ClusterFacts(sharded=True, version=(6, 0, 5), shards=("s1", "s2"), kind="collection")
EVEN = KeySpread(
    count=9_000, sampled=9_000, distinct=4_000, frequent=(3, 3), missing=0, types={"string": 9_000}, arrays=0
)


def commands(request, facts):
    return [one.data["command"] for one in sharding.steps(request, facts, "d")]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("a", {"a": 1}),
        (" a.b : 1 , c:hashed", {"a.b": 1, "c": "hashed"}),
        ("_id:hashed", {"_id": "hashed"}),
    ],
)
def test_a_key_is_read(text, pattern):
    assert ShardKey.parse(text).pattern == pattern
    assert list(ShardKey.parse(text).pattern) == list(pattern)


@pytest.mark.parametrize("text", ["", "a,", "a:-1", "a b", "$a", "a,a", "a:hashed,b:hashed"])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(RequestError):
        ShardKey.parse(text)


def test_a_new_collection_is_sharded_with_its_index_first():
    assert commands(REQUEST, CLUSTER) == [
        {
            "createIndexes": "events",
            "indexes": [{"key": {"country": 1, "user": "hashed"}, "name": "country_1_user_hashed"}],
            "writeConcern": {"w": "majority"},
        },
        {"shardCollection": "d.events", "key": {"country": 1, "user": "hashed"}, "unique": False},
    ]


def test_an_index_that_is_there_is_not_built_and_an_old_server_wants_sharding_allowed():
    facts = replace(
        CLUSTER, version=(5, 0, 1), indexes=({"name": "i", "key": {"country": 1.0, "user": "hashed", "n": 1}},)
    )

    assert [next(iter(one)) for one in commands(REQUEST, facts)] == ["enableSharding", "shardCollection"]


def test_zones_come_before_the_sharding_so_that_chunks_are_made_in_their_place():
    assert commands(replace(REQUEST, zones=(ZONE,)), CLUSTER)[:3] == [
        {"addShardToZone": "s1", "zone": "EU"},
        {"addShardToZone": "s2", "zone": "EU"},
        {"updateZoneKeyRange": "d.events", "min": {"country": "AT"}, "max": {"country": "AU"}, "zone": "EU"},
    ]


def test_a_new_key_reshards_and_takes_its_zones_along():
    found = commands(replace(REQUEST, zones=(ZONE,)), replace(CLUSTER, current={"country": 1}))

    assert [next(iter(one)) for one in found] == [
        "addShardToZone",
        "addShardToZone",
        "createIndexes",
        "reshardCollection",
    ]
    assert found[-1] == {
        "reshardCollection": "d.events",
        "key": {"country": 1, "user": "hashed"},
        "zones": [{"min": {"country": "AT"}, "max": {"country": "AU"}, "zone": "EU"}],
    }


def test_the_same_key_needs_nothing():
    facts = replace(CLUSTER, current={"country": 1.0, "user": "hashed"})

    assert commands(REQUEST, facts) == []
    assert list(sharding.blockers(REQUEST, facts)) == []
    assert "sharded by this key already" in " ".join(sharding.notes(REQUEST, facts))


def test_a_replica_set_is_told_what_is_needed():
    (sentence,) = sharding.blockers(REQUEST, ClusterFacts(sharded=False, version=(6, 0, 5)))

    assert (
        "config servers, at least two shards (each a replica set), and a connection that leads to its mongos"
        in sentence
    )


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (replace(CLUSTER, kind="timeseries"), "is a timeseries"),
        (replace(CLUSTER, spread=replace(EVEN, arrays=3)), "3 documents have an array"),
        (replace(CLUSTER, indexes=({"name": "mail", "key": {"mail": 1}, "unique": True},)), "unique indexes mail"),
        (replace(CLUSTER, current={"n": 1}, version=(4, 4, 0)), "resharding needs MongoDB 5.0 (this is 4.4)"),
    ],
)
def test_what_cannot_be_sharded_is_refused(facts, word):
    (sentence,) = sharding.blockers(REQUEST, facts)
    assert word in sentence


def test_a_unique_index_that_begins_with_the_key_is_fine_unless_the_key_is_hashed():
    index = {"name": "u", "key": {"country": 1, "user": 1}, "unique": True}

    assert unique_against([index], ShardKey.parse("country")) == ()
    assert unique_against([index], ShardKey.parse("country, user:hashed")) == ("u",)
    assert unique_against([{"name": "_id_", "key": {"_id": 1}, "unique": True}], ShardKey.parse("country")) == ()


@pytest.mark.parametrize(
    ("spread", "key", "words"),
    [
        (EVEN, "user", ()),
        (replace(EVEN, distinct=7), "user", ("Only 7 different values",)),
        (replace(EVEN, frequent=(900, 1)), "user", ("One value has 10.0 %",)),
        (replace(EVEN, types={"date": 9_000}), "user", ("grows with time",)),
        (replace(EVEN, types={"date": 9_000}), "user:hashed", ()),
        (replace(EVEN, types={"objectId": 9_000}), "_id", ("grows with time",)),
        (replace(EVEN, missing=5), "user", ("5 of 9,000 documents have no value",)),
    ],
)
def test_what_speaks_against_a_key_is_said_before_anybody_decides(spread, key, words):
    told = [one for one in against(spread, ShardKey.parse(key)) if not one.startswith("_id is not part")]

    assert len(told) == len(words)
    assert all(word in sentence for word, sentence in zip(words, told, strict=True))


def test_zones_must_name_shards_and_fields_that_are_there():
    key = ShardKey.parse("country, user:hashed")
    odd = replace(ZONE, shards=("s9",), upper={"user": 1})

    assert list(zone_faults([ZONE], ["s1", "s2"], key)) == []
    assert [one.split(" names ")[0].split(" must ")[0] for one in zone_faults([odd], ["s1"], key)] == [
        "Zone EU",
        "The bounds of zone EU",
    ]
    with pytest.raises(RequestError):
        Zone.of({"name": "EU"})


def test_the_picture_has_ranks_and_the_rest():
    bars = picture(replace(EVEN, distinct=10, frequent=(100, 50)), "user").bars

    assert bars == (("1. value", 100), ("2. value", 50), ("other 8", 8_850))
