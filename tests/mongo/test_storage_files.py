"""Files that are whole or not there, on a disk and in an object store; folders and what their errors say. No database."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from upath import UPath

from mongo_ops import storage
from mongo_ops.storage import bsonfile

DATA = os.urandom(3_000_000)


@pytest.fixture
def folder(tmp_path):
    return storage.open_folder(tmp_path.as_uri())


class Store:
    """An object store: an upload becomes visible when it is committed, as fsspec's S3 file does it."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.error: Exception | None = None

    def open(self, path, mode, *, autocommit=True):
        if self.error:
            raise self.error
        store = self

        class Upload(io.BytesIO):
            closed = False

            def close(self):
                pass

            def commit(self):
                assert not autocommit
                store.objects[path] = self.getvalue()

            def discard(self):
                self.truncate(0)

        return Upload() if mode == "wb" else io.BytesIO(self.objects[path])


class Key(SimpleNamespace):
    """A path in such a store."""

    protocol = "s3"

    def __truediv__(self, other):
        return Key(fs=self.fs, path=f"{self.path}/{other}", name=other)

    def __str__(self):
        return f"s3://key:secret@{self.path}"

    def exists(self):
        return self.path in self.fs.objects

    def open(self, mode):
        return self.fs.open(self.path, mode)


@pytest.fixture
def bucket():
    return Key(fs=Store(), path="bucket", name="bucket")


@pytest.fixture(params=["disk", "store"])
def place(request):
    return request.getfixturevalue({"disk": "folder", "store": "bucket"}[request.param])


def write(path, data=DATA, **options):
    with storage.writing(path, **options) as sink:
        for start in range(0, len(data), 700_000):
            sink.write(data[start : start + 700_000])
    return sink


def read(path):
    with storage.reading(path) as source:
        return source.read(10_000_000)


