"""A whole erasure on a real server: everything of the person goes, nothing of anybody else does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import bson
import pytest
from pymongo.errors import OperationFailure
from tests.mongo.erasure_people import (
    ANN,
    BOB,
    CAST,
    JOANN,
    PLANTED,
    REMAIN,
    Course,
    Traces,
    database,
    elsewhere,
    files,
    images,
    oid,
    plant,
    snapshot,
    traced_places,
)

from mongo_ops import audit
from mongo_ops.erasure import ledger, requests, tombstones
from mongo_ops.erasure.conclusion import NotVerifiedError, certificates
from mongo_ops.erasure.identifiers import InvalidIdentifierError, parse_subject
from mongo_ops.erasure.plan import NobodyError, PlanChangedError
from mongo_ops.erasure.run import Passage, RunChangedError
from mongo_ops.erasure.vault import VaultError
from mongo_ops.mongo.batches import BudgetSpentError, covered
from mongo_ops.mongo.documents import CODEC


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


# One erasure, looked at from all sides -------------------------------------------------------------------------------------


@dataclass
class Erased:
    """What was there before Ann's erasure, and the course that it took."""

    course: Course
    request: str
    places: dict[str, int]
    before: dict[tuple[str, str], bytes]
    actions: list[tuple[Any, ...]]
    concluded: Any


def actions(db):
    return [
        (one["_id"], one["entity_type"], one["action"], one["timestamp"])
        for one in db.audit_log.find({"chain": None}).sort("_id", 1)
    ]


A, B, J = map(elsewhere, CAST)


@pytest.fixture(scope="module")
def erased(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("erased")) as target:
        at = Course(target).model()
        plant(at.db, A, B, J)
        places, before, log = traced_places(target.client, A), images(at.db), actions(at.db)
        for who in (A, J):
            at.assets.joinpath(who.image).parent.mkdir(parents=True)
            at.assets.joinpath(who.image).write_bytes(b"portrait")
        request = at.receive(A.user)
        yield Erased(at, request, places, before, log, at.whole(request))


def test_somebody_at_every_place_is_gone_from_every_place(erased):
    assert PLANTED - erased.places.keys() == set()

    left = traced_places(erased.course.target.client, A)

    assert set(left) == REMAIN
    assert erased.concluded.states == {"completed_with_retention": 1}
    assert erased.concluded.reasons == ()
    assert erased.course.state(erased.request) == "completed_with_retention"


def test_nobody_else_loses_a_byte(erased):
    after = images(erased.course.db)
    theirs = {key: raw for key, raw in erased.before.items() if not _concerns_ann(raw)}

    assert len(theirs) == 26
    assert {key: after.get(key) for key in theirs} == theirs
    assert after.keys() <= erased.before.keys()


def _concerns_ann(raw):
    return Traces(A).hit(raw) or A.track.binary in raw


def test_what_is_shared_keeps_what_is_the_others(erased):
    db, before = erased.course.db, {key: bson.decode(raw, CODEC) for key, raw in erased.before.items()}
    was, now = before["tracks", str(B.id(11))], db.tracks.find_one({"_id": B.id(11)})
    assert now["credits"] == [was["credits"][0], {"name": "Former artist", "role": "voice"}, was["credits"][2]]
    assert now["composer"] == "Bob Ray, Former artist"

    was, now = before["playlists", str(B.id(6))], db.playlists.find_one({"_id": B.id(6)})
    assert now["collaborators"] == [J.user]
    assert [now["tracks"][0], now["tracks"][2]] == [was["tracks"][0], was["tracks"][2]]
    assert now["tracks"][1] == {"track_id": B.track}
    assert {key: value for key, value in now.items() if key not in {"collaborators", "tracks"}} == {
        key: value for key, value in was.items() if key not in {"collaborators", "tracks"}
    }

    was, now = before["playlists", str(A.shared)], db.playlists.find_one({"_id": A.shared})
    assert (now["owner_id"], now["name"], "description" in now) == (None, "Somebody's party", False)
    assert (now["tracks"], now["collaborators"]) == ([{"track_id": A.track}, was["tracks"][1]], [B.user])

    twin = db.multilingual_content.find_one({"_id": B.id(7)})["text"]
    assert str(J.user) in twin
    assert J.email in twin
    assert J.email in db.ai_content.find_one({"_id": B.id(7)})["prompt"]
    snapshot = db.versioning.find_one({"_id": B.id(10)})["snapshot"]
    assert snapshot["collaborators"][0] == J.user
    assert snapshot["likes"][str(J.user)] == 2
    assert snapshot["deep"]["er"][0]["est"][1] == J.user
    assert db["ops_before_009_x.0.backfill"].distinct("_id") == [J.user]


