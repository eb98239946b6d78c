"""What a backup, a partial restore or an import brings back is recognised by its tombstones and erased again, and nothing else is."""

from __future__ import annotations

import contextlib

import bson
import pytest
from bson import ObjectId
from tests.mongo.erasure_people import ANN, BOB, JOANN, REMAIN, Course, images, plant, traced_places
from tests.people import key_values, keyring

from mongo_ops.erasure import holds, ledger, replay, requests, resurrection
from mongo_ops.erasure.keys import KeyMissingError
from mongo_ops.erasure.model import State
from mongo_ops.erasure.tombstones import TombstonesDamagedError
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.transactions import transact


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    return made


@pytest.fixture
def backup(course):
    """All product documents as they were before the erasure."""
    return images(course.db)


@pytest.fixture
def erased(course, backup):
    request = course.receive()
    assert course.whole(request).complete
    return request


def bring_back(course, backup, *names):
    """Put documents back as they were, whatever stands there now; return how many came back or changed."""
    done = 0
    for (name, _), raw in backup.items():
        document = bson.decode(raw, CODEC)
        if not names or name in names:
            done += course.db[name].find_one({"_id": document["_id"]}) != document
            course.db[name].replace_one({"_id": document["_id"]}, document, upsert=True)
    return done


def scan(course):
    return resurrection.scan(course.db, course.data_map, course.keyring, course.folder)


def do(course, **given):
    return replay.replay(course.engine, **given)


def leftovers(course):
    return set(traced_places(course.db.client, ANN)) - REMAIN


def test_without_a_return_nothing_is_found_and_nothing_is_written(course, erased):
    before = images(course.db)
    seen = scan(course)
    done = do(course)

    assert seen.documents > 20
    assert (seen.hits, seen.values) == ({}, {})
    assert (done.ok, done.runs, done.states) == (True, (), {})
    assert images(course.db) == before
    assert course.state(erased) == "completed_with_retention"


def test_before_anything_was_erased_there_is_nothing_to_recognise(course):
    assert scan(course).documents == 0
    assert do(course, only=True).ok


def test_a_whole_restore_is_erased_again_under_the_same_request(course, backup, erased):
    after = images(course.db)
    course.db.ops_erasure_requests.drop()  # the backup is older than the request
    course.db.ops_erasure_closures.drop()
    assert bring_back(course, backup) > 20
    assert leftovers(course)

    done = do(course)

    assert done.found.hits["users", "_id", "user_id"] == 1
    assert done.states == {"completed_with_retention": 1}
    assert done.ok
    assert leftovers(course) == set()
    assert images(course.db) == after
    request = requests.load(course.db, erased)
    assert (request.id, request.source, str(request.state)) == (erased, "replay", "completed_with_retention")
    assert course.db[ledger.LEDGER].count_documents({"action": "erasure.request.replayed", "entity_id": erased}) == 1
    assert len(course.db.ops_erasure_certificates.find_one({"_id": erased})["certificates"]) == 2
    assert ledger.verify(course.db).ok


@pytest.mark.parametrize(
    "names",
    [("playlists", "users"), ("tracks", "users"), ("analytics", "geo_events"), ("users",), ("artists",)],
    ids=lambda names: names[0],
)
def test_a_restore_of_single_collections_is_recognised(course, backup, erased, names):
    after = images(course.db)
    assert bring_back(course, backup, *names)

    assert not do(course, only=True).ok
    assert course.state(erased) == "completed_with_retention"
    done = do(course)

    assert done.ok
    assert {name for name, _, _ in done.found.hits} == set(names)
    assert images(course.db) == after
    assert leftovers(course) == set()


@pytest.mark.parametrize("name", ["playlists", "tracks"])
@pytest.mark.chaos
def test_without_the_account_identifiers_go_and_somebody_is_told_to_look_for_names(course, backup, erased, name):
    bring_back(course, backup, name)

    done = do(course)

    assert leftovers(course) == set()
    assert (done.ok, done.unnamed, done.left.hits) == (False, 1, {})
    assert "by hand" in str(done)
    assert do(course).ok


@pytest.mark.chaos
def test_a_closed_request_is_opened_again_for_what_came_back(course, backup, erased):
    course.db.ops_erasure_requests.update_one({"_id": erased}, {"$set": {"state": "completed"}})
    transact(course.db, lambda session: requests.transition(course.db, session, erased, State.CLOSED))
    assert requests.load(course.db, erased).sealed == b""
    bring_back(course, backup, "users", "playlists")

    assert do(course).ok

    assert course.state(erased) == "completed"
    moves = [one["to"] for one in course.db.ops_erasure_requests.find_one({"_id": erased})["transitions"]]
    assert moves[-6:] == ["received", "planned", "approved", "executing", "verifying", "completed"]


