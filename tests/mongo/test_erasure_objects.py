"""The objects stage: people's objects and their documents in snapshots go, with all versions, and nothing brings them back."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId
from tests.mongo.erasure_people import ANN, BOB, JOANN, Course, Traces, plant
from tests.people import GRACE

from mongo_ops import storage
from mongo_ops.erasure import copies, holds, objects
from mongo_ops.erasure.assets import place_of
from mongo_ops.erasure.model import STAGES
from mongo_ops.mongo.documents import set_digest
from mongo_ops.storage import manifest, open_folder, versions

NOW = datetime.now(UTC)


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    return made


@pytest.fixture
def assets(course):
    """A picture and a cover of each of the three, and a neighbour whose name begins the same."""
    top = Path(course.assets.path)
    for key in (ANN.image, ANN.asset, f"{ANN.image}.bak", JOANN.image, JOANN.asset, BOB.image):
        (top / key).parent.mkdir(parents=True, exist_ok=True)
        (top / key).write_bytes(b"\x89PNG " + key.encode())
    return top


def erase_objects(course, value=ANN.user):
    """The course up to the end of the objects stage; return the plan and what the stage did."""
    plan = course.engine.plan(course.receive(value))
    course.engine.hold()
    course.engine.begin(plan)
    return plan, course.engine.erase_objects(plan)


def finished(course, plan):
    for rule in (one for stage in STAGES for one in plan.stage(stage)):
        course.engine.carry_out(plan, rule)
    course.finish(plan)
    course.engine.release()
    return course.state(plan.run_id)


def take(course, *names, **given):
    """Snapshots of collections, as a migration takes them before it destroys something."""
    for name in names:
        storage.take(course.db, name, course.folder, name=f"{course.db.name}/009_x.1/forward/0/{name}/1-ab", **given)
    return [place_of_snapshot(course, name) for name in names]


def place_of_snapshot(course, name):
    return storage.at(course.folder, f"{course.db.name}/009_x.1/forward/0/{name}/1-ab")


def bytes_of(folder):
    top = Path(folder.path)
    return b"".join(one.read_bytes() for one in sorted(top.rglob("*")) if one.is_file())


def test_the_persons_objects_go_and_nobody_elses(course, assets):
    plan, erased = erase_objects(course)

    assert plan.objects == 2
    assert erased.as_dict() == {"objects": 2, "versions": 2, "files": 0, "documents": 0}
    left = sorted(str(one.relative_to(assets)) for one in assets.rglob("*") if one.is_file())
    assert left == sorted([f"{ANN.image}.bak", JOANN.image, JOANN.asset, BOB.image])
    assert finished(course, plan) == "completed_with_retention"


def test_objects_that_stay_make_the_result_partial(course, assets):
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)

    assert finished(course, plan) == "partial"  # nobody called the objects stage

    again = course.engine.plan(plan.run_id)
    course.engine.hold()
    course.engine.begin(again)
    assert course.engine.erase_objects(again).objects == 2
    assert finished(course, again) == "completed_with_retention"


def test_without_a_folder_for_assets_the_plan_says_so_and_the_result_is_partial(course):
    engine = replace(course.engine, assets=None)
    plan = engine.plan(course.receive())
    engine.hold()
    engine.begin(plan)

    assert any("2 objects" in one.sentence and "assets" in one.sentence for one in plan.findings)
    assert engine.erase_objects(plan).as_dict() == dict.fromkeys(("objects", "versions", "files", "documents"), 0)
    course.execute(plan)
    engine.sweep(plan)
    assert set(engine.verify(plan).offenders) == {plan.run_id}
    assert engine.conclude(plan).states == {"partial": 1}


def test_a_missing_folder_for_assets_leaves_only_those_partial_who_have_objects(course):
    course.db.artists.update_one({"_id": BOB.artist}, {"$unset": {"image_key": ""}})
    course.db.ai_content.update_many({}, {"$unset": {"asset_key": ""}})  # one is about Bob's track and made by Ann
    engine = replace(course.engine, assets=None)
    plan = engine.plan(course.batch(course.receive(ANN.user), course.receive(BOB.user)))
    engine.hold()
    engine.begin(plan)
    course.execute(plan)
    engine.sweep(plan)
    engine.verify(plan)

    assert engine.conclude(plan).states == {"partial": 1, "completed_with_retention": 1}


def test_a_key_that_leads_out_of_the_folder_is_not_followed(course, assets, tmp_path):
    outside = tmp_path / "secret.txt"
    outside.write_text("not ours")
    (assets / "link").symlink_to(tmp_path)
    assert place_of(course.assets, "link/secret.txt") is None
    course.db.artists.update_one({"_id": ANN.artist}, {"$set": {"image_key": "../secret.txt"}})

    plan, erased = erase_objects(course)

    assert outside.read_text() == "not ours"
    assert erased.objects == 1
    assert any("lead out" in one.sentence for one in plan.findings)


def test_a_store_that_denies_is_said_in_the_plan_and_the_result_is_partial(course, assets, monkeypatch):
    def deny(path):
        raise storage.StorageDeniedError("no")

    monkeypatch.setattr(versions, "of_file", deny)
    plan, erased = erase_objects(course)

    assert any("cannot be looked at" in one.sentence for one in plan.findings)
    assert erased.objects == 0
    assert finished(course, plan) == "partial"


def test_a_hold_on_a_person_or_on_a_document_keeps_the_object(course, assets):
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    given = {
        "reason_code": "litigation",
        "authority": "LG Berlin",
        "review_at": NOW + timedelta(days=9),
        "actor": GRACE,
    }
    scope = holds.of_documents(course.db, "ai_content", json.dumps({"kind": "cover_art"}))
    holds.place(course.db, "development", scope, now=NOW, **given)

    assert course.engine.erase_objects(plan).objects == 1
    assert not (assets / ANN.image).exists()
    assert (assets / ANN.asset).exists()
    assert finished(course, plan) == "completed_with_retention"

    holds.place(course.db, "development", holds.of_request(course.db, plan.run_id), now=NOW, **given)
    (assets / ANN.image).write_bytes(b"again")
    work = course.engine._opened(plan, [plan.run_id])
    objects._erase_assets(work, course.assets, list(objects.assets_of(course.data_map, work.subjects)))
    assert (assets / ANN.image).exists()


def test_a_snapshot_loses_the_person_and_keeps_everybody_else_byte_for_byte(course):
    names = ("users", "artists", "tracks", "playlists", "versioning", "ai_content", "analytics")
    everyone = [course.db[name].count_documents({}) for name in names]
    places = take(course, *names)
    before = {
        name: Path(place.path).joinpath(f"{name}.bson").read_bytes() for name, place in zip(names, places, strict=True)
    }
    assert all(Traces(ANN).hit(before[name]) for name in names)

    plan, erased = erase_objects(course)

    kept = {
        name: storage.verify(place) for name, place in zip(names, places, strict=True)
    }  # digests, counts and bytes fit
    assert kept["users"].count == everyone[0] - 1
    assert kept["analytics"].count == everyone[6] - 5
    assert kept["artists"].count == everyone[1]
    assert kept["tracks"].count == everyone[2]
    assert erased.files == len(names)
    assert erased.documents > 20
    for name, place in zip(names, places, strict=True):
        assert {one.name for one in Path(place.path).iterdir()} == {"manifest.json", f"{name}~1.bson"}
    loose = bytes_of(course.folder)
    traces = Traces(ANN)
    assert ANN.artist.binary in loose  # the key of published work may stay, and of a shared playlist
    for key in (ANN.artist, ANN.shared):
        traces.exact.remove(key.binary)
        traces.texts.remove(str(key).encode())
    assert not traces.hit(loose)
    joanns = course.db.users.find_one({"_id": JOANN.user})
    assert joanns["email"].encode() in loose
    assert finished(course, plan) == "completed_with_retention"
    assert traces.hit(before["users"])


def test_restoring_a_snapshot_cannot_bring_the_person_back(course):
    (place, tracks) = take(course, "users", "tracks")
    plan, _ = erase_objects(course)
    assert finished(course, plan) == "completed_with_retention"
    course.db.users.drop()
    course.db.tracks.drop()

    storage.restore(course.db, place)
    storage.restore(course.db, tracks)

    assert sorted(one["_id"] for one in course.db.users.find()) == sorted([JOANN.user, BOB.user])
    together = course.db.tracks.find_one({"_id": BOB.id(11)})
    assert [one["name"] for one in together["credits"]] == [BOB.name, "Former artist", JOANN.name]
    assert [one.get("user_id") for one in together["credits"]] == [BOB.user, None, JOANN.user]


def test_a_snapshot_of_fields_only_loses_the_whole_part(course):
    (place,) = take(course, "users", projection={"email": 1})

    erase_objects(course)

    assert storage.verify(place).count == 2
    assert not Traces(ANN).hit(bytes_of(place))


def test_a_snapshot_without_the_person_is_not_touched(course):
    (place,) = take(course, "users", where={"_id": BOB.user})
    before = {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in Path(place.path).iterdir()}

    _, erased = erase_objects(course)

    assert erased.files == 0
    assert {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in Path(place.path).iterdir()} == before


def test_a_held_document_stays_in_the_snapshot_too(course):
    (place,) = take(course, "analytics")
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    one = course.db.analytics.find_one({"user_id": ANN.user})["_id"]
    scope = holds.of_documents(course.db, "analytics", json.dumps({"_id": {"$oid": str(one)}}))
    holds.place(
        course.db, "development", scope, reason_code="litigation", authority="LG", review_at=NOW + timedelta(days=9), actor=GRACE, now=NOW
    )  # fmt: skip

    assert course.engine.erase_objects(plan).documents == 4
    assert storage.verify(place).count == 11
    assert finished(course, plan) == "completed_with_retention"


class Killed(BaseException):
    """What no code catches, as a signal is not."""


STEPS = {
    "written": (copies, "_anew", True),
    "pointed": (manifest, "write", True),
    "removing": (versions, "remove", False),
    "noted": (objects, "_note_objects", True),
}


@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("pointed", 2),
        *(
            pytest.param(*one, marks=pytest.mark.chaos)
            for one in (("written", 1), ("removing", 1), ("removing", 3), ("noted", 1))
        ),
    ],
)
def test_a_kill_at_any_step_leaves_whole_snapshots_and_a_retry_finishes(course, assets, monkeypatch, step, nth):
    places = take(course, "users", "analytics", "tracks")
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    calls = {"n": 0}

    def dying(real, *, after):
        def call(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == nth and not after:
                raise Killed
            result = real(*args, **kwargs)
            if calls["n"] == nth:
                raise Killed
            return result

        return call

    room, name, after = STEPS[step]
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(room, name, dying(getattr(room, name), after=after))
        course.engine.erase_objects(plan)
    for place in places:
        storage.verify(place)

    erased = course.engine.erase_objects(plan)

    assert (erased.objects, erased.versions) == (2, 2)
    assert not any(Traces(ANN).hit(bytes_of(place)) for place in places[:2])
    for place in places:
        assert len(list(Path(place.path).iterdir())) == 2
        storage.verify(place)
    assert finished(course, plan) == "completed_with_retention"


def test_what_a_killed_migration_left_half_written_goes_when_it_holds_the_person(course):
    left = Path(course.folder.path) / course.db.name / "009_x.1" / "forward" / "0" / "users" / "2-cd"
    left.mkdir(parents=True)
    (left / ".users.bson.77.partial").write_bytes(b"cut" + ANN.user.binary)
    (left / "users.bson").write_bytes(b"no manifest ann@example.org ")
    (left / "tracks.bson").write_bytes(b"no manifest, joann@example.org")

    plan, erased = erase_objects(course)

    assert [one.name for one in left.iterdir()] == ["tracks.bson"]
    assert erased.files == 1
    assert finished(course, plan) == "completed_with_retention"


def test_a_foreign_file_with_the_person_in_it_is_reported_and_not_touched(course):
    foreign = Path(course.folder.path) / "mail" / "list.csv"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("x;Ann@example.org;y\n")

    plan, _ = erase_objects(course)

    assert foreign.exists()
    assert finished(course, plan) == "partial"


def test_a_trace_across_two_reads_of_a_large_file_is_seen_once_and_no_longer_word_is(course, monkeypatch):
    monkeypatch.setattr(copies, "READ", 64)
    plan = course.engine.plan(course.receive())
    work = course.engine.work(plan)
    path = course.folder / "big.bin"
    Path(course.folder.path).mkdir(parents=True, exist_ok=True)
    for shift in range(64):
        Path(path.path).write_bytes(b"." * shift + b" ann@example.org " + b"." * 300)
        assert copies.traces(work, path) == {plan.run_id}, shift
        Path(path.path).write_bytes(b" " * shift + b" joann@example.org " + b"." * 300)
        assert copies.traces(work, path) == set(), shift


def test_a_damaged_snapshot_stops_nothing_and_makes_the_result_partial(course):
    (place,) = take(course, "users")
    file = Path(place.path) / "users.bson"
    file.write_bytes(file.read_bytes()[:-3])

    plan, erased = erase_objects(course)

    assert erased.files == 0
    assert finished(course, plan) == "partial"


def test_an_export_older_than_any_backup_is_said_and_a_younger_one_counts_as_a_backup(course):
    export = Path(course.folder.path) / "exports" / "monthly"
    (export / "users").mkdir(parents=True)
    (export / "users" / "00000-ab.bson").write_bytes(b"x" + ANN.user.binary)
    seal = {"format": "mongo-ops export", "finished_at": (NOW - timedelta(days=34)).isoformat()}
    (export / "manifest.json").write_text(json.dumps(seal))
    engine, request = course.engine, course.receive()

    assert not any("exports" in one for one in engine.plan(request, only=True).partial)
    (export / "manifest.json").write_text(json.dumps(seal | {"finished_at": (NOW - timedelta(days=36)).isoformat()}))
    assert any("1 exports" in one for one in engine.plan(request, only=True).partial)
    assert (export / "users" / "00000-ab.bson").exists()


@pytest.mark.chaos
def test_many_documents_of_a_large_snapshot_pass_in_bounded_memory(course):
    import resource

    course.db.analytics.insert_many(
        [{"event_type": "play", "user_id": ObjectId(), "ts": NOW, "pad": os.urandom(200)} for _ in range(30_000)]
    )
    take(course, "analytics")
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert course.engine.erase_objects(plan).documents == 5

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000
    kept = storage.verify(place_of_snapshot(course, "analytics"))
    assert kept.count == course.db.analytics.count_documents({"user_id": {"$ne": ANN.user}})
    assert kept.content_digest == set_digest(course.db.analytics.find({"user_id": {"$ne": ANN.user}}))[1]
    assert open_folder(course.target.environment.storage).exists()