def test_who_changed_what_is_still_to_be_told(erased):
    db, reference = erased.course.db, requests.load(erased.course.db, erased.request).subject_ref

    assert actions(db) == erased.actions
    assert db.audit_log.count_documents({"chain": None, "actor_id": reference}) == 2
    assert db.audit_log.count_documents({"chain": None, "entity_type": "user", "entity_id": reference}) == 2
    assert db.versioning.count_documents({"changed_by": reference}) == 2
    assert db.consent.find_one({"subject_ref": reference})["granted"] is True
    personal = db.audit_log.find_one({"action": "x.done"})["personal"]
    assert "reason" not in personal
    assert personal["other"]["value"] == J.email
    assert audit.verify(db).ok
    assert ledger.verify(db).ok


def test_the_certificate_says_what_was_done_and_names_nobody(erased):
    (made,) = certificates(erased.course.db, erased.request)
    done = {one["rule"]: one["documents"] for one in made["rules"]}

    assert done["analytics.events"] == 5
    assert (done["users.account"], done["versioning.entities"], done["playlists.added_by"]) == (1, 6, 3)
    assert {one["rule"] for one in made["retained"]} == {
        "audit_log.acted", "audit_log.acted_on", "audit_log.mentions", "audit_log.sealed", "consent.evidence",
        "security_events.events", "versioning.changed_by",
    }  # fmt: skip
    assert made["verification"]["traces_before"] >= 40
    assert made["verification"]["traces_after"] == 0
    assert made["verification"]["traces_that_may_stay"] == 3
    (issued,) = erased.course.db[ledger.LEDGER].find({"action": "erasure.certificate.issued"})
    assert issued["details"]["certificate"] == made["digest"]


def test_what_may_come_back_is_known_by_its_tombstones(erased):
    at = erased.course
    stones = tombstones.load(tombstones.at(at.folder))
    reference = requests.load(at.db, erased.request).subject_ref

    for name, value in (
        ("user_id", A.user),
        ("user_id", str(A.user)),
        ("email", A.email.lower()),
        ("image_key", A.image),
    ):
        assert stones.hit(at.keyring, name, value) == reference
    assert stones.hit(at.keyring, "email", J.email) is None
    assert stones.hit(at.keyring, "artist_id", A.artist) is None


def test_nothing_personal_is_in_what_the_run_leaves_behind(erased):
    at = erased.course
    left = list(files(at.folder))
    assert len(left) >= 2
    assert [path for path in left if Traces(A).hit(path.read_bytes())] == []
    assert at.db["ops_erasure_closures"].count_documents({}) == 0
    assert at.db["ops_checkpoints"].count_documents({"_id": {"$regex": "^erasure/"}}) == 0


def test_the_persons_objects_go_and_a_neighbours_stay(erased):
    assert [path.as_posix()[-len(J.image) :] for path in files(erased.course.assets)] == [J.image]


# Refusals: nothing is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", "anonymous", "SYSTEM", '{"$ne": null}', {"$ne": None}, ["x"], True, "$where", 7.5, b""],
    ids=repr,
)
def test_what_names_nobody_is_refused_before_anything_is_read(erased, value):
    with pytest.raises(InvalidIdentifierError) as refused:
        parse_subject(erased.course.data_map, value)
    if isinstance(value, str) and value.strip():
        assert value not in str(refused.value)


def test_an_identifier_that_matches_nobody_is_reported_as_such(course):
    before = snapshot(course.db)
    request = course.receive(oid(0x7777))

    with pytest.raises(NobodyError, match="matches nobody"):
        course.whole(request)

    assert course.state(request) == "not_found"
    assert snapshot(course.db) == before
    assert certificates(course.db, request) == []


def test_a_request_on_an_empty_database_matches_nobody(target):
    course = Course(target)
    request = course.receive()

    with pytest.raises(NobodyError):
        course.whole(request)

    assert course.state(request) == "not_found"
    assert not {one for one in target.db.list_collection_names() if not one.startswith(("ops_", "audit_log"))}


@dataclass
class Waiting:
    """A course that was planned, and must stay as it is."""

    course: Course
    request: str
    plan: Any


C = elsewhere(ANN, 2)


