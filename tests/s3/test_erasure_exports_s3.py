"""An export on a store that keeps versions: no version of a part, of a receipt or of the manifest holds the person afterwards."""

from __future__ import annotations

import pytest
import zstandard
from fsspec.asyn import sync
from tests.mongo.erasure_people import ANN, Traces, plant
from tests.mongo.test_erasure_exports import Exporting

from mongo_ops.storage import open_folder
from mongo_ops.transfer import engine as transfers
from mongo_ops.transfer import manifest
from mongo_ops.transfer.model import Edge, Part


class Keeping(Exporting):
    """A course whose storage and assets are in a bucket."""

    bucket = None

    @property
    def folder(self):
        return self.bucket / "storage"

    @property
    def assets(self):
        return self.bucket / "assets"


def every_version(store, bucket):
    """(key, version id, whether it is a marker) of everything, asked of the store itself."""
    page = store.client().call_s3("list_object_versions", Bucket=bucket.path.strip("/"))
    found = [(one["Key"], one["VersionId"], False) for one in page.get("Versions") or ()]
    return found + [(one["Key"], one["VersionId"], True) for one in page.get("DeleteMarkers") or ()]


def readable(store, bucket):
    """The decompressed bytes of every version that anybody who knows its id can read."""
    client, found = store.client(), {}
    for key, version, marker in every_version(store, bucket):
        if not marker:
            answer = client.call_s3("get_object", Bucket=bucket.path.strip("/"), Key=key, VersionId=version)
            data = sync(client.loop, answer["Body"].read)
            found[key, version] = (
                zstandard.ZstdDecompressor().decompressobj().decompress(data) if ".zst" in key else data
            )
    return found


@pytest.mark.chaos
def test_no_version_of_an_export_holds_the_person_afterwards(target, store, bucket):
    name = bucket.path.strip("/")
    store.client().call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    course = Keeping(target)
    course.bucket = bucket
    plant(course.db)
    there = open_folder(f"s3://{name}/backups/monthly", connection="test_store")
    cut = (Part(0, "users", 0, None, Edge(ANN.user)), Part(1, "users", 1, Edge(ANN.user), None))
    course.export(there, "users", cut=cut, connection="test_store")
    removed = open_folder(f"s3://{name}/backups/removed", connection="test_store")
    course.export(removed, "users", run_id="run 2", connection="test_store")
    removed.fs.rm(removed.path, recursive=True)  # looks gone and is not
    foreign = f"{name}/backups/monthly/notes.txt"
    for content in (b"one", b"two"):
        store.client().pipe_file(foreign, content)
    holding = {key for (key, _), content in readable(store, bucket).items() if Traces(ANN).hit(content)}
    assert {key.split("/")[2].partition("-")[0] for key in holding} >= {"users", "manifest.json", "receipts"}
    assert any(key.startswith("backups/removed/") for key in holding)
    plan = course.begun()

    assert course.engine.erase_objects(plan).documents == 1

    left = readable(store, bucket)
    assert [key for (key, _), content in left.items() if Traces(ANN).hit(content)] == []
    keys = [key for key, _ in left if key.startswith("backups/")]
    files = [part.file for part in manifest.read(there).collection("users").parts]
    assert [file.count("~1.bson.zst") for file in files] == [0, 1]
    assert set(keys) == {f"backups/monthly/{one}" for one in ("manifest.json", "notes.txt", *files)}
    assert keys.count("backups/monthly/notes.txt") == 2
    assert transfers.verify_export(there).ok
    assert course.ended(plan) == "completed_with_retention"
