"""Snapshots on a real server: what is kept, that it is checked, and that it comes back, also after kill -9."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tracemalloc
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from mongo_ops import storage
from mongo_ops.mongo.documents import digest, set_digest
from mongo_ops.mongo.lease import Holder, LeaseLostError, acquire, unlock
from mongo_ops.storage import bsonfile, load, manifest, recreate

RAW = CodecOptions(document_class=RawBSONDocument)
EVERY_TYPE = [
    {"_id": 1, "name": "double", "v": 1.5},
    {"_id": 2.5, "v": Int64(2)},
    {"_id": "text", "v": "x", "a": [1, {"b": None}]},
    {"_id": ObjectId("6" * 24), "v": datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)},
    {"_id": uuid.UUID(int=7), "v": Binary(b"\x00\x01", 3 + 125)},
    {"_id": {"k": 1, "j": 2}, "v": Decimal128("1.10")},
    {"_id": None, "v": Regex("^a", "i")},
    {"_id": True, "v": Timestamp(5, 6)},
    {"_id": MinKey(), "v": Code("x", {"y": 1})},
    {"_id": MaxKey(), "v": float("nan"), "w": float("-inf")},
    {"_id": datetime(2026, 1, 1, tzinfo=UTC), "v": {"a.b": {"$c": 1}}},
]


@pytest.fixture
def folder(tmp_path):
    return storage.open_folder((tmp_path / "store").as_uri())


@pytest.fixture
def tracks(db):
    """3 000 documents, about 1 MB."""
    db.tracks.insert_many([{"_id": n, "title": f"title {n}", "plays": n % 7, "pad": "x" * 300} for n in range(3000)])
    return db.tracks


def raw(collection):
    return [one.raw for one in collection.with_options(codec_options=RAW).find().sort("_id", 1)]


def content(collection):
    return set_digest(collection.find())


# ---------------------------------------------------------------------------------------------------------------- take


def test_a_snapshot_is_mongodump_bson_and_a_manifest(db, tracks, folder):
    taken = storage.take(db, "tracks", folder, name="run/001", run_id="manual__1", migration="001")

    place = Path(folder.path) / "run" / "001"
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "tracks.bson"]
    assert (place / "tracks.bson").read_bytes() == b"".join(raw(tracks))
    assert (taken.count, taken.content_digest) == content(tracks)
    assert taken.bytes == (place / "tracks.bson").stat().st_size
    assert (taken.database, taken.collection, taken.kind) == (db.name, "tracks", "collection")
    assert (taken.run_id, taken.migration, taken.where_digest) == ("manual__1", "001", digest({}))
    assert abs(taken.created_at - datetime.now(UTC)) < timedelta(seconds=30)
    assert storage.verify(folder / "run" / "001") == taken
    assert json.loads((place / "manifest.json").read_text())["version"] == 1


def test_only_matching_documents_are_taken_and_their_values_stay_out_of_the_manifest(db, tracks, folder):
    taken = storage.take(db, "tracks", folder, name="s", where={"title": "title 41"})

    assert taken.count == 1
    assert "title 41" not in (Path(folder.path) / "s" / "manifest.json").read_text()


def test_an_empty_collection_comes_back_empty(db, folder):
    db.create_collection("empty", validator={"n": {"$type": "int"}})
    assert storage.take(db, "empty", folder, name="s").count == 0
    db.empty.drop()

    assert storage.restore(db, folder / "s") == storage.Restored("empty", created=True)

    (info,) = db.list_collections(filter={"name": "empty"})
    assert info["options"]["validator"] == {"n": {"$type": "int"}}


def test_a_missing_collection_stays_missing(db, folder):
    taken = storage.take(db, "nothing", folder, name="s")
    assert (taken.kind, taken.count, taken.bytes) == ("missing", 0, 0)
    assert storage.restore(db, folder / "s") == storage.Restored("nothing")
    assert "nothing" not in db.list_collection_names()


def test_a_finished_snapshot_is_not_overwritten(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    before = (Path(folder.path) / "s" / "tracks.bson").read_bytes()
    tracks.delete_many({})
    with pytest.raises(storage.AlreadyWrittenError):
        storage.take(db, "tracks", folder, name="s")
    assert (Path(folder.path) / "s" / "tracks.bson").read_bytes() == before


def test_a_finished_snapshot_is_reused_after_checking_it(db, tracks, folder):
    first = storage.take(db, "tracks", folder, name="s")
    tracks.delete_many({})
    assert storage.take(db, "tracks", folder, name="s", reuse=True) == first

    with (Path(folder.path) / "s" / "tracks.bson").open("r+b") as file:
        file.seek(1000)
        file.write(b"?")
    with pytest.raises(storage.SnapshotCorruptError):
        storage.take(db, "tracks", folder, name="s", reuse=True)


@pytest.mark.parametrize("other", [{"where": {"plays": 1}}, {"projection": {"plays": 1}}])
def test_a_snapshot_of_another_question_is_not_reused(db, tracks, folder, other):
    storage.take(db, "tracks", folder, name="s")
    with pytest.raises(storage.SnapshotDiffersError):
        storage.take(db, "tracks", folder, name="s", reuse=True, **other)


def test_an_unfinished_snapshot_is_taken_again(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    place = Path(folder.path) / "s"
    (place / "manifest.json").unlink()
    (place / "tracks.bson").write_bytes(b"half")
    with pytest.raises(storage.SnapshotMissingError):
        storage.verify(folder / "s")

    assert storage.take(db, "tracks", folder, name="s", reuse=True).count == 3000


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc", "a//b", "a b", "a\\b", "a/", "ä\n"])
def test_a_name_that_is_no_path_is_refused(db, folder, name):
    with pytest.raises(storage.SnapshotNameError):
        storage.take(db, "tracks", folder, name=name)


def test_a_run_id_of_airflow_is_a_name(db, folder):
    assert storage.take(db, "x", folder, name="scheduled__2026-01-01T00:00:00+00:00/007_a").kind == "missing"


def test_a_collection_may_be_called_like_a_path(db, folder):
    name = "/evil/name"
    db[name].insert_one({"_id": 1})
    assert storage.take(db, name, folder, name="s").file == "%2Fevil%2Fname.bson"
    db[name].drop()
    assert storage.restore(db, folder / "s").inserted == 1


@pytest.mark.chaos
def test_taking_and_restoring_need_no_more_memory_for_more_documents(db, folder):
    db.big.insert_many([{"_id": n, "pad": "x" * 20_000} for n in range(4000)])  # 80 MB
    tracemalloc.start()
    storage.take(db, "big", folder, name="s")
    db.big.drop()
    storage.restore(db, folder / "s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert db.big.count_documents({}) == 4000
    assert peak < 45_000_000  # the driver's copies of a batch of 5 MB


# ------------------------------------------------------------------------------------------------------------- corrupt


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: data.index(b"title 7")],
        lambda data: data + data[-100:],
        lambda data: b"\xff\xff\xff\x7f" + data[4:],
        lambda data: b"\x00\x00\x00\x00" + data[4:],
        lambda data: data.replace(b"title 7", b"title 8", 1),
        lambda data: b"",
        None,
    ],
    ids=["last byte", "half", "more", "huge length", "no length", "edited", "emptied", "gone"],
)
def test_a_damaged_file_is_refused_before_anything_is_written(db, tracks, folder, damage):
    storage.take(db, "tracks", folder, name="s")
    tracks.drop()
    path = Path(folder.path) / "s" / "tracks.bson"
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(storage.SnapshotCorruptError, match=r"tracks\.bson") as seen:
        storage.restore(db, folder / "s")

    assert "title" not in str(seen.value)
    assert db.list_collection_names() == []


def test_documents_in_another_order_are_the_same_content_but_another_file(db, tracks, folder):
    taken = storage.take(db, "tracks", folder, name="s")
    path = Path(folder.path) / "s" / "tracks.bson"
    path.write_bytes(b"".join(reversed(raw(tracks))))
    with storage.reading(folder / "s" / "tracks.bson") as source:
        assert set_digest(map(bsonfile.decoded, bsonfile.documents(source)))[1] == taken.content_digest
    with pytest.raises(storage.SnapshotCorruptError):
        storage.verify(folder / "s")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"tracks"', '"users"', 1),
        lambda text: text.replace('"count": 3000', '"count": 2999'),
    ],
    ids=["half", "empty", "array", "version", "collection", "count"],
)
def test_a_damaged_manifest_is_refused(db, tracks, folder, change):
    storage.take(db, "tracks", folder, name="s")
    path = Path(folder.path) / "s" / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(storage.SnapshotCorruptError, match="manifest"):
        storage.restore(db, folder / "s", into="copy")
    assert "copy" not in db.list_collection_names()


# ------------------------------------------------------------------------------------------------------------- restore


@pytest.mark.parametrize("leased", [False, True])
def test_every_bson_type_comes_back_byte_by_byte(db, folder, leased):
    db.types.insert_many(EVERY_TYPE)
    before = raw(db.types)
    storage.take(db, "types", folder, name="s")
    db.types.drop()

    if leased:
        with acquire(db, "r", Holder("run 1")) as lease:
            done = storage.restore(db, folder / "s", lease=lease)
    else:
        done = storage.restore(db, folder / "s")

    assert (done.inserted, done.created) == (len(EVERY_TYPE), True)
    assert raw(db.types) == before
    again = storage.restore(db, folder / "s")
    assert (again.inserted, again.unchanged, again.created) == (0, len(EVERY_TYPE), False)


def test_options_validator_and_indexes_come_back(db, folder):
    schema = {"$jsonSchema": {"bsonType": "object", "properties": {"plays": {"bsonType": "int", "minimum": 0}}}}
    db.create_collection(
        "tracks",
        validator=schema,
        validationLevel="moderate",
        collation={"locale": "de", "strength": 1},
        changeStreamPreAndPostImages={"enabled": True},
    )
    db.tracks.create_index(
        [("plays", -1), ("title", 1)], name="by_plays", unique=True, partialFilterExpression={"plays": {"$gt": 5}}
    )
    db.tracks.create_index([("at", 1)], expireAfterSeconds=3600)
    db.tracks.create_index([("where", "2dsphere")], sparse=True)
    db.tracks.create_index([("user", "hashed")])
    db.tracks.create_index([("words", "text"), ("more", "text")], weights={"words": 5}, collation={"locale": "simple"})
    db.tracks.create_index([("all.$**", 1)], hidden=True)
    db.tracks.insert_one({"_id": 1, "plays": 9})
    before = (list(db.list_collections(filter={"name": "tracks"})), list(db.tracks.list_indexes()))
    storage.take(db, "tracks", folder, name="s")
    db.tracks.drop()

    storage.restore(db, folder / "s")

    after = (list(db.list_collections(filter={"name": "tracks"})), list(db.tracks.list_indexes()))
    assert after[0][0]["options"] == before[0][0]["options"]
    assert [list(dict(index).items()) for index in after[1]] == [list(dict(index).items()) for index in before[1]]
    assert [list(index["key"].items()) for index in after[1]] == [list(index["key"].items()) for index in before[1]]
    assert len(after[1]) == 7
    assert db.list_collection_names() == ["tracks"]


def test_documents_that_the_validator_would_refuse_come_back(db, folder):
    db.tracks.insert_one({"_id": 1, "plays": "many"})
    db.command("collMod", "tracks", validator={"plays": {"$type": "int"}}, validationAction="error")
    storage.take(db, "tracks", folder, name="s")
    db.tracks.drop()
    assert storage.restore(db, folder / "s").inserted == 1


def test_restoring_into_another_name_leaves_the_original_alone(db, tracks, folder):
    tracks.create_index("plays")
    storage.take(db, "tracks", folder, name="s")
    tracks.update_many({}, {"$set": {"plays": 0}})

    done = storage.restore(db, folder / "s", into="copy")

    assert (done.collection, done.inserted) == ("copy", 3000)
    assert db["copy"].count_documents({"plays": 0}) == 429
    assert tracks.count_documents({"plays": 0}) == 3000
    assert "plays_1" in db["copy"].index_information()


def test_without_options_a_plain_collection_is_made(db, tracks, folder):
    tracks.create_index("plays")
    taken = storage.take(db, "tracks", folder, name="s", options=False)
    assert (taken.options, taken.indexes) == (None, ())
    tracks.drop()
    storage.restore(db, folder / "s")
    assert list(db.tracks.index_information()) == ["_id_"]


def test_documents_in_the_way_are_counted_and_nothing_is_written(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    tracks.delete_many({"_id": {"$lt": 10}})
    tracks.update_many({"_id": {"$gte": 2990}}, {"$set": {"plays": 99}})
    before = content(tracks)

    with pytest.raises(storage.RestoreConflictError, match="10 documents") as seen:
        storage.restore(db, folder / "s")

    assert content(tracks) == before
    assert "title" not in str(seen.value)


def test_documents_that_were_deleted_come_back_and_others_stay(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    tracks.delete_many({"plays": 3})
    tracks.insert_one({"_id": "new"})

    done = storage.restore(db, folder / "s")

    assert (done.inserted, done.unchanged, done.replaced) == (429, 2571, 0)
    assert tracks.count_documents({}) == 3001


def test_replace_puts_every_document_back(db, tracks, folder):
    taken = storage.take(db, "tracks", folder, name="s")
    tracks.update_many({"plays": 3}, {"$unset": {"title": ""}, "$set": {"added": 1}})
    tracks.delete_many({"plays": 4})

    done = storage.restore(db, folder / "s", mode="replace")

    assert (done.replaced, done.inserted, done.unchanged) == (429, 428, 3000 - 857)
    assert content(tracks) == (taken.count, taken.content_digest)


def test_a_unique_key_in_the_way_is_named_without_its_value(db, folder):
    db.users.create_index("mail", unique=True)
    db.users.insert_many([{"_id": 1, "mail": "ada@example.org"}, {"_id": 2, "mail": "bob@example.org"}])
    storage.take(db, "users", folder, name="s")
    db.users.delete_many({})
    db.users.insert_one({"_id": 3, "mail": "ada@example.org"})
    with pytest.raises(storage.RestoreConflictError, match=r"\(mail\)") as seen:
        storage.restore(db, folder / "s")
    assert "ada@" not in str(seen.value)


# ----------------------------------------------------------------------------------------------------- fields and kinds


def test_fields_come_back_exactly(db, folder):
    before = [{"_id": 1, "a": 1, "n": {"x": "$old", "y": 2}, "z": 0}, {"_id": 2, "z": 0}, {"_id": 3, "a": None, "z": 0}]
    db.tracks.insert_many(before)
    taken = storage.take(db, "tracks", folder, name="s", projection={"a": 1, "n.x": 1})
    assert taken.projection == ("a", "n.x")
    db.tracks.update_many({}, {"$set": {"a": 9, "n.x": 9, "z": 5}})
    db.tracks.delete_one({"_id": 3})

    done = storage.restore(db, folder / "s", mode="merge_fields")

    assert (done.replaced, done.missing, done.inserted) == (2, 1, 0)
    assert list(db.tracks.find().sort("_id", 1)) == [
        {"_id": 1, "a": 1, "n": {"x": "$old", "y": 2}, "z": 5},
        {"_id": 2, "z": 5, "n": {}},
    ]
    assert storage.restore(db, folder / "s", mode="merge_fields").unchanged == 2


def test_the_mode_must_fit_the_snapshot(db, tracks, folder):
    storage.take(db, "tracks", folder, name="fields", projection={"plays": 1})
    storage.take(db, "tracks", folder, name="whole")
    with pytest.raises(storage.RestoreRefusedError, match="merge_fields"):
        storage.restore(db, folder / "fields")
    with pytest.raises(storage.RestoreRefusedError, match="insert"):
        storage.restore(db, folder / "whole", mode="merge_fields")


@pytest.mark.parametrize(
    "projection", [{}, {"a": 0}, {"_id": 0, "a": 1}, {"a.$": 1}, {"a": {"$slice": 1}}, {"a..b": 1}]
)
def test_a_projection_that_keeps_no_plain_fields_is_refused(db, tracks, folder, projection):
    with pytest.raises(storage.NotSnapshotableError):
        storage.take(db, "tracks", folder, name="s", projection=projection)
    assert not folder.exists()


def test_a_path_through_an_array_is_refused(db, folder):
    db.tracks.insert_one({"_id": 1, "a": [{"b": 1}]})
    with pytest.raises(storage.NotSnapshotableError, match="array"):
        storage.take(db, "tracks", folder, name="s", projection={"a.b": 1})
    assert list((Path(folder.path) / "s").iterdir()) == []


def test_a_time_series_collection_comes_back(db, folder):
    db.create_collection("events", timeseries={"timeField": "at", "metaField": "user"}, expireAfterSeconds=10**9)
    db.events.create_index([("user", 1), ("n", 1)])
    db.events.insert_many([{"at": datetime(2026, 1, 1, 0, n, tzinfo=UTC), "user": n % 3, "n": n} for n in range(60)])
    taken = storage.take(db, "events", folder, name="s")
    assert (taken.kind, taken.count) == ("timeseries", 60)
    before = (taken.options, [dict(index) for index in db.events.list_indexes()])
    with pytest.raises(storage.RestoreRefusedError, match="time-series"):
        storage.restore(db, folder / "s")
    db.events.drop()

    with acquire(db, "r", Holder("run 1")) as lease:
        assert storage.restore(db, folder / "s", lease=lease).inserted == 60

    assert content(db.events) == (taken.count, taken.content_digest)
    (info,) = db.list_collections(filter={"name": "events"})
    assert (info["options"], [dict(index) for index in db.events.list_indexes()]) == before


def test_a_view_comes_back_as_a_view_or_as_its_documents(db, tracks, folder):
    db.create_collection("popular", viewOn="tracks", pipeline=[{"$match": {"plays": 6}}])
    taken = storage.take(db, "popular", folder, name="s")
    assert (taken.kind, taken.count) == ("view", 428)
    db.popular.drop()

    assert storage.restore(db, folder / "s") == storage.Restored("popular", created=True)
    assert storage.restore(db, folder / "s", into="copy").inserted == 428

    assert db.popular.count_documents({}) == 428
    assert {c["name"]: c["type"] for c in db.list_collections()} == {
        "tracks": "collection", "popular": "view", "copy": "collection", "system.views": "collection",
    }  # fmt: skip


def test_a_capped_collection_keeps_its_order(db, folder):
    db.create_collection("recent", capped=True, size=1_000_000, max=100)
    db.recent.insert_many([{"_id": n} for n in (5, 3, 9, 1)])
    storage.take(db, "recent", folder, name="s")
    db.recent.drop()
    with acquire(db, "r", Holder("run 1")) as lease:
        storage.restore(db, folder / "s", lease=lease)
    assert [one["_id"] for one in db.recent.find()] == [5, 3, 9, 1]
    assert db.recent.options()["max"] == 100


def test_a_clustered_collection_comes_back(db, folder):
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    db.clustered.insert_many([{"_id": n} for n in (5, 3, 9)])
    storage.take(db, "clustered", folder, name="s")
    options = db.clustered.options()
    db.clustered.drop()
    assert storage.restore(db, folder / "s").inserted == 3
    assert db.clustered.options() == options


def test_text_search_can_choose_the_documents(db, folder):
    db.songs.create_index([("words", "text")])
    db.songs.insert_many([{"_id": 1, "words": "love me"}, {"_id": 2, "words": "blue moon"}])
    assert storage.take(db, "songs", folder, name="s", where={"$text": {"$search": "moon"}}).count == 1


# -------------------------------------------------------------------------------------------------- kill, lease, others


def test_a_lost_lease_stops_the_restore(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    tracks.drop()
    with acquire(db, "r", Holder("run 1")) as lease:
        unlock(db, "r", force=True)
        with pytest.raises(LeaseLostError):
            storage.restore(db, folder / "s", lease=lease)
    assert "tracks" not in db.list_collection_names()


def test_a_document_inserted_during_the_restore_is_not_overwritten(db, tracks, folder, monkeypatch):
    storage.take(db, "tracks", folder, name="s")
    tracks.drop()
    made = recreate.create

    def create_and_be_overtaken(*args):
        done = made(*args)
        tracks.insert_one({"_id": 2500, "title": "theirs"})
        return done

    monkeypatch.setattr(recreate, "create", create_and_be_overtaken)
    with pytest.raises(storage.RestoreConflictError, match="1 documents were inserted by others"):
        storage.restore(db, folder / "s")
    assert tracks.find_one({"_id": 2500}) == {"_id": 2500, "title": "theirs"}


WORK = """
import sys
from mongo_ops import storage
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.lease import Holder, acquire
from mongo_ops.settings import Environment
task, uri, name, folder, mode = sys.argv[1:]
bsonfile = storage.restore.__globals__["bsonfile"]
bsonfile.BATCH_COUNT = 20
with connect(ConnectionSpec("c", uri, "h", name), Environment("e", "c", database=name)) as target:
    print("ready", flush=True)
    if task == "take":
        storage.take(target.db, "tracks", storage.open_folder(folder), name="s", reuse=True)
    else:
        lease = acquire(target.db, "r", Holder("run 1"))
        storage.restore(target.db, storage.open_folder(folder) / "s", lease=lease, mode=mode)
    print("done", flush=True)
