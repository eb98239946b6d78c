"""Tombstones in storage: what was erased is recognised when it comes back, and nothing else is; files are whole or refused."""

from __future__ import annotations

import base64
import json
import tracemalloc
from datetime import timedelta

import pytest
from bson import ObjectId
from tests.people import NOW, key_values, keyring, rotated

from mongo_ops.erasure import tombstones
from mongo_ops.erasure.keys import KeyMissingError, Keyring
from mongo_ops.erasure.references import subject_reference, tombstone_hash
from mongo_ops.erasure.tombstones import Tombstone, Tombstones, TombstonesDamagedError
from mongo_ops.storage import open_folder

ADA, BOB = ObjectId("65f0c0ffee65f0c0ffee65f0"), ObjectId()
EMAIL = "ada@example.org"


@pytest.fixture
def keys():
    return keyring()


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    uri = (tmp_path / "storage").as_uri() if request.param == "local" else f"memory://{tmp_path.name}"
    return tombstones.at(open_folder(uri))


def stone(keys, identifier, value, person=ADA, at=NOW, request="er_" + "a" * 26):
    return Tombstone(
        tombstone_hash(keys, identifier, value), identifier, subject_reference(keys, "user_id", person), request, at
    )


def of_ada(keys, at=NOW):
    return [
        stone(keys, "user_id", ADA, at=at),
        stone(keys, "user_id", str(ADA), at=at),
        stone(keys, "email", EMAIL, at=at),
    ]


def files(folder):
    return sorted(folder.fs.find(folder.path))


def content(folder):
    return b"".join(folder.fs.cat_file(path) for path in files(folder))


def test_what_was_erased_is_recognised_and_nothing_else(keys, folder):
    assert tombstones.write(folder, "manual__1", of_ada(keys)) == 3
    tombstones.write(folder, "manual__2", [stone(keys, "user_id", BOB, person=BOB, request="er_" + "b" * 26)])

    found = tombstones.load(folder)

    ada = subject_reference(keys, "user_id", ADA)
    assert len(found) == 4
    assert [
        found.hit(keys, name, value) for name, value in (("user_id", ADA), ("user_id", str(ADA)), ("email", EMAIL))
    ] == [ada] * 3
    assert found.request_of(keys, "user_id", BOB) == (subject_reference(keys, "user_id", BOB), "er_" + "b" * 26)
    for name, value in (("user_id", ObjectId()), ("email", "Ada@example.org"), ("artist_id", ADA), ("user_id", EMAIL)):
        assert found.hit(keys, name, value) is None


def test_without_tombstones_nothing_is_recognised(keys, folder):
    assert len(tombstones.load(folder)) == 0
    assert tombstones.load(folder).hit(keys, "user_id", ADA) is None
    assert tombstones.write(folder, "manual__1", []) == 0
    assert files(folder) == []


def test_the_files_hold_no_identifier_and_lie_where_they_belong(keys, tmp_path):
    storage = open_folder((tmp_path / "storage").as_uri())
    tombstones.write(tombstones.at(storage), "manual__2026-03-01T09:12:00+00:00", of_ada(keys))

    (path,) = (tmp_path / "storage" / "erasure" / "tombstones").iterdir()
    written = path.read_bytes()
    for trace in (
        b"ada@",
        ADA.binary,
        str(ADA).encode(),
        base64.b64encode(ADA.binary),
        base64.b64encode(EMAIL.encode()),
    ):
        assert trace not in written
    head, *lines = map(json.loads, written.splitlines())
    assert (head["run_id"], head["count"]) == ("manual__2026-03-01T09:12:00+00:00", 3)
    assert [line.keys() for line in lines] == [{"hash", "identifier", "subject_ref", "request_id", "erased_at"}] * 3


def test_another_key_recognises_nothing(keys, folder):
    tombstones.write(folder, "manual__1", of_ada(keys))
    assert tombstones.load(folder).hit(keyring(), "user_id", ADA) is None


def test_after_a_rotation_old_tombstones_still_count(folder):
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    tombstones.write(folder, "manual__1", of_ada(before))
    tombstones.write(folder, "manual__2", [stone(after, "user_id", BOB, person=BOB)])

    found = tombstones.load(folder)

    assert found.epochs == {1, 2}
    assert found.hit(after, "user_id", ADA) == subject_reference(before, "user_id", ADA)
    assert found.hit(after, "user_id", BOB) == subject_reference(after, "user_id", BOB)
    late = Keyring({**after.keys, "tombstone": after.keys["tombstone"][:1]})
    with pytest.raises(KeyMissingError, match="epoch 1"):
        found.hit(late, "user_id", ADA)