@pytest.mark.chaos
def test_a_request_that_is_not_finished_is_left_to_its_own_run(course, backup, erased):
    bring_back(course, backup, "users")
    transact(course.db, lambda session: requests.transition(course.db, session, erased, State.RECEIVED))

    assert scan(course).hits == {}
    assert do(course).runs == ()


@pytest.mark.chaos
def test_another_open_request_of_the_same_person_erases_the_same(course, backup, erased):
    bring_back(course, backup, "users")
    course.receive(ANN.user)

    done = do(course)

    assert (done.elsewhere, done.runs, done.ok) == (1, (), False)


def test_a_person_who_comes_back_with_the_same_address_is_a_new_customer(course, erased):
    again = {"_id": ObjectId(), "email": ANN.email, "phone": ANN.phone, "display_name": "Ann"}
    course.db.users.insert_one(again)
    course.db.security_events.insert_one({"user_id": again["_id"], "details": {"as": ANN.email}})

    assert scan(course).hits == {}
    assert not refuses(course)("users", bson.encode(again))
    assert course.db.users.find_one({"_id": again["_id"]}) == again


def refuses(course):
    return replay.tombstone_filter(course.target, course.data_map, course.keyring, course.folder)


def test_an_import_refuses_what_was_erased_and_lets_everything_else_in(course, backup, erased):
    ask = refuses(course)

    refused = {key for key, raw in backup.items() if ask(key[0], raw)}

    assert ("users", str(ANN.user)) in refused
    assert {("playlists", str(ANN.private)), ("playlists", str(BOB.id(6)))} <= refused
    for who in (BOB, JOANN):
        assert ("users", str(who.user)) not in refused
        assert ("artists", str(who.artist)) not in refused
    assert sum(1 for name, _ in refused if name == "analytics") == 5
    assert not ask("unmapped", backup["users", str(ANN.user)])


def test_without_tombstones_an_import_takes_everything(course, backup):
    ask = refuses(course)
    assert not any(ask(name, raw) for (name, _), raw in backup.items())


def test_a_map_that_keeps_documents_as_they_are_does_not_call_them_returned(course, backup, erased):
    from dataclasses import replace

    bring_back(course, backup, "geo_events")
    entry = course.data_map.collections["geo_events"]
    kept = replace(entry, rules=tuple(replace(one, action="retain") for one in entry.rules))
    course.data_map = replace(course.data_map, collections={**course.data_map.collections, "geo_events": kept})

    assert scan(course).hits == {}


def test_a_killed_replay_is_finished_by_the_next(course, backup, erased, monkeypatch):
    class Killed(BaseException):
        pass

    after = images(course.db)
    bring_back(course, backup)
    real, calls = type(course.engine).carry_out, []

    def dying(engine, plan, rule, sweep=0):
        calls.append(rule)
        if len(calls) == 4:
            raise Killed
        return real(engine, plan, rule, sweep)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(type(course.engine), "carry_out", dying)
        do(course)
    assert len(calls) == 4
    assert leftovers(course)

    course.owner = "cli 2"
    done = do(course)

    assert done.ok
    assert done.states == {"completed_with_retention": 1}
    assert leftovers(course) == set()
    assert images(course.db) == after


@pytest.mark.chaos
def test_a_held_person_who_came_back_stays_until_the_hold_is_released(course, backup, erased):
    from datetime import UTC, datetime, timedelta

    from tests.people import GRACE

    bring_back(course, backup, "users")
    now = datetime.now(UTC)
    holds.place(
        course.db, "development", holds.of_subject(course.db, course.keyring, "user_id", ANN.user), reason_code="litigation",
        authority="LG", review_at=now + timedelta(days=9), actor=GRACE, now=now,
    )  # fmt: skip

    done = do(course)

    assert course.db.users.count_documents({"_id": ANN.user}) == 1
    assert (done.ok, done.pending, done.states) == (False, 1, {"received": 1})
    (hold,) = holds.listing(course.db)
    holds.release(course.db, "development", hold.id, reason="over", actor=GRACE, now=now)
    assert do(course).ok
    assert course.db.users.count_documents({"_id": ANN.user}) == 0


def test_damaged_tombstones_or_missing_keys_are_refused_and_not_taken_for_none(course, backup, erased):
    strange = Course(course.target, keyring=keyring(key_values()))
    folder = course.folder / "erasure" / "tombstones"
    (path,) = folder.fs.find(folder.path)
    text = folder.fs.cat_file(path)
    folder.fs.pipe_file(path, text[:-9])
    for ask in (scan, refuses, do):
        with pytest.raises(TombstonesDamagedError):
            ask(course)
    folder.fs.pipe_file(path, text.replace(b'"th1_', b'"th9_'))
    with pytest.raises((KeyMissingError, TombstonesDamagedError)):
        scan(strange)
