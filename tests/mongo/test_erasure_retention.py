"""The night: what is over goes, exactly once and nobody's who is held; withdrawn consent is enforced; requests are looked after."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId
from tests.mongo.erasure_people import ANN, BOB, JOANN, Course, plant
from tests.people import GRACE, key_values, keyring, rotated

from mongo_ops.erasure import holds, ledger, requests, retention, tombstones, upkeep, withdrawals
from mongo_ops.erasure.conclusion import CERTIFICATES
from mongo_ops.erasure.consent import Decision, grant, withdraw
from mongo_ops.erasure.model import OPEN, Change, Retention, State
from mongo_ops.erasure.plan import PlanChangedError
from mongo_ops.erasure.requests import REQUESTS
from mongo_ops.erasure.retention import RetentionPlan, TooMuchDueError
from mongo_ops.mongo.batches import CHECKPOINTS

NOW = datetime(2028, 6, 1, 3, tzinfo=UTC)
"""More than two years after what is planted."""
OLD, YOUNG = NOW - timedelta(days=800), NOW - timedelta(days=10)
EVENTS = "analytics.events"


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    return made


def events(course, *, old=0, young=0, user=None):
    made = [{"event_type": "play", "user_id": user or ObjectId(), "ts": OLD} for _ in range(old)]
    made += [{"event_type": "play", "user_id": user or ObjectId(), "ts": YOUNG} for _ in range(young)]
    course.db.analytics.insert_many(made)


def due(course, rule=EVENTS, **given):
    return next(one for one in retention.plan(course.engine, at=NOW, **given).due if one.id == rule)


def night(course, *rules, **given):
    """Carry rules out (all by default); return the counts by rule."""
    plan = retention.plan(course.engine, at=NOW)
    return {
        one.id: retention.carry_out(course.engine, plan, one.id, **given)
        for one in plan.due
        if not rules or one.id in rules
    }


def place(course, scope):
    return holds.place(
        course.db, "development", scope, reason_code="litigation", authority="LG", review_at=NOW + timedelta(days=900), actor=GRACE,
        now=datetime.now(UTC),
    )  # fmt: skip


def hold_on(course, who):
    return place(course, holds.of_subject(course.db, course.keyring, "user_id", who.user))


def plays(course):
    return Counter(one["user_id"] for one in course.db.analytics.find())


# By age -------------------------------------------------------------------------------------------------------------------


def test_what_is_over_goes_and_what_is_not_stays(course):
    events(course, old=700, young=30)
    course.db.analytics.insert_many(
        [{"event_type": "play", "ts": None}, {"event_type": "play"}, {"event_type": "play", "ts": "2020"}]
    )

    assert due(course, only=True).documents == 715
    done = night(course)

    assert done[EVENTS] == 715
    assert done["geo_events.places"] == 3
    assert course.db.analytics.count_documents({}) == 33
    assert course.db.analytics.count_documents({"ts": {"$lt": NOW - timedelta(days=770)}}) == 0


def test_a_plan_writes_nothing_and_says_what_has_no_date(course):
    events(course, old=5)
    course.db.analytics.insert_one({"event_type": "play"})
    before = {name: course.db[name].count_documents({}) for name in course.db.list_collection_names()}

    one = due(course, only=True)

    assert (one.documents, one.undated, one.action, one.stops) == (20, 1, "delete", "")
    assert one.before == datetime(2026, 5, 1, 3, tzinfo=UTC)
    assert {name: course.db[name].count_documents({}) for name in course.db.list_collection_names()} == before


def test_the_period_is_counted_by_the_calendar_to_the_moment(course):
    limit = datetime(2026, 5, 1, 3, tzinfo=UTC)
    for shift in (-1, 0, 1):
        course.db.analytics.insert_one(
            {"_id": shift, "event_type": "play", "ts": limit + timedelta(milliseconds=shift)}
        )

    night(course, EVENTS)

    assert sorted(one["_id"] for one in course.db.analytics.find({"_id": {"$in": [-1, 0, 1]}})) == [0, 1]


def test_a_rule_that_changes_leaves_the_document_and_does_it_once(course):
    old = {"kind": "description", "created_at": NOW - timedelta(days=1200), "status": "published"}
    course.db.ai_content.insert_many(
        [{"_id": n, "embedding": [0.5], "embedding_model": "m", "content": "text", **old} for n in range(40)]
    )

    assert night(course, "ai_content.embeddings") == {"ai_content.embeddings": 40}

    for one in course.db.ai_content.find({"_id": {"$type": "int"}}):
        assert one == {"_id": one["_id"], "content": "text", **old}
    course.owner = "cli 2"
    assert night(course, "ai_content.embeddings") == {"ai_content.embeddings": 0}


def test_a_hold_on_documents_and_on_a_person_keeps_what_it_covers(course):
    events(course, old=20)
    keep = course.db.analytics.find_one({"ts": OLD})["_id"]
    place(course, holds.of_documents(course.db, "analytics", json.dumps({"_id": {"$oid": str(keep)}})))
    hold_on(course, ANN)

    assert due(course, only=True).held == 1
    assert night(course, EVENTS, "versioning.versions", "geo_events.places")[EVENTS] == 29

    assert plays(course) == {ANN.user: 5, course.db.analytics.find_one({"_id": keep})["user_id"]: 1}
    assert [one["user_id"] for one in course.db.geo_events.find()] == [ANN.user]


def test_a_held_person_is_found_by_other_identifiers_too(course):
    hold_on(course, ANN)
    course.db.ai_content.update_many({}, {"$set": {"status": "draft"}})

    night(course, "ai_content.drafts")

    left = list(course.db.ai_content.find())
    assert {one["entity_id"] for one in left if one["entity_type"] in ("artist", "track")} >= {ANN.artist, ANN.track}
    assert BOB.id(7) in [one["_id"] for one in left]  # Bob's, and Ann's address stands in it
    assert not [one for one in left if one.get("user_id") == JOANN.user]


def test_a_hold_that_was_placed_under_an_older_key_still_holds(course):
    values = key_values()
    course.keyring = keyring(values)
    hold_on(course, ANN)
    course.keyring = keyring(rotated(values))

    night(course, EVENTS)

    assert plays(course) == {ANN.user: 5}


def test_what_belongs_to_an_open_request_is_left_to_it(course):
    request = course.receive(ANN.user)

    night(course, EVENTS)

    assert plays(course) == {ANN.user: 5}
    assert requests.load(course.db, request).state is State.RECEIVED
    assert course.whole(request).complete


def test_a_hold_on_a_person_that_comes_between_two_batches_is_honoured(course, monkeypatch):
    events(course, old=3000, user=BOB.user)
    monkeypatch.setattr("mongo_ops.mongo.batches.FIRST_SIZE", 100)
    real, calls, left = retention.Passage.treat, [], []

    def holding(passage, session, selected):
        calls.append(1)
        if len(calls) == 3:
            hold_on(course, BOB)
            left.append(plays(course)[BOB.user])
        return real(passage, session, selected)

    monkeypatch.setattr(retention.Passage, "treat", holding)
    night(course, EVENTS, beyond_limits=True)

    assert 0 < left[0] < 3005
    assert plays(course) == {BOB.user: left[0]}


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_killed_night_goes_on_and_counts_everything_once(course, monkeypatch, nth):
    class Killed(BaseException):
        pass

    events(course, old=2000, young=50)
    monkeypatch.setattr("mongo_ops.mongo.batches.FIRST_SIZE", 100)
    real, calls = retention.Passage.treat, []

    def dying(passage, session, selected):
        calls.append(1)
        done = real(passage, session, selected)
        if len(calls) == nth:
            raise Killed
        return done

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(retention.Passage, "treat", dying)
        night(course, EVENTS, beyond_limits=True)
    assert len(calls) == nth

    assert night(course, EVENTS, beyond_limits=True) == {EVENTS: 2015}
    assert night(course, EVENTS) == {EVENTS: 2015}  # the same run says the same
    assert course.db.analytics.count_documents({}) == 50
    entries = list(course.db[ledger.LEDGER].find({"action": "erasure.retention.done"}))
    assert [(one["details"]["rule"], one["details"]["documents"]) for one in entries] == [(EVENTS, 2015)]
    assert course.db[CHECKPOINTS].count_documents({"_id": {"$regex": "^retention/"}}) == 0
    assert ledger.verify(course.db).ok


def test_more_than_the_limit_needs_somebody_who_says_so(course):
    events(course, old=1500, young=100)

    assert "above the limit of 50 %" in due(course, only=True).stops
    with pytest.raises(TooMuchDueError):
        night(course, EVENTS)
    assert course.db.analytics.count_documents({}) == 1615
    assert night(course, EVENTS, beyond_limits=True) == {EVENTS: 1515}


def test_a_date_inside_an_array_is_refused_whatever_is_said(course):
    entry = course.data_map.collections["playlists"]
    strange = replace(entry, retention=(Retention("playlists.old", "playlists", "tracks[].added_at", "P1Y", "delete"),))
    course.data_map = replace(course.data_map, collections={**course.data_map.collections, "playlists": strange})

    for beyond in (False, True):
        with pytest.raises(TooMuchDueError, match="array"):
            night(course, "playlists.old", beyond_limits=beyond)
    assert course.db.playlists.count_documents({}) > 0


def test_an_edited_map_stops_the_night(course):
    plan = retention.plan(course.engine, at=NOW)
    course.data_map = replace(course.data_map, digest="f" * 64)

    with pytest.raises(PlanChangedError):
        retention.carry_out(course.engine, plan, EVENTS)
    with pytest.raises(PlanChangedError):
        withdrawals.consent_withdrawals(course.engine, plan)


def test_a_plan_survives_the_way_between_tasks(course):
    plan = retention.plan(course.engine, at=NOW, only=True)
    assert RetentionPlan.of_value(plan.as_value()) == plan
    assert RetentionPlan.of_value(plan.as_value()).digest == plan.digest


def test_a_ttl_index_is_said(course):
    assert retention.plan(course.engine, at=NOW, only=True).notes == ()
    course.db.analytics.create_index("ts", expireAfterSeconds=10**8)
    (note,) = retention.plan(course.engine, at=NOW, only=True).notes
    assert note.startswith("analytics has a TTL index")


# By consent ---------------------------------------------------------------------------------------------------------------


def decide(course, who, type, *, granted, at):
    decision = Decision(type, "2026-01", "web")
    if granted:
        return grant(course.db, "development", who.user, decision, actor=GRACE, now=at)
    return withdraw(course.db, "development", course.data_map, who.user, decision, actor=GRACE, now=at)


@pytest.fixture
def decided(course):
    """Ann and Bob gave two consents; Bob withdrew analytics, and Joann personalisation, and gave it again."""
    for who in (ANN, BOB):
        for what in ("analytics", "personalisation"):
            decide(course, who, what, granted=True, at=NOW - timedelta(days=40))
    decide(course, BOB, "analytics", granted=False, at=NOW - timedelta(days=4))
    decide(course, JOANN, "personalisation", granted=False, at=NOW - timedelta(days=4))
    decide(course, JOANN, "personalisation", granted=True, at=NOW - timedelta(days=3))
    return course


def enforce(course):
    return {
        one.type: one for one in withdrawals.consent_withdrawals(course.engine, retention.plan(course.engine, at=NOW))
    }


def test_a_withdrawal_takes_what_was_processed_under_that_consent_of_that_person_only(decided):
    events(decided, young=7, user=BOB.user)
    before = {
        name: decided.db[name].count_documents({})
        for name in ("geo_events", "users", "tracks", "playlists", "ai_content")
    }

    done = enforce(decided)

    assert plays(decided) == {ANN.user: 5, JOANN.user: 5}
    assert (done["analytics"].people, done["analytics"].documents) == (1, {EVENTS: 12})
    assert done["personalisation"].people == 0
    assert {name: decided.db[name].count_documents({}) for name in before} == before
    assert decided.db[ledger.LEDGER].count_documents({"action": "erasure.consent.enforced"}) == len(done)
    assert decided.db[CHECKPOINTS].count_documents({"_id": {"$regex": "^erasure/et_"}}) == 0


def test_only_what_the_rule_names_goes_and_changes_are_changes(decided):
    decide(decided, ANN, "ai_training", granted=False, at=NOW - timedelta(days=1))
    decided.db.ai_content.update_many({}, {"$set": {"embedding": [0.5], "embedding_model": "m"}})
    number = decided.db.ai_content.count_documents({})

    done = enforce(decided)["ai_training"]

    assert decided.db.ai_content.count_documents({}) == number
    touched = list(decided.db.ai_content.find({"embedding": {"$exists": False}}))
    assert done.documents == {"ai_content.embeddings": len(touched)}
    assert {ANN.artist, ANN.track, ANN.user} <= {one["entity_id"] for one in touched}
    assert BOB.id(7) not in {one["_id"] for one in touched}  # Bob's own, which mentions her


def test_a_held_person_and_a_held_document_stay_and_a_retry_adds_nothing(decided):
    key = decided.db.analytics.find_one({"user_id": BOB.user})["_id"]
    place(decided, holds.of_documents(decided.db, "analytics", json.dumps({"_id": {"$oid": str(key)}})))

    assert enforce(decided)["analytics"].documents == {EVENTS: 4}
    assert enforce(decided)["analytics"].documents == {EVENTS: 4}
    hold_on(decided, BOB)
    events(decided, young=3, user=BOB.user)
    decided.owner = "cli 2"
    held = enforce(decided)["analytics"]

    assert (held.people, held.held, held.documents) == (1, 1, {EVENTS: 0})
    assert plays(decided)[BOB.user] == 4


def test_a_map_that_leads_nowhere_is_refused_before_anything_is_done(decided):
    entry = decided.data_map.collections["analytics"]
    lost = replace(entry, rules=())
    decided.data_map = replace(decided.data_map, collections={**decided.data_map.collections, "analytics": lost})

    with pytest.raises(withdrawals.UnaddressableConsentError, match="analytics"):
        enforce(decided)
    assert plays(decided)[BOB.user] == 5


def test_a_rule_and_a_limit_on_the_same_field_are_refused():
    one = Retention("c.x", "c", "at", "P1Y", "delete", where={"kind": "a"}, changes=(Change("x", "unset"),))
    assert withdrawals.narrowed({"user_id": "$user_id"}, one) == {"user_id": "$user_id", "kind": "a"}
    with pytest.raises(withdrawals.UnaddressableConsentError):
        withdrawals.narrowed({"kind": "b", "user_id": "$user_id"}, one)


# Requests -----------------------------------------------------------------------------------------------------------------


def put(course, request, state, days, **fields):
    """A request as it would stand some days after its last step."""
    at = datetime.now(UTC) - timedelta(days=days)
    change = {
        "state": str(state),
        "open": state in OPEN,
        "transitions": [{"from": None, "to": str(state), "at": at}],
        **fields,
    }
    course.db[REQUESTS].update_one({"_id": request}, {"$set": change})


def certify(course, request, *retained):
    made = [{"form": form, "period": period} for form, period in retained]
    course.db[CERTIFICATES].update_one({"_id": request}, {"$push": {"certificates": {"retained": made}}}, upsert=True)


def receive(course):
    return course.receive(ObjectId())


def test_overdue_requests_are_named_and_others_are_not(course):
    late, early, done = receive(course), receive(course), receive(course)
    for request in (late, done):
        course.db[REQUESTS].update_one({"_id": request}, {"$set": {"due_at": NOW - timedelta(days=1)}})
    course.db[REQUESTS].update_one({"_id": early}, {"$set": {"due_at": NOW + timedelta(days=1)}})
    put(course, done, State.COMPLETED, 1)

    assert upkeep.overdue(course.db, NOW) == (late,)


def test_a_request_is_closed_when_no_backup_is_as_old_and_its_identity_is_gone(course):
    cases = {
        "old": (State.COMPLETED, 36), "young": (State.COMPLETED, 34), "nobody": (State.NOT_FOUND, 36), "refused": (State.REFUSED, 36),
        "open": (State.PARTIAL, 99), "under the reference": (State.COMPLETED_WITH_RETENTION, 36),
        "kept": (State.COMPLETED_WITH_RETENTION, 36), "held": (State.COMPLETED_WITH_RETENTION, 36),
    }  # fmt: skip
    ids = {name: receive(course) for name in cases}
    for name, (state, days) in cases.items():
        put(course, ids[name], state, days, outcome={"holds": ["eh_x"]} if name == "held" else {})
    certify(course, ids["under the reference"], ("under the subject reference", "P3Y"))
    certify(course, ids["kept"], ("as it is", "P3Y"), ("under the subject reference", "P1Y"))

    kept = upkeep.keep(course.engine, datetime.now(UTC))

    assert (kept.closed, kept.reopened) == (4, ())
    states = {name: str(requests.load(course.db, one).state) for name, one in ids.items()}
    closed = {name for name, state in states.items() if state == "closed"}
    assert closed == {"old", "nobody", "refused", "under the reference"}
    assert requests.load(course.db, ids["old"]).sealed == b""
    assert requests.load(course.db, ids["young"]).sealed != b""
    assert upkeep.keep(course.engine, datetime.now(UTC)).closed == 0


def test_a_request_is_opened_again_when_what_was_kept_may_be_kept_no_longer(course):
    lapsed, running, held = receive(course), receive(course), receive(course)
    for request, period in ((lapsed, "P1Y"), (running, "P5Y"), (held, "P1Y")):
        put(
            course, request, State.COMPLETED_WITH_RETENTION, 400, outcome={"holds": ["eh_x"]} if request == held else {}
        )
        certify(course, request, ("as it is", period))

    assert upkeep.keep(course.engine, datetime.now(UTC)).reopened == (lapsed,)

    again = requests.load(course.db, lapsed)
    assert (again.state, again.reopened) == (State.RECEIVED, 1)
    assert requests.load(course.db, running).state is State.COMPLETED_WITH_RETENTION


def test_tombstones_go_with_the_last_backup(course):
    assert course.whole(course.receive(ANN.user)).complete
    folder = tombstones.at(course.folder)
    assert len(tombstones.load(folder)) > 0

    assert upkeep.keep(course.engine, datetime.now(UTC) + timedelta(days=34)).tombstones == 0
    assert upkeep.keep(course.engine, datetime.now(UTC) + timedelta(days=36)).tombstones == 1
    assert len(tombstones.load(folder)) == 0


def test_holds_to_review_are_named(course):
    hold = hold_on(course, ANN)
    assert upkeep.unreviewed_holds(course.db, NOW) == ()
    assert upkeep.unreviewed_holds(course.db, NOW + timedelta(days=901)) == (hold.id,)
