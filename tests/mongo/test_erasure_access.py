"""A person's own data as JSON: all that an erasure would touch, whole where it is theirs, in parts where it is somebody else's."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace

import pytest
from bson import ObjectId, json_util
from tests.mongo.erasure_people import ANN, BOB, JOANN, Course, N, images, plant
from tests.people import GRACE, NOW, Staff

from mongo_ops import audit
from mongo_ops.erasure import access, portions
from mongo_ops.erasure.plan import NobodyError
from mongo_ops.erasure.references import subject_reference

AWARE = json_util.JSONOptions(tz_aware=True)


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    return made


def export(course, who=ANN, **given):
    """The export as a value, its text, and what was said of it."""
    sink = io.BytesIO()
    done = access.export(
        course.target, course.data_map, course.keyring, getattr(who, "user", who), sink, actor=GRACE, now=NOW, **given
    )
    text = sink.getvalue().decode()
    return json_util.loads(text, json_options=AWARE), text, done


def of(exported, collection):
    return {
        one["document"].get("_id"): one["document"]
        for part in exported["collections"]
        for one in part["documents"]
        if one["collection"] == collection
    }


def test_an_export_holds_what_an_erasure_would_touch(course):
    exported, _, done = export(course)
    plan = course.engine.plan(course.receive(), only=True)

    touched = {(one.rule.partition(".")[0]) for one in plan.counts if one.documents}
    assert {rule.partition(".")[0] for rule in done.documents} == touched - set(done.withheld)
    written = {}
    for part in exported["collections"]:
        for one in part["documents"]:
            written.setdefault(one["collection"], []).append(one["document"])
    person = access._work(course.target, course.data_map, course.keyring, ANN.user)
    for rule in course.data_map.rules:
        part = portions.Part(person, rule)
        for name, document in part.documents():
            assert part.shown(name, document) in written[name] or document["_id"] in [
                one.get("_id") for one in written[name]
            ], rule.id
    assert done.total == sum(len(part["documents"]) for part in exported["collections"])


def test_after_the_erasure_there_is_nothing_to_export(course):
    course.whole(course.receive())

    with pytest.raises(NobodyError):
        export(course)


def test_what_is_the_persons_own_is_whole(course):
    exported, _, _ = export(course)

    assert of(exported, "users")[ANN.user] == course.db.users.find_one({"_id": ANN.user})
    assert len(of(exported, "analytics")) == 5
    assert of(exported, "artists")[ANN.artist]["bio"].startswith(ANN.name)
    assert of(exported, "tracks")[ANN.track]["title"] == "Home"
    assert exported["identifiers"]["email"] == [ANN.email]
    assert exported["subject_ref"] == subject_reference(course.keyring, "user_id", ANN.user)


def test_of_somebody_elses_document_only_the_persons_part_is_shown(course):
    exported, text, _ = export(course)

    assert of(exported, "playlists")[BOB.id(6)] in (
        {"_id": BOB.id(6), "collaborators": [ANN.user]},
        {"_id": BOB.id(6), "tracks": [{"added_by": ANN.user, "added_at": N}]},
    )
    together = of(exported, "tracks")[BOB.id(11)]
    assert [one.get("user_id") for one in together["credits"]] == [ANN.user]
    assert "title" not in together
    for other in (JOANN, BOB):
        for trace in (str(other.user), other.phone):
            assert trace not in text.replace(f"{ANN.phone}8", "")


def test_the_same_document_is_not_written_twice(course):
    exported, _, _ = export(course)

    whole = [
        (one["collection"], str(one["document"].get("_id")))
        for part in exported["collections"]
        for one in part["documents"]
        if len(one["document"]) > 4
    ]
    assert len(whole) == len(set(whole))


def test_consents_purposes_and_notes_are_part_of_it(course):
    exported, _, _ = export(course)

    (marketing,) = exported["consents"]
    assert (marketing["type"], marketing["valid"]) == ("marketing", True)
    users = next(part for part in exported["collections"] if part["rule"] == "users.account")
    assert users["purpose"] == "to provide the account"
    assert users["recipients"]["mail_provider"].startswith("sends")
    assert any("image_key" in note for note in exported["notes"])


def test_what_the_map_does_not_export_is_said_in_a_note(course):
    entry = course.data_map.collections["geo_events"]
    hidden = replace(entry, rules=tuple(replace(rule, exported=False, why="Trade secret.") for rule in entry.rules))
    course.data_map = replace(course.data_map, collections={**course.data_map.collections, "geo_events": hidden})

    exported, _, done = export(course)

    assert of(exported, "geo_events") == {}
    assert done.withheld == {"geo_events.events": 1}
    note = next(note for note in exported["notes"] if note.startswith("geo_events.events: 1 documents"))
    assert note.endswith("Trade secret.")


def test_an_export_changes_nothing_but_one_audit_entry_that_names_nobody(course):
    before, log = images(course.db), course.db.audit_log.count_documents({})

    _, _, done = export(course, who=ANN)

    assert images(course.db) == before
    assert course.db.audit_log.count_documents({}) == log + 1
    entry = course.db.audit_log.find_one({"action": "subject.exported"})
    assert (entry["entity_id"], entry["details"]["documents"]) == (done.reference, done.total)
    assert str(ANN.user) not in json_util.dumps(entry)
    assert entry["personal"]["actor"]["value"] == GRACE.name
    assert audit.verify(course.db).ok
    assert course.db.list_collection_names(filter={"name": {"$regex": "ops_erasure_closures"}}) == []


@pytest.mark.parametrize("nobody", [ObjectId(), "somebody", 7])
def test_nobody_is_nobody_and_nothing_is_written(course, nobody):
    sink = io.BytesIO()
    with pytest.raises(NobodyError) as seen:
        access.export(course.target, course.data_map, course.keyring, nobody, sink, actor=Staff())

    assert sink.getvalue() == b""
    assert str(nobody) not in str(seen.value)
    assert course.db.audit_log.count_documents({"action": "subject.exported"}) == 0


@pytest.mark.chaos
def test_a_person_with_very_much_passes_in_bounded_memory(course):
    course.db.analytics.insert_many(
        [{"event_type": "play", "user_id": ANN.user, "ts": N, "pad": "x" * 500} for _ in range(15_000)]
    )

    class Counting:
        size = 0

        def write(self, data):
            self.size += len(data)

    sink = Counting()
    tracemalloc.start()
    try:
        done = access.export(course.target, course.data_map, course.keyring, ANN.user, sink, actor=GRACE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.documents["analytics.events"] == 15_005
    assert sink.size > 9_000_000
    assert peak < 12_000_000


def test_the_text_is_one_json_document_for_any_reader(course):
    _, text, _ = export(course)

    assert set(json.loads(text)) == {
        *("format", "version", "made_at", "environment", "subject_ref", "data_map", "identifiers", "notes"),
        *("collections", "consents"),
    }
