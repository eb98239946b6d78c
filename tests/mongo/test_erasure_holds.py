"""Legal holds on a real server: who and what is held, mid-run, through key rotations, and what a release sets going."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import bson
import pytest
from bson import ObjectId
from tests.people import GRACE, NOW, Staff, data_map, key_values, keyring, rotated

from mongo_ops import audit
from mongo_ops.erasure import holds, ledger, requests
from mongo_ops.erasure.holds import HOLDS, HoldRefusedError
from mongo_ops.erasure.keycheck import KeyExchangedError
from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.model import OPEN, State
from mongo_ops.erasure.references import references_of, subject_reference
from mongo_ops.erasure.requests import REQUESTS
from mongo_ops.mongo.lease import Holder, acquire
from mongo_ops.mongo.transactions import transact

ADA, BOB = ObjectId("65f0c0ffee65f0c0ffee65f0"), ObjectId()
REVIEW = NOW + timedelta(days=180)


@pytest.fixture
def keys():
    return keyring()


@pytest.fixture
def events(db):
    """Six security events, three of them critical."""
    db.events.insert_many({"_id": n, "severity": "critical" if n % 2 else "info", "n": n} for n in range(6))
    return db.events


def receive(db, keys, value=ADA):
    return requests.receive(db, "development", data_map(), keys, value, "web", GRACE, NOW)


def place(db, scope, **changes):
    given = {"reason_code": "litigation", "authority": "LG Berlin, 12 O 345/26", "review_at": REVIEW, "actor": GRACE}
    return holds.place(db, "development", scope, **{**given, "now": NOW, **changes})


def hold_person(db, keys, value=ADA):
    return place(db, holds.of_subject(db, keys, "user_id", value))


def hold_documents(db, text, collection="events"):
    return place(db, holds.of_documents(db, collection, text))


def release(db, hold, reason="the case is closed", **changes):
    return holds.release(db, "development", hold.id, **{"reason": reason, "actor": GRACE, "now": NOW, **changes})


def put(db, request, state, **fields):
    change = {"state": str(state), "open": state in OPEN, **fields}
    db[REQUESTS].update_one({"_id": request.id}, {"$set": change})


def state(db, request):
    return requests.load(db, request.id).state


def test_a_person_is_held_until_released(db, keys):
    ada, bob = receive(db, keys), receive(db, keys, BOB)
    assert not holds.active(db).of(ada.subject_ref)

    hold = hold_person(db, keys)

    assert holds.active(db).of(ada.subject_ref)
    assert not holds.active(db).of(bob.subject_ref)
    assert holds.active(db).of(*references_of(keys, "user_id", ADA))
    release(db, hold)
    assert not holds.active(db).of(ada.subject_ref)


def test_a_hold_stores_no_identifier_and_both_ends_are_audited(db, keys):
    hold = hold_person(db, keys)
    release(db, hold, "settled out of court", actor=Staff("Alan Example", "airflow"))

    stored = b"".join(bson.encode(one) for name in db.list_collection_names() for one in db[name].find())
    assert ADA.binary not in stored
    assert str(ADA).encode() not in stored
    entries = list(db.audit_log.find().sort("chain.seq", 1))
    assert [(e["action"], e["entity_type"], e["entity_id"]) for e in entries] == [
        ("erasure.hold.placed", "legal_hold", hold.id),
        ("erasure.hold.released", "legal_hold", hold.id),
    ]
    personal = [{name: one["value"] for name, one in e["personal"].items()} for e in entries]
    assert personal == [
        {"actor": "Grace Example", "authority": "LG Berlin, 12 O 345/26"},
        {"actor": "Alan Example", "reason": "settled out of court"},
    ]
    noted = list(db[ledger.LEDGER].find().sort("chain.seq", 1))
    assert [e["action"] for e in noted] == ["erasure.hold.placed", "erasure.hold.released"]
    assert noted[0]["details"]["reason_code"] == "litigation"
    assert all(e["personal"] == {} for e in noted)
    assert audit.verify(db).ok
    assert ledger.verify(db).ok


def test_documents_are_held_by_a_filter(db, events):
    assert holds.active(db).exclusion("events") is None
    critical = hold_documents(db, '{"severity": "critical"}')
    fourth = hold_documents(db, '{"n": {"$numberInt": "4"}}')

    active = holds.active(db)
    exclusion = active.exclusion("events")
    assert exclusion.keys() == {"$nor"}
    assert sorted(exclusion["$nor"], key=str) == [{"n": 4}, {"severity": "critical"}]
    assert sorted(active.on("events")) == sorted([critical.id, fourth.id])
    assert active.exclusion("other") is None
    assert events.delete_many({"$and": [{}, exclusion]}).deleted_count == 2
    assert sorted(one["_id"] for one in events.find()) == [1, 3, 4, 5]
    release(db, critical)
    events.delete_many({"$and": [{}, holds.active(db).exclusion("events")]})
    assert [one["_id"] for one in events.find()] == [4]


def test_an_empty_filter_holds_the_whole_collection(db, events):
    hold_documents(db, "{}")
    assert events.count_documents(holds.active(db).exclusion("events")) == 0


def test_types_survive_in_a_filter(db, events):
    events.insert_one({"_id": "x", "at": NOW, "track": ADA})
    hold_documents(db, '{"at": {"$gte": {"$date": "2026-03-01T00:00:00Z"}}}')
    hold_documents(db, f'{{"track": {{"$oid": "{ADA}"}}, "severity": {{"$exists": false}}}}')

    exclusion = holds.active(db).exclusion("events")
    assert events.count_documents({}) - events.count_documents(exclusion) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"$where": "this.n > 1"}',
        '{"$expr": {"$function": {"body": "function() { return true }", "args": [], "lang": "js"}}}',
        '{"$expr": {"$eq": ["$n", 1]}}',
        '{"$or": [{"n": 1}, {"$where": "true"}]}',
        '{"n": {"$elemMatch": {"$where": "true"}}}',
        '{"n": {"$not": {"$function": 1}}}',
        '{"$text": {"$search": "x"}}',
        '{"$jsonSchema": {}}',
        '{"at": {"$near": [0, 0]}}',
        '{"email": "ada@example.org"}',
        '{"$or": [{"email": {"$in": ["ada@example.org"]}}]}',
        '{"n": {"$in": 1}}',
        '{"$and": []}',
        '{"n": {"$regex": "("}}',
        "[]",
        "n = 1",
        "",
        '{"_id": {"$oid": "x"}}',
        '{"at": {"$date": "never"}}',
    ],
)
def test_a_filter_with_code_with_a_person_or_without_sense_is_refused(db, events, text):
    with pytest.raises(HoldRefusedError) as seen:
        hold_documents(db, text)
    assert "ada@" not in str(seen.value)
    assert seen.value.exit_code == 3
    assert db[HOLDS].count_documents({}) == 0
    assert "audit_log" not in db.list_collection_names()


def test_a_misspelt_collection_is_refused(db, events):
    with pytest.raises(HoldRefusedError, match="no collection"):
        hold_documents(db, "{}", "event")


@pytest.mark.parametrize(
    "changes",
    [
        {"reason_code": ""},
        {"reason_code": "Ada Example sues"},
        {"authority": " "},
        {"authority": "x" * 201},
        {"authority": "judge@example.org"},
        {"review_at": NOW},
        {"review_at": (NOW + timedelta(days=1)).replace(tzinfo=None)},
    ],
    ids=str,
)
def test_a_hold_needs_reason_authority_and_a_day_of_review(db, keys, changes):
    scope = holds.of_subject(db, keys, "user_id", ADA)
    with pytest.raises(HoldRefusedError):
        place(db, scope, **changes)
    assert db[HOLDS].count_documents({}) == 0
    assert db[ledger.LEDGER].count_documents({}) == 0


def test_a_release_needs_a_reason_and_an_active_hold(db, keys):
    hold = hold_person(db, keys)
    with pytest.raises(HoldRefusedError, match="reason"):
        release(db, hold, "  ")
    assert holds.active(db).of(subject_reference(keys, "user_id", ADA))
    release(db, hold)
    with pytest.raises(HoldRefusedError, match="no active hold"):
        release(db, hold)
    assert db.audit_log.count_documents({"action": "erasure.hold.released"}) == 1


def test_holds_are_listed_for_review(db, keys):
    late = place(db, holds.of_subject(db, keys, "user_id", ADA), review_at=NOW + timedelta(days=20))
    soon = place(db, holds.of_subject(db, keys, "user_id", BOB), review_at=NOW + timedelta(days=10))
    released = hold_person(db, keys, ObjectId())
    release(db, released)

    assert [one.id for one in holds.listing(db)] == [soon.id, late.id]
    assert [one.id for one in holds.listing(db, review_before=NOW + timedelta(days=15))] == [soon.id]
    assert next(iter(holds.listing(db))) == soon


def test_the_digest_changes_with_every_hold(db, keys, events):
    digests = [holds.active(db).digest]
    first = hold_person(db, keys)
    digests.append(holds.active(db).digest)
    hold_documents(db, "{}")
    digests.append(holds.active(db).digest)
    release(db, first)
    digests.append(holds.active(db).digest)

    assert len(set(digests)) == 4
    assert holds.active(db).digest == digests[-1]


# Mid-run ------------------------------------------------------------------------------------------------------------------


def test_a_hold_placed_mid_run_stops_at_the_next_batch(db, keys, events):
    """Batches of two, each reading the holds in its own transaction; the hold comes between the first and the second."""
    holds.prepare(db)
    with acquire(db, "erasure", Holder("run 1")) as lease:

        def batch(first):
            def body(session):
                chunk = {"_id": {"$gte": first, "$lt": first + 2}}
                exclusion = holds.active(db, session).exclusion("events")
                return events.delete_many({"$and": [chunk, exclusion or {}]}, session=session).deleted_count

            return lease.transaction(body)

        deleted = [batch(0)]
        hold_documents(db, '{"severity": "critical"}')
        deleted += [batch(2), batch(4)]

    assert deleted == [2, 1, 1]
    assert [one["_id"] for one in events.find()] == [3, 5]


def test_inside_a_transaction_the_view_of_the_holds_does_not_change(db, keys):
    holds.prepare(db)
    ada = receive(db, keys)

    def body(session):
        before = holds.active(db, session).of(ada.subject_ref)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(hold_person, db, keys).result()
        return before, holds.active(db, session).of(ada.subject_ref)

    assert transact(db, body) == (False, False)
    assert transact(db, lambda session: holds.active(db, session)).of(ada.subject_ref)


# Rotations ----------------------------------------------------------------------------------------------------------------


def test_a_person_held_under_the_old_key_is_held_in_a_request_under_the_new(db):
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    hold_person(db, before)

    request = receive(db, after)

    assert request.subject_ref.startswith("sr2_")
    assert holds.active(db).of(request.subject_ref)
    assert holds.active(db).of(*references_of(after, "user_id", ADA))
    assert not holds.active(db).of(*references_of(after, "user_id", BOB))


def test_a_request_under_the_old_key_is_held_by_a_hold_under_the_new(db):
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    request = receive(db, before)
    assert request.subject_ref.startswith("sr1_")

    hold = hold_person(db, after)

    assert holds.active(db).of(request.subject_ref)
    put(db, request, State.HELD)
    assert release(db, hold) == (request.id,)


def test_an_exchanged_key_cannot_place_a_hold_that_would_hold_nobody(db, keys):
    receive(db, keys)
    with pytest.raises(KeyExchangedError):
        hold_person(db, keyring())
    assert db[HOLDS].count_documents({}) == 0


def test_a_hold_by_request_needs_no_key(db, keys):
    request = receive(db, keys)
    place(db, holds.of_request(db, request.id))
    assert holds.active(db).of(request.subject_ref)
    with pytest.raises(requests.RequestMissingError):
        holds.of_request(db, "er_" + "a" * 26)


# Release ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [State.HELD, State.COMPLETED_WITH_RETENTION])
def test_a_release_reopens_the_same_request(db, keys, kept):
    ada, bob = receive(db, keys), receive(db, keys, BOB)
    hold = hold_person(db, keys)
    put(db, ada, kept)
    put(db, bob, kept)

    assert release(db, hold) == (ada.id,)

    reopened = requests.load(db, ada.id)
    assert (reopened.id, reopened.state, reopened.reopened) == (ada.id, State.RECEIVED, 1)
    assert requests.subject_value(keys, reopened) == ADA
    assert state(db, bob) is kept
    noted = db[ledger.LEDGER].find_one({"action": "erasure.request.received", "details.hold": hold.id})
    assert (noted["entity_id"], noted["details"]["from"]) == (ada.id, str(kept))


@pytest.mark.parametrize("other", [s for s in State if s not in (State.HELD, State.COMPLETED_WITH_RETENTION)])
def test_a_release_leaves_requests_alone_that_the_hold_did_not_keep(db, keys, other):
    ada = receive(db, keys)
    hold = hold_person(db, keys)
    put(db, ada, other)

    assert release(db, hold) == ()
    assert state(db, ada) is other


def test_a_second_hold_keeps_the_request_closed(db, keys):
    ada = receive(db, keys)
    first, second = hold_person(db, keys), hold_person(db, keys)
    put(db, ada, State.HELD)

    assert release(db, first) == ()
    assert holds.active(db).of(ada.subject_ref)
    assert release(db, second) == (ada.id,)


def test_the_release_of_documents_reopens_the_requests_that_left_them_out(db, keys, events):
    hold = hold_documents(db, '{"severity": "critical"}')
    ada, bob, eve = (receive(db, keys, ObjectId()) for _ in range(3))
    put(db, ada, State.COMPLETED_WITH_RETENTION, outcome={"holds": [hold.id], "held": 2})
    put(db, bob, State.COMPLETED_WITH_RETENTION, outcome={"holds": ["eh_other"]})
    put(db, eve, State.COMPLETED_WITH_RETENTION, outcome={"holds": [hold.id]})
    place(db, holds.of_request(db, eve.id))

    assert release(db, hold) == (ada.id,)
    assert [state(db, one) for one in (bob, eve)] == [State.COMPLETED_WITH_RETENTION] * 2


def test_a_release_does_not_give_a_person_two_open_requests(db, keys):
    first = receive(db, keys)
    hold = hold_person(db, keys)
    put(db, first, State.COMPLETED_WITH_RETENTION)
    second = receive(db, keys)

    assert release(db, hold) == ()
    assert (state(db, first), state(db, second)) == (State.COMPLETED_WITH_RETENTION, State.RECEIVED)

    again = hold_person(db, keys)
    put(db, second, State.COMPLETED_WITH_RETENTION)  # two finished requests of one person: one of them goes on
    assert len(release(db, again)) == 1
    assert db[REQUESTS].count_documents({"open": True}) == 1


def test_a_hold_is_released_once_even_by_two_at_once(db, keys):
    ada = receive(db, keys)
    hold = hold_person(db, keys)
    put(db, ada, State.HELD)
    gate = threading.Barrier(2)

    def one(_):
        gate.wait()
        try:
            return release(db, hold)
        except HoldRefusedError:
            return None

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(one, range(2)), key=str) == [(ada.id,), None]
    assert requests.load(db, ada.id).reopened == 1
    assert ledger.verify(db).ok


def test_destroying_the_old_key_does_not_free_a_held_person(db):
    """The request links both epochs, so the hold is found although nobody can compute the old reference any more."""
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    hold_person(db, before)
    request = receive(db, after)
    late = Keyring({**after.keys, "subject": after.keys["subject"][:1]})

    assert references_of(late, "user_id", ADA) == (request.subject_ref,)
    assert holds.active(db).of(*references_of(late, "user_id", ADA))
