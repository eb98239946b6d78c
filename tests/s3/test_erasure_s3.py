"""Erasure on a store that keeps versions: no version of an object or of a snapshot can be read afterwards, by whatever id."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fsspec.asyn import sync
from tests.mongo.erasure_people import ANN, BOB, JOANN, Course, Traces, plant

from mongo_ops import storage
from mongo_ops.erasure.model import STAGES
from mongo_ops.storage import StorageDeniedError, open_folder, versions


class Keeping(Course):
    """A course whose storage and assets are in a bucket."""

    bucket = None

    @property
    def folder(self):
        return self.bucket / "storage"

    @property
    def assets(self):
        return self.bucket / "assets"


@pytest.fixture
def versioned(store, bucket):
    """The bucket keeps every version."""
    name = bucket.path.strip("/")
    store.client().call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def course(target, versioned):
    made = Keeping(target)
    made.bucket = versioned
    plant(made.db)
    return made


def every_version(store, bucket):
    """(key, version id, deleted) of everything, asked of the store itself."""
    page = store.client().call_s3("list_object_versions", Bucket=bucket.path.strip("/"))
    found = [(one["Key"], one["VersionId"], False) for one in page.get("Versions") or ()]
    return found + [(one["Key"], one["VersionId"], True) for one in page.get("DeleteMarkers") or ()]


def readable(store, bucket):
    """The bytes of every version that anybody who knows its id can read."""
    client, name = store.client(), bucket.path.strip("/")
    found = {}
    for key, version, deleted in every_version(store, bucket):
        if not deleted:
            answer = client.call_s3("get_object", Bucket=name, Key=key, VersionId=version)
            found[key, version] = sync(client.loop, answer["Body"].read)
    return found


def put(store, bucket, key, *contents):
    for content in contents:
        store.client().pipe_file(f"{bucket.path.strip('/')}/{key}", content)


def erase_objects(course):
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    return plan, course.engine.erase_objects(plan)


def finished(course, plan):
    for rule in (one for stage in STAGES for one in plan.stage(stage)):
        course.engine.carry_out(plan, rule)
    course.finish(plan)
    course.engine.release()
    return course.state(plan.run_id)


@pytest.mark.chaos
def test_every_version_and_marker_of_an_object_goes_and_the_neighbours_stay(course, store, versioned):
    put(store, versioned, f"assets/{ANN.image}", b"one", b"two", b"three")
    put(store, versioned, f"assets/{ANN.asset}", b"cover")
    store.client().rm_file(f"{versioned.path.strip('/')}/assets/{ANN.asset}")  # looks gone and is not
    others = [f"assets/{key}" for key in (f"{ANN.image}.bak", f"{ANN.image}/x", JOANN.image, BOB.image)]
    for key in others:
        put(store, versioned, key, b"theirs", b"theirs 2")
    assert len(every_version(store, versioned)) == 13

    plan, erased = erase_objects(course)

    assert erased.as_dict() == {"objects": 2, "versions": 4, "files": 0, "documents": 0}
    left = every_version(store, versioned)
    assert {key for key, _, _ in left if key.startswith("assets/")} == set(others)
    assert sum(1 for key, _, _ in left if key in others) == 8
    assert finished(course, plan) == "completed_with_retention"


@pytest.mark.chaos
def test_no_version_of_a_snapshot_holds_the_person_afterwards(course, store, versioned):
    name = f"{course.db.name}/009_x.1/forward/0/users/1-ab"
    put(store, versioned, f"storage/{name}/users.bson", b"a try that was killed: ann@example.org ")
    for one in ("users", "playlists"):
        storage.take(course.db, one, course.folder, name=name.replace("users", one))
    assert any(Traces(ANN).hit(content) for content in readable(store, versioned).values())

    plan, erased = erase_objects(course)

    assert erased.files == 2
    assert storage.verify(storage.at(course.folder, name)).count == 2
    left = readable(store, versioned)
    snapshots = {key.rpartition("/")[2] for key, _ in left if key.startswith(f"storage/{course.db.name}/")}
    assert snapshots == {"users~1.bson", "playlists~1.bson", "manifest.json"}
    users = next(content for (key, _), content in left.items() if key.endswith("users~1.bson"))
    assert not Traces(ANN).hit(users)
    assert not any(deleted for _, _, deleted in every_version(store, versioned))
    assert finished(course, plan) == "completed_with_retention"


def test_an_old_version_that_is_left_makes_the_verification_fail(course, store, versioned):
    put(store, versioned, f"assets/{ANN.image}", b"one")
    plan, _ = erase_objects(course)
    put(store, versioned, f"assets/{ANN.image}", b"again")
    store.client().rm_file(f"{versioned.path.strip('/')}/assets/{ANN.image}")

    assert finished(course, plan) == "partial"


@pytest.mark.chaos
def test_more_versions_than_a_page_holds_all_go(course, store, versioned, monkeypatch):
    put(store, versioned, f"assets/{ANN.image}", *(b"%d" % n for n in range(12)))
    real = type(course.assets.fs).call_s3

    def paged(fs, method, *words, **given):
        if method == "list_object_versions":
            given["MaxKeys"] = 5
        return real(fs, method, *words, **given)

    monkeypatch.setattr(type(course.assets.fs), "call_s3", paged)
    monkeypatch.setattr(versions, "AT_ONCE", 5)

    assert erase_objects(course)[1].versions == 12
    monkeypatch.undo()
    assert not [key for key, _, _ in every_version(store, versioned) if key.startswith("assets/")]


def test_a_store_that_only_lets_read_keeps_the_object_and_the_result_is_partial(course, store, versioned):
    name = versioned.path.strip("/")
    store.client().call_s3("put_bucket_acl", Bucket=name, ACL="public-read")
    put(store, versioned, f"assets/{ANN.image}", b"one")
    reader = open_folder(f"s3://{name}/assets", connection="read_only")
    with pytest.raises(StorageDeniedError):
        versions.remove(reader, versions.of_file(versioned / "assets" / ANN.image))
    engine = replace(course.engine, assets=reader)
    plan = engine.plan(course.receive())
    engine.hold()
    engine.begin(plan)

    engine.erase_objects(plan)

    for rule in (one for stage in STAGES for one in plan.stage(stage)):
        engine.carry_out(plan, rule)
    engine.sweep(plan)
    engine.verify(plan)
    assert engine.conclude(plan).states == {"partial": 1}
    assert [key for key, _, _ in every_version(store, versioned) if key.endswith(ANN.image)]