"""


def killed(task, replica_set, db, folder, *, after, mode="insert"):
    """Run the task in a process, kill it ``after`` seconds; say whether it had finished."""
    words = [sys.executable, "-c", WORK, task, replica_set.uri, db.name, str(folder), mode]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return "done" in process.communicate()[0]


def test_a_take_that_is_killed_again_and_again_ends_as_if_it_had_not(replica_set, db, tracks, folder):
    before = content(tracks)
    finished = [killed("take", replica_set, db, folder, after=0.02 * n) for n in range(6)]

    taken = storage.take(db, "tracks", folder, name="s", reuse=True)

    assert not finished[0]
    assert (taken.count, taken.content_digest) == before
    assert storage.verify(folder / "s") == taken


@pytest.mark.parametrize(
    "mode", ["replace", *(pytest.param(mode, marks=pytest.mark.chaos) for mode in ("insert", "merge_fields"))]
)
def test_a_restore_that_is_killed_again_and_again_ends_as_if_it_had_not(replica_set, db, tracks, folder, mode):
    tracks.create_index("plays")
    before = content(tracks)
    projection = {"plays": 1} if mode == "merge_fields" else None
    storage.take(db, "tracks", folder, name="s", projection=projection)
    tracks.update_many({}, {"$set": {"plays": -1}}) if mode != "insert" else tracks.drop()

    finished = [killed("restore", replica_set, db, folder, after=0.2 + 0.1 * n, mode=mode) for n in range(4)]
    storage.restore(db, folder / "s", mode=mode)

    assert not finished[0]
    assert content(tracks) == before
    assert "plays_1" in tracks.index_information()
    assert not [name for name in db.list_collection_names() if name.startswith("ops_restoring_")]


def test_a_manifest_of_other_documents_is_refused(db, tracks, folder):
    taken = storage.take(db, "tracks", folder, name="s")
    for name, change in (("t", {"content_digest": "0" * 64}), ("u", {"count": 2999})):
        (Path(folder.path) / name).mkdir()
        (Path(folder.path) / name / "tracks.bson").write_bytes((Path(folder.path) / "s" / "tracks.bson").read_bytes())
        manifest.write(folder / name, replace(taken, **change))
        with pytest.raises(storage.SnapshotCorruptError, match="does not hold the documents"):
            storage.verify(folder / name)


def test_a_lease_lost_half_way_stops_the_restore(db, tracks, folder, monkeypatch):
    storage.take(db, "tracks", folder, name="s")
    tracks.drop()
    write = load.Loader.write

    def write_and_lose(loader, batch):
        done = write(loader, batch)
        unlock(db, "r", force=True)
        return done

    monkeypatch.setattr(load.Loader, "write", write_and_lose)
    with acquire(db, "r", Holder("run 1")) as lease, pytest.raises(LeaseLostError):
        storage.restore(db, folder / "s", lease=lease)
    assert tracks.count_documents({}) == 1000


@pytest.mark.parametrize("leased", [False, True])
def test_an_equal_document_inserted_between_look_and_write_is_no_conflict(db, tracks, folder, monkeypatch, leased):
    storage.take(db, "tracks", folder, name="s")
    theirs = tracks.find_one({"_id": 1500})
    tracks.drop()
    look = load.compare
    overtaken = []

    def look_and_be_overtaken(raw_, batch, session):
        seen = look(raw_, batch, session)
        if not overtaken and bsonfile.decoded(batch[0])["_id"] == 1000:
            overtaken.append(tracks.insert_one(theirs))
        return seen

    monkeypatch.setattr(load, "compare", look_and_be_overtaken)

    if leased:
        with acquire(db, "r", Holder("run 1")) as lease:
            done = storage.restore(db, folder / "s", lease=lease)
    else:
        done = storage.restore(db, folder / "s")

    assert len(overtaken) == 1
    assert done.unchanged == (1 if leased else 501)  # without a transaction the first half of the batch stays inserted
    assert done.inserted + done.unchanged == 3000
    assert tracks.count_documents({}) == 3000


def test_the_order_of_fields_makes_no_conflict(db, tracks, folder):
    storage.take(db, "tracks", folder, name="s")
    one = tracks.find_one_and_delete({"_id": 5})
    tracks.insert_one(dict(reversed(one.items())))
    assert storage.restore(db, folder / "s").unchanged == 3000


def test_a_restore_that_dies_before_the_indexes_leaves_no_collection_without_them(db, tracks, folder, monkeypatch):
    tracks.create_index("plays")
    storage.take(db, "tracks", folder, name="s")
    tracks.drop()
    run = recreate._done

    def die(database, command):
        if "createIndexes" in command:
            raise KeyboardInterrupt
        return run(database, command)

    monkeypatch.setattr(recreate, "_done", die)
    with pytest.raises(KeyboardInterrupt):
        storage.restore(db, folder / "s")
    monkeypatch.undo()
    assert "tracks" not in db.list_collection_names()

    storage.restore(db, folder / "s")

    assert "plays_1" in tracks.index_information()
    assert db.list_collection_names() == ["tracks"]