def test_writing_again_changes_nothing(keys, folder):
    tombstones.write(folder, "manual__1", of_ada(keys))
    before = {path: folder.fs.cat_file(path) for path in files(folder)}

    assert tombstones.write(folder, "manual__1", of_ada(keys, at=NOW + timedelta(minutes=5))) == 3
    assert {path: folder.fs.cat_file(path) for path in files(folder)} == before

    more = [*of_ada(keys), stone(keys, "email", "ada@example.com")]
    tombstones.write(folder, "manual__1", more)  # the second sweep found one more
    assert all(folder.fs.cat_file(path) == text for path, text in before.items())
    assert len(tombstones.load(folder)) == 4


def test_many_go_into_files_of_bounded_size(keys, folder, monkeypatch):
    monkeypatch.setattr(tombstones, "LINES_PER_FILE", 100)
    people = [ObjectId() for _ in range(250)]
    reference = subject_reference(keys, "user_id", ADA)
    lines = (Tombstone(tombstone_hash(keys, "user_id", one), "user_id", reference, "er_x", NOW) for one in people)

    assert tombstones.write(folder, "manual__1", lines) == 250

    assert len(files(folder)) == 3
    found = tombstones.load(folder)
    assert all(found.hit(keys, "user_id", one) == reference for one in people)


def cut(text):
    return text[: len(text) // 2]


def without_the_last_line(text):
    return b"".join(text.splitlines(keepends=True)[:-1])


def another_person(text):
    return text.replace(b"sr1_", b"sr2_", 1)


def empty(text):
    return b""


def no_json(text):
    return b"{}\n" + text


@pytest.mark.parametrize(
    "damage", [cut, without_the_last_line, another_person, empty, no_json], ids=lambda f: f.__name__
)
def test_a_damaged_file_is_refused_by_name(keys, folder, damage):
    tombstones.write(folder, "manual__1", of_ada(keys))
    (path,) = files(folder)
    folder.fs.pipe_file(path, damage(content(folder)))

    with pytest.raises(TombstonesDamagedError, match=path.rpartition("/")[2]):
        tombstones.load(folder)


def test_what_a_killed_writer_left_is_not_read(keys, tmp_path):
    folder = tombstones.at(open_folder((tmp_path / "storage").as_uri()))
    tombstones.write(folder, "manual__1", of_ada(keys))
    (tmp_path / "storage" / "erasure" / "tombstones" / ".x.jsonl.abc.partial").write_bytes(b"half")
    (tmp_path / "storage" / "erasure" / "tombstones" / ".y.jsonl").write_bytes(b"half")

    assert len(tombstones.load(folder)) == 3


def test_tombstones_expire_by_file_when_no_backup_is_that_old(keys, folder):
    tombstones.write(folder, "manual__1", of_ada(keys, at=NOW - timedelta(days=50)))
    young = stone(keys, "user_id", BOB, person=BOB, at=NOW - timedelta(days=10))
    tombstones.write(
        folder, "manual__2", [young, stone(keys, "email", "bob@example.org", BOB, NOW - timedelta(days=60))]
    )

    assert tombstones.expire(folder, NOW - timedelta(days=35)) == 1

    found = tombstones.load(folder)
    assert len(found) == 2
    assert found.hit(keys, "user_id", ADA) is None
    assert found.hit(keys, "user_id", BOB) is not None
    assert tombstones.expire(folder, NOW - timedelta(days=35)) == 0


def test_a_hash_that_occurs_across_two_entries_is_no_hit():
    """The drawer is searched as bytes; only whole entries count."""
    found = Tombstones()
    drawer = "00" * 2
    first, second = drawer + "ab" * 14, drawer + "cd" * 14
    found.add(f"th1_{first}", "sr1_a", "er_a")
    found.add(f"th1_{second}", "sr1_b", "er_b")
    body = bytes(found._drawers[1, b"\0\0"])
    across = "0000" + body[9:23].hex()

    assert found._find(1, bytes.fromhex(across)) is None
    assert found._find(1, bytes.fromhex(first)) == 0
    assert found._find(1, bytes.fromhex(second)) == 1
    assert found._find(2, bytes.fromhex(first)) is None


@pytest.mark.chaos
def test_a_hundred_thousand_tombstones_of_a_thousand_people_take_little_memory():
    import random

    chance = random.Random(7)
    hashes = [f"th1_{chance.randbytes(16).hex()}" for _ in range(100_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = Tombstones()
        for number, one in enumerate(hashes):
            found.add(one, f"sr1_{number % 1000}", f"er_{number % 1000}")
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(found) == 100_000
    assert grown < 24_000_000  # mostly the 51,000 drawers, which a hundred times as many entries share
    assert found._people[found._find(1, bytes.fromhex(hashes[4321][4:]))] == ("sr1_321", "er_321")