def test_a_file_is_what_was_written_and_knows_its_digest(place):
    sink = write(place / "a")
    assert (sink.bytes, sink.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    with storage.reading(place / "a") as source:
        assert source.read(10_000_000) == DATA
    assert (source.bytes, source.sha256) == (sink.bytes, sink.sha256)


def test_nobody_sees_a_file_before_it_is_whole(place):
    with storage.writing(place / "a") as sink:
        sink.write(DATA)
        assert not (place / "a").exists()
    assert (place / "a").exists()


def test_a_failed_write_leaves_nothing(place):
    def fail():
        with storage.writing(place / "a") as sink:
            sink.write(DATA)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert not (place / "a").exists()
    assert place.protocol != "file" or list(Path(place.path).iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_file(place):
    write(place / "a", b"old")

    def fail():
        with storage.writing(place / "a", overwrite=True) as sink:
            sink.write(DATA)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read(place / "a") == b"old"


def test_a_finished_file_is_not_overwritten_unless_told(place):
    write(place / "a", b"old")
    with pytest.raises(storage.AlreadyWrittenError):
        write(place / "a", b"new")
    assert read(place / "a") == b"old"
    write(place / "a", b"new", overwrite=True)
    assert read(place / "a") == b"new"


def test_of_two_writers_at_once_one_wins(folder):
    wrong, right = [], []
    barrier = threading.Barrier(8)

    def compete(number):
        try:
            with storage.writing(folder / "a") as sink:
                sink.write(f"{number}".encode() * 1000)
                barrier.wait()
            right.append(number)
        except storage.AlreadyWrittenError:
            wrong.append(number)

    threads = [threading.Thread(target=compete, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(right), len(wrong)) == (1, 7)
    assert read(folder / "a") == f"{right[0]}".encode() * 1000
    assert [path.name for path in Path(folder.path).iterdir()] == ["a"]


def test_a_disk_without_hard_links_still_refuses_to_overwrite(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write(folder / "a", b"old")

    def be_overtaken():
        with storage.writing(folder / "b") as sink:
            sink.write(b"new")
            Path((folder / "b").path).write_bytes(b"theirs")

    with pytest.raises(storage.AlreadyWrittenError):
        be_overtaken()
    assert (read(folder / "a"), read(folder / "b")) == (b"old", b"theirs")


def test_a_killed_writer_leaves_no_file_and_its_rest_is_swept_away(folder):
    code = (
        "import sys, time\nfrom mongo_ops import storage\n"
        "with storage.writing(storage.open_folder(sys.argv[1]) / 'a') as sink:\n"
        "    sink.write(b'x' * 10_000_000); print('half', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = Path(folder.path).iterdir()
    assert left.name.endswith(".partial")
    assert not (folder / "a").exists()

    write(folder / "a", b"new")
    assert left.exists()  # it may belong to a writer that is alive
    os.utime(left, (time.time() - 7200,) * 2)
    write(folder / "a", b"newer", overwrite=True)
    assert [path.name for path in Path(folder.path).iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError("AKIASECRET"), storage.StorageDeniedError),
        (OSError("AKIASECRET"), storage.StorageFailedError),
        (TimeoutError("AKIASECRET"), storage.StorageFailedError),
        (type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})(), storage.StorageDeniedError),
        (type("EndpointError", (Exception,), {"__module__": "botocore.x"})("AKIASECRET"), storage.StorageFailedError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_a_stores_errors_become_ours_without_their_text(bucket, error, told):
    bucket.fs.error = error
    with pytest.raises(told) as seen:
        write(bucket / "a")
    assert "AKIASECRET" not in str(seen.value)
    assert "secret" not in str(seen.value)
    assert "s3://bucket/a" in str(seen.value)
    assert seen.value.__cause__ is None
    assert seen.value.__suppress_context__


def test_errors_of_the_block_itself_pass(bucket):
    def fail():
        with storage.writing(bucket / "a") as sink:
            sink.write(b"x")
            raise LookupError

    with pytest.raises(LookupError):
        fail()


def test_a_plain_path_a_file_uri_and_memory_open(tmp_path):
    for uri in (str(tmp_path / "x"), (tmp_path / "x").as_uri()):
        folder = storage.open_folder(uri)
        assert storage.is_local(folder)
        assert folder.path == str(tmp_path / "x")
    assert isinstance(storage.open_folder("memory://x/y"), UPath)
    assert not storage.is_local(storage.open_folder("memory://x/y"))


def test_an_unknown_protocol_is_refused_without_its_password():
    with pytest.raises(storage.InvalidStorageError) as seen:
        storage.open_folder("nosuch://ada:hunter2@host/x")
    assert "hunter2" not in str(seen.value)


@pytest.mark.parametrize(
    "value",
    [
        "aws://KEY:s%2Fcret@/?endpoint_url=http%3A%2F%2Fminio%3A9000&region_name=eu-central-1",
        '{"conn_type": "aws", "login": "KEY", "password": "s/cret", "extra": {"endpoint_url": "http://minio:9000", "region_name": "eu-central-1"}}',
        '{"conn_type": "aws", "login": "KEY", "password": "s/cret", "extra": "{\\"endpoint_url\\": \\"http://minio:9000\\", \\"region_name\\": \\"eu-central-1\\"}"}',
    ],
    ids=["uri", "json", "json in json"],
)
def test_a_connection_variable_gives_the_credentials(monkeypatch, value):
    monkeypatch.setenv("AIRFLOW_CONN_STORAGE_STAGING", value)
    folder = storage.open_folder("s3://bucket/x", connection="storage_staging")
    assert folder.storage_options == {
        "key": "KEY",
        "secret": "s/cret",
        "client_kwargs": {"endpoint_url": "http://minio:9000", "region_name": "eu-central-1"},
    }
    assert "cret" not in storage.show(folder)


def test_without_a_connection_variable_the_environments_credentials_are_used(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_STORAGE_STAGING", raising=False)
    assert storage.open_folder("s3://bucket/x", connection="storage_staging").storage_options == {}


@pytest.mark.parametrize("value", ["mongo://a:hunter2@h", '{"conn_type": "aws", "password": "hunter2"', '["hunter2"]'])
def test_a_connection_that_is_no_store_is_refused_without_its_password(monkeypatch, value):
    monkeypatch.setenv("AIRFLOW_CONN_S", value)
    with pytest.raises(storage.InvalidStorageError) as seen:
        storage.open_folder("s3://b/x", connection="s")
    assert "hunter2" not in str(seen.value)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 11])
def test_a_bson_file_that_ends_early_is_not_read_as_shorter(folder, cut):
    document = b"\x0c\x00\x00\x00\x10a\x00\x01\x00\x00\x00\x00"
    write(folder / "a", document * 2 + document[:cut])
    with storage.reading(folder / "a") as source, pytest.raises(bsonfile.BrokenFileError):
        list(bsonfile.documents(source))


def test_batches_are_bounded_by_count_and_by_bytes(folder):
    small = b"\x05\x00\x00\x00\x00"
    size = 3_000_000
    large = size.to_bytes(4, "little") + b"\x00" * (size - 4)
    write(folder / "a", small * 2500 + large * 4)
    with storage.reading(folder / "a") as source:
        assert [len(batch) for batch in bsonfile.batches(source)] == [1000, 1000, 503, 1]


@pytest.mark.parametrize("length", [0x7FFFFFFF, 17_000_000, 4, 0, -1])
def test_an_impossible_length_is_not_read_into_memory(folder, length):
    write(folder / "a", length.to_bytes(4, "little", signed=True) + b"\x00" * 5_000_000)
    with storage.reading(folder / "a") as source, pytest.raises(bsonfile.BrokenFileError):
        list(bsonfile.documents(source))
    assert source.bytes == 4


def test_a_place_below_a_plain_file_is_told_with_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(storage.StorageFailedError), storage.writing(UPath(tmp_path / "file" / "below" / "x")):
        pass