@pytest.fixture(scope="module")
def shared_waiting(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("waiting")) as target:
        at = Course(target).model()
        plant(at.db, *(elsewhere(who, 2) for who in CAST))
        request = at.receive(C.user)
        yield Waiting(at, request, at.engine.plan(request))


@pytest.fixture
def waiting(shared_waiting):
    before = snapshot(shared_waiting.course.db)
    yield shared_waiting
    assert snapshot(shared_waiting.course.db) == before
    assert shared_waiting.course.state(shared_waiting.request) == "planned"


def test_an_edited_map_or_plan_and_other_people_are_refused_with_nothing_written(waiting):
    course, plan = waiting.course, waiting.plan
    before = snapshot(course.db)
    edited = [
        replace(plan, excluded={**plan.excluded, "er_x": "held"}),
        replace(plan, requests=2),
        replace(plan, closure_digest="0" * 64),
        replace(plan, digest="0" * 64),
        replace(plan, database="other"),
        replace(plan, counts=plan.counts[1:]),
    ]
    for one in edited:
        with pytest.raises(PlanChangedError):
            course.engine.begin(one)
        with pytest.raises(PlanChangedError):
            course.engine.carry_out(one, "users.account")
    other_map = course.without("playlists.collaborator")
    for step in (other_map.engine.begin, other_map.engine.sweep, other_map.engine.verify, other_map.engine.conclude):
        with pytest.raises(PlanChangedError, match="data map was edited"):
            step(plan)
    assert snapshot(course.db) == before

    course.db.artists.insert_one({"_id": C.id(12), "name": "Ann II", "user_id": C.user, "genres": []})
    with pytest.raises(PlanChangedError, match="data changed"):
        course.engine.begin(plan)
    course.db.artists.delete_one({"_id": C.id(12)})


def test_a_plan_that_would_do_far_more_now_is_refused(waiting):
    course = waiting.course
    course.db.analytics.insert_many(
        [{"_id": n, "user_id": C.user} for n in range(106)], bypass_document_validation=True
    )

    with pytest.raises(PlanChangedError, match=r"analytics.events selects 111 documents now, 5 when"):
        course.engine.begin(waiting.plan)

    course.db.analytics.delete_many({"_id": {"$lt": 200}})


def test_a_plan_that_was_only_looked_at_cannot_be_carried_out(waiting):
    course = waiting.course
    request = course.receive(elsewhere(JOANN, 2).user)
    plan = course.engine.plan(request, only=True)

    for step in (course.engine.begin, course.engine.sweep, course.engine.verify):
        with pytest.raises(RunChangedError, match="looked at"):
            step(plan)
    with pytest.raises(NotVerifiedError):
        course.engine.conclude(plan)

    assert course.state(request) == "received"


def test_a_rule_is_not_carried_out_before_the_run_has_begun_nor_after_it_was_concluded(course):
    request = course.receive()
    plan = course.engine.plan(request)
    with pytest.raises(RunChangedError, match="stopped"):
        course.engine.carry_out(plan, "users.account")
    assert course.db.users.count_documents({}) == 3

    assert course.whole(request).complete
    with pytest.raises(RunChangedError, match="concluded"):
        course.engine.carry_out(plan, "users.account")


def test_wrong_keys_open_nothing_and_change_nothing(course):
    from tests.mongo.erasure_people import KEYS
    from tests.people import key_values, keyring, rotated

    from mongo_ops.erasure.keycheck import KeyExchangedError

    request = course.receive()
    plan = course.engine.plan(request)
    before = snapshot(course.db)
    wrong = replace(course, keyring=keyring(key_values()))
    with pytest.raises(KeyExchangedError):
        wrong.engine.plan(request)
    for step in (wrong.engine.begin, wrong.engine.sweep, wrong.engine.verify):
        with pytest.raises(VaultError):
            step(plan)
    assert snapshot(course.db) == before

    renewed = replace(course, keyring=keyring(rotated(KEYS)))  # an old key is still there: what it sealed opens
    assert renewed.whole(request).states == {"completed_with_retention": 1}
    assert set(traced_places(course.target.client, ANN)) == REMAIN


# Arrays, and writers at the same time -----------------------------------------------------------------------------------------


