"""The write guard: whatever way a dry run tries to write, nothing leaves the process."""

from __future__ import annotations

import pytest
from pymongo import IndexModel, InsertOne, UpdateOne
from pymongo.errors import OperationFailure

from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.documents import set_digest
from mongo_ops.mongo.guard import READS, ReadOnlyGuard, WriteRefusedError
from mongo_ops.mongo.lease import Holder, acquire

OUT = [{"$out": "copy"}]
MERGE = [{"$match": {}}, {"$merge": {"into": "copy"}}]
WRITES = {
    "insert_one": lambda db: db.things.insert_one({}),
    "insert_many": lambda db: db.things.insert_many([{}]),
    "update_one": lambda db: db.things.update_one({}, {"$set": {"a": 2}}),
    "update_many": lambda db: db.things.update_many({}, [{"$set": {"a": 2}}]),
    "replace_one": lambda db: db.things.replace_one({}, {"a": 2}),
    "delete_one": lambda db: db.things.delete_one({}),
    "delete_many": lambda db: db.things.delete_many({}),
    "bulk_write": lambda db: db.things.bulk_write([InsertOne({}), UpdateOne({}, {"$set": {"a": 2}})]),
    "find_one_and_update": lambda db: db.things.find_one_and_update({}, {"$set": {"a": 2}}),
    "find_one_and_replace": lambda db: db.things.find_one_and_replace({}, {"a": 2}),
    "find_one_and_delete": lambda db: db.things.find_one_and_delete({}),
    "create_index": lambda db: db.things.create_index("a"),
    "create_indexes": lambda db: db.things.create_indexes([IndexModel("a")]),
    "drop_index": lambda db: db.things.drop_index("b_1"),
    "drop_indexes": lambda db: db.things.drop_indexes(),
    "drop": lambda db: db.things.drop(),
    "rename": lambda db: db.things.rename("others"),
    "create_collection": lambda db: db.create_collection("others"),
    "drop_collection": lambda db: db.drop_collection("things"),
    "drop_database": lambda db: db.client.drop_database(db.name),
    "$out": lambda db: list(db.things.aggregate(OUT)),
    "$merge": lambda db: list(db.things.aggregate(MERGE)),
    "$merge of a database": lambda db: list(db.aggregate([{"$documents": [{}]}, {"$merge": "copy"}])),
    "command insert": lambda db: db.command({"insert": "things", "documents": [{}]}),
    "command $out": lambda db: db.command({"aggregate": "things", "pipeline": OUT, "cursor": {}}),
    "command explain $out": lambda db: db.command({"explain": {"aggregate": "things", "pipeline": OUT, "cursor": {}}}),
    "command collMod": lambda db: db.command({"collMod": "things", "validator": {}}),
    "command create": lambda db: db.command("create", "others"),
    "command mapReduce": lambda db: db.command({"mapReduce": "things", "map": "1", "reduce": "1", "out": "copy"}),
    "command createUser": lambda db: db.command("createUser", "eve", pwd="x", roles=[]),
    "command setParameter": lambda db: db.client.admin.command({"setParameter": 1, "logLevel": 0}),
    "command fsync": lambda db: db.client.admin.command({"fsync": 1, "lock": True}),
    "command shutdown": lambda db: db.client.admin.command("shutdown"),
    "a collection from a cursor": lambda db: db.things.find().collection.insert_one({}),
    "a database from a collection": lambda db: db.things.database.others.insert_one({}),
    "another database": lambda db: db.client["elsewhere"].things.insert_one({}),
    "other options": lambda db: db.things.with_options().insert_one({}),
    "a session": lambda db: db.client.start_session().with_transaction(lambda s: db.things.insert_one({}, session=s)),
    "unacknowledged": lambda db: db.get_collection("things", write_concern=__import__("pymongo").WriteConcern(0)).insert_one({}),
    "a lease": lambda db: acquire(db, "work", Holder("dry run")),
}  # fmt: skip
READS_TRIED = {
    "find": lambda db: [d["a"] for d in db.things.find()] == list(range(250)),
    "many batches": lambda db: len(list(db.things.find().batch_size(10))) == 250,
    "aggregate": lambda db: next(db.things.aggregate([{"$count": "n"}]))["n"] == 250,
    "count": lambda db: db.things.count_documents({}) == db.things.estimated_document_count() == 250,
    "distinct": lambda db: len(db.things.distinct("a")) == 250,
    "indexes": lambda db: set(db.things.index_information()) == {"_id_", "b_1"},
    "collections": lambda db: db.list_collection_names() == ["things"],
    "explain": lambda db: "queryPlanner" in db.things.find({"a": 1}).explain(),
    "explain a write": lambda db: "queryPlanner" in db.command({"explain": {"delete": "things", "deletes": [{"q": {}, "limit": 0}]}}),
    "stats": lambda db: db.command("collStats", "things")["count"] == 250,
}  # fmt: skip


@pytest.fixture
def read_only(replica_set, target, db):
    db.things.insert_many([{"_id": i, "a": i} for i in range(250)])
    db.things.create_index("b")
    spec = ConnectionSpec("c", replica_set.uri, "h")
    with connect(spec, target.environment, listeners=(ReadOnlyGuard(),)) as guarded:
        yield guarded.db


def traces(db):
    """What the server wrote since: the oplog's end, heartbeats left out, and the documents."""
    oplog = db.client["local"]["oplog.rs"]
    newest = next(oplog.find({"op": {"$ne": "n"}}).sort("$natural", -1).limit(1))
    return newest["ts"], set_digest(db.things.find()), sorted(db.list_collection_names())


def test_every_way_to_write_is_refused_before_it_is_sent(read_only, db):
    before = traces(db)

    for name, write in WRITES.items():
        try:
            write(read_only)
        except WriteRefusedError as refused:
            assert "a dry run only reads" in str(refused), name
        else:
            raise AssertionError(f"{name} was not refused")

    assert traces(db) == before
    assert "elsewhere" not in db.client.list_database_names()
    for name, read in READS_TRIED.items():  # the client is still good for reading
        assert read(read_only), name


def test_a_refusal_cannot_be_swallowed_by_the_code_it_meets(read_only):
    with pytest.raises(WriteRefusedError) as caught:
        try:
            read_only.things.insert_one({})
        except Exception:  # noqa: BLE001 - what a careless migration might write
            pytest.fail("caught")
    assert (caught.value.command, caught.value.collection) == ("insert", "things")


def test_a_command_of_an_unknown_name_is_refused(read_only):
    for name in ("findAndModify", "findandmodify", "Find", "applyOps", "nothingLikeThis"):
        assert name not in READS
        with pytest.raises((WriteRefusedError, OperationFailure)):
            read_only.command({name: "things"})
