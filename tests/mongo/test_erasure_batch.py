"""Many people in one run: as few walks as rules need, bounded memory, and nobody's fault or hold is anybody else's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.mongo.erasure_people import ANN, BOB, CAST, JOANN, REMAIN, Course, database, plant, raw_of, traced_places
from tests.mongo.runner import ROOT

from mongo_ops.erasure import requests
from mongo_ops.erasure.conclusion import certificates
from mongo_ops.erasure.plan import NobodyError, PlanStoppedError
from mongo_ops.erasure.register import RequestMissingError

PEOPLE = 2_000


@pytest.fixture(scope="module")
def model(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("model")) as target:
        yield Course(target).model()


@pytest.fixture
def course(model, tmp_path):
    at = model.emptied(tmp_path)
    plant(at.db)
    yield at
    model.emptied(tmp_path)  # nobody may be in two databases of a server


@pytest.fixture(scope="module")
def crowd(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("crowd")) as target:
        host, port = target.client.address
        job = {"uri": replica_set.uri, "address": f"{host}:{port}", "database": target.database}
        job |= {"storage": target.environment.storage, "people": PEOPLE}
        command = [sys.executable, "-m", "tests.mongo.erasure_crowd", json.dumps(job)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        yield json.loads(done.stdout)


def test_everybody_is_done_but_for_the_one_who_is_held_the_one_unknown_and_the_one_who_shares(crowd):
    assert crowd["states"] == {
        "completed_with_retention": PEOPLE // 2 - 1,
        "completed": PEOPLE // 2 - 2,
        "partial": 1,
    }
    assert crowd["state_of"] == ["not_found", "received", "partial"]
    assert crowd["certificates"] == PEOPLE - 3
    assert crowd["closures"] == 1  # of the one who is not complete
    assert crowd["left"] == {"users": PEOPLE + 2, "analytics": PEOPLE + 1}
    assert crowd["theirs"] == crowd["added_by"] == 1  # the one who is held


def test_a_collection_without_an_index_is_walked_once_for_everybody(crowd):
    unindexed = {rule for rule, (_, indexed) in crowd["counts"].items() if not indexed}
    assert unindexed == {
        "playlists.added_by",
        "versioning.changed_by",
        "audit_log.acted",
        "audit_log.mentions",
        "versioning.mentions",
    }
    assert crowd["walks"]["find.playlists"] < 20
    assert crowd["walks"]["find.versioning"] < 20


def test_memory_does_not_grow_with_the_people_beyond_their_identifiers(crowd):
    assert crowd["peak"] - crowd["before"] < 100, crowd


def test_each_of_a_batch_has_a_certificate_of_their_own(course):
    ids = {who: course.receive(who.user) for who in CAST}

    assert course.whole(course.batch(*ids.values())).states == {"completed_with_retention": 3}

    made = {who: certificates(course.db, request) for who, request in ids.items()}
    assert [len(some) for some in made.values()] == [1, 1, 1]
    done = {who: {one["rule"]: one["documents"] for one in some[0]["rules"]} for who, some in made.items()}
    assert [done[who]["analytics.events"] for who in CAST] == [5, 5, 5]
    assert [done[who].get("playlists.collaborator", 0) for who in (ANN, BOB, JOANN)] == [1, 1, 1]
    references = {requests.load(course.db, request).subject_ref for request in ids.values()}
    assert {some[0]["subject_ref"] for some in made.values()} == references
    for who in CAST:
        assert set(traced_places(course.target.client, who)) <= REMAIN


def test_a_batch_does_to_a_shared_document_what_runs_for_each_would_do(course):
    course.whole(course.batch(course.receive(), course.receive(JOANN.user)))

    track = course.db.tracks.find_one({"_id": BOB.id(11)})
    former = {"name": "Former artist"}
    assert track["credits"] == [
        {"name": BOB.name, "role": "guitar", "user_id": BOB.user},
        {**former, "role": "voice"},
        {**former, "role": "piano"},
    ]
    assert course.db.playlists.find_one({"_id": BOB.id(6)})["collaborators"] == []


def test_a_batch_with_everybody_left_out_does_nothing(course):
    unknown = [course.receive(ANN.id(200 + n)) for n in range(3)]
    before = raw_of(course.db, "users", ANN.user)

    with pytest.raises(NobodyError, match="matches nobody"):
        course.whole(course.batch(*unknown))

    assert {course.state(one) for one in unknown} == {"not_found"}
    assert raw_of(course.db, "users", ANN.user) == before
    with pytest.raises(RequestMissingError):
        course.engine.plan("eb_" + "a" * 26)


def test_a_batch_above_the_limit_is_refused(course):
    from dataclasses import replace

    limits = replace(course.data_map.limits, subjects=1)
    small = replace(course, data_map=replace(course.data_map, limits=limits))
    batch = course.batch(course.receive(), course.receive(BOB.user))

    with pytest.raises(PlanStoppedError, match="2 people, above the limit of 1"):
        small.engine.plan(batch)