def test_an_array_that_was_reordered_after_the_plan_loses_the_persons_elements_only(course):
    plan = course.engine.plan(course.receive())
    entries = course.db.playlists.find_one({"_id": BOB.id(6)})["tracks"]
    new = {"track_id": BOB.id(11), "added_by": BOB.user}
    course.db.playlists.update_one(
        {"_id": BOB.id(6)}, {"$set": {"tracks": [entries[1], new, entries[2], entries[0], entries[1]]}}
    )
    names = course.db.tracks.find_one({"_id": BOB.id(11)})["credits"]
    course.db.tracks.update_one({"_id": BOB.id(11)}, {"$set": {"credits": [names[2], names[1], names[0]]}})

    course.engine.begin(plan)
    course.execute(plan)

    gone = {"track_id": BOB.track}
    assert course.db.playlists.find_one({"_id": BOB.id(6)})["tracks"] == [gone, new, entries[2], entries[0], gone]
    assert course.db.tracks.find_one({"_id": BOB.id(11)})["credits"] == [
        names[2], {"name": "Former artist", "role": "voice"}, names[0],
    ]  # fmt: skip


def test_a_second_run_changes_nothing_more(course):
    request = course.receive()
    course.whole(request)
    before = snapshot(course.db)

    again = course.receive()
    assert again != request
    with pytest.raises(NobodyError, match="matches nobody"):
        course.whole(again)

    assert snapshot(course.db) == before
    assert course.state(again) == "not_found"
    assert course.state(request) == "completed_with_retention"


# Checkpoints of other walks ---------------------------------------------------------------------------------------------------

FIRST, ANNS, BOBS, LAST = oid(1), ANN.user, BOB.user, oid(0xFFFF)


@pytest.mark.parametrize(
    ("finished", "start", "upper", "inclusive", "covered_after", "left_after"),
    [
        (True, ANNS, ANNS, True, [FIRST], []),  # a walk that ended with Ann covers those before her
        (True, FIRST, ANNS, True, [FIRST], []),
        (True, FIRST, ANNS, False, [FIRST], []),
        (True, FIRST, LAST, True, [FIRST, BOBS, LAST], []),
        (False, ANNS, LAST, True, [FIRST], [BOBS, LAST]),  # half done, Ann is next: Bob is next now
        (False, ANNS, ANNS, True, [FIRST], []),
        (False, FIRST, ANNS, True, [], [FIRST]),
        (False, FIRST, ANNS, False, [], [FIRST]),
    ],
)
def test_a_walk_that_stopped_at_the_persons_key_goes_on_beside_it(
    target, finished, start, upper, inclusive, covered_after, left_after
):
    course = Course(target)
    account = {"email": "", "display_name": "x"}
    course.db.users.insert_many(
        [{**account, "_id": key, "email": f"{n}@example.org"} for n, key in enumerate((FIRST, ANNS, BOBS, LAST))]
    )
    point = {"_id": "009_x", "collection": "users", "next": start, "upper": upper, "upper_inclusive": inclusive}
    course.db["ops_checkpoints"].insert_one({**point, "finished": finished})

    course.whole(course.receive())

    point = course.db["ops_checkpoints"].find_one({"_id": "009_x"})
    keys = sorted(course.db.users.distinct("_id"))
    end = covered(course.db, "009_x")
    assert ANNS not in point.values()
    assert [key for key in keys if end and (key < end.key or (end.inclusive and key == end.key))] == covered_after
    assert [key for key in keys if not point["finished"] and point["next"] <= key <= point["upper"]] == left_after


# Batches that are too much --------------------------------------------------------------------------------------------------


def test_a_batch_that_is_too_much_for_the_server_is_halved(course, monkeypatch):
    sizes, treat = [], Passage._treat

    def fails_above_two(self, session, selected):
        if self.rule.id == "analytics.events":
            ids = selected["$and"][0]["_id"]["$in"]
            sizes.append(len(ids))
            if len(ids) > 2:
                raise OperationFailure("too large", 257)
        return treat(self, session, selected)

    monkeypatch.setattr(Passage, "_treat", fails_above_two)

    assert course.whole(course.receive()).complete
    assert sizes == [5, 2, 3, 1, 2]


def test_a_run_stops_at_its_time_budget_and_goes_on(course):
    plan = course.engine.plan(course.receive())
    course.engine.hold()
    course.engine.begin(plan)
    environment = replace(course.target.environment, budget=0.0)
    hurried = replace(course, target=replace(course.target, environment=environment))

    with pytest.raises(BudgetSpentError):
        hurried.engine.carry_out(plan, "analytics.events")
    assert course.db.analytics.count_documents({"user_id": ANN.user}) == 5

    course.execute(plan)
    assert course.finish(plan).complete
