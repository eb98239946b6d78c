"""Erasure requests on a real server: nothing of the person in clear, one open request each, and only along the allowed ways."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import bson
import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.monitoring import CommandListener
from tests.people import GRACE, NOW, Staff, data_map, key_values, keyring, rotated

from mongo_ops import audit
from mongo_ops.erasure import ledger, requests, vault
from mongo_ops.erasure.deadlines import ExtensionRefusedError
from mongo_ops.erasure.keycheck import KEYS, KeyExchangedError
from mongo_ops.erasure.keys import KeyMissingError, Keyring
from mongo_ops.erasure.model import OPEN, State
from mongo_ops.erasure.references import NoReferenceError, references_of
from mongo_ops.erasure.requests import BATCHES, REQUESTS
from mongo_ops.erasure.states import WAYS
from mongo_ops.mongo.documents import CODEC
from mongo_ops.mongo.lease import Holder, LeaseLostError, acquire, unlock
from mongo_ops.mongo.transactions import transact

ADA = ObjectId("65f0c0ffee65f0c0ffee65f0")
MAP = data_map()


@pytest.fixture
def keys():
    return keyring()


def receive(db, keys, value=ADA, *, source="web", now=NOW, actor=GRACE, **more):
    return requests.receive(db, "development", MAP, keys, value, source, actor, now, **more)


def move(db, request, to, **facts):
    name = request if isinstance(request, str) else request.id
    return transact(db, lambda session: requests.transition(db, session, name, to, **facts))


def put(db, request, state):
    """Put a request into a state past the ways, for tests about what comes next."""
    db[REQUESTS].update_one({"_id": request.id}, {"$set": {"state": str(state), "open": state in OPEN}})


def everything(db):
    """All bytes of all documents of the database, lower-cased."""
    parts = [bson.encode(document) for name in db.list_collection_names() for document in db[name].find()]
    return b"".join(parts).lower()


def actions(db, log):
    return [entry["action"] for entry in db[log].find().sort("chain.seq", 1)]


def test_a_received_request_holds_nothing_of_the_person(db, keys):
    email = "ada.lovelace@example.org"
    request = receive(db, keys, email, source="letter")

    stored = db[REQUESTS].find_one()
    assert stored.keys() == {
        *("_id", "environment", "state", "open", "subject_ref", "references", "sealed", "received_at", "due_at"),
        *("source", "reopened", "run_id", "outcome", "transitions"),
    }
    assert request == requests.load(db, request.id)
    assert (request.state, request.source, request.received_at) == (State.RECEIVED, "letter", NOW)
    assert request.due_at == datetime(2026, 4, 1, 12, tzinfo=UTC)
    assert request.subject_ref == references_of(keys, "user_id", email)[0]
    assert requests.subject_value(keys, request) == email
    written = everything(db)
    for trace in (email.encode(), b"lovelace", base64.b64encode(email.encode()).lower()):
        assert trace not in written


def test_an_object_id_leaves_no_trace_either(db, keys):
    request = receive(db, keys)

    written = everything(db)
    assert requests.subject_value(keys, request) == ADA
    assert ADA.binary not in written
    assert str(ADA).encode() not in written
    assert db[REQUESTS].count_documents({}) == 1  # so there was something to look at


def test_receiving_is_audited_with_the_actor_and_noted_in_the_ledger_without(db, keys):
    request = receive(db, keys)

    (entry,) = db.audit_log.find()
    assert (entry["action"], entry["entity_type"], entry["entity_id"]) == (
        "erasure.request.received",
        "erasure_request",
        request.id,
    )
    assert {name: one["value"] for name, one in entry["personal"].items()} == {"actor": "Grace Example"}
    assert (entry["actor_kind"], entry["environment"]) == ("os", "development")
    (noted,) = db[ledger.LEDGER].find()
    assert (noted["entity_id"], noted["details"]["subject_ref"]) == (request.id, request.subject_ref)
    assert noted["personal"] == {}
    assert (
        b"grace"
        not in b"".join(bson.encode(one) for name in (REQUESTS, ledger.LEDGER) for one in db[name].find()).lower()
    )
    assert audit.verify(db).ok
    assert ledger.verify(db).ok


def test_the_same_person_twice_has_one_open_request(db, keys):
    first = receive(db, keys)
    second = receive(db, keys, source="support", now=NOW + timedelta(days=3))

    assert (first.again, second.again) == (False, True)
    assert (second.id, second.due_at, second.source) == (first.id, first.due_at, "web")
    assert db[REQUESTS].count_documents({}) == 1
    assert actions(db, "audit_log") == ["erasure.request.received", "erasure.request.received_again"]
    assert actions(db, ledger.LEDGER) == ["erasure.request.received"]


def test_other_people_have_their_own(db, keys):
    assert len({receive(db, keys, value).id for value in (ADA, ObjectId(), str(ADA), 7)}) == 4


def test_eight_processes_that_receive_one_person_at_once_make_one_request(db, keys):
    requests.prepare(db, keys)
    gate = threading.Barrier(8)

    def one(_):
        gate.wait()
        return receive(db, keys)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, range(8)))

    assert len({request.id for request in found}) == 1
    assert [request.again for request in found].count(False) == 1
    assert db[REQUESTS].count_documents({}) == 1
    assert db.audit_log.count_documents({}) == 8
    assert audit.verify(db).ok


def test_the_index_itself_keeps_a_person_from_two_open_requests(db, keys):
    receive(db, keys)
    copy = {**db[REQUESTS].find_one(), "_id": "er_copy"}
    with pytest.raises(Exception, match="E11000"):
        db[REQUESTS].insert_one(copy)
    db[REQUESTS].insert_one({**copy, "open": False})


def test_after_a_closed_request_the_person_may_ask_again(db, keys):
    first = receive(db, keys)
    put(db, first, State.COMPLETED)

    second = receive(db, keys, now=NOW + timedelta(days=90))

    assert second.id != first.id
    assert not second.again
    assert [one.id for one in requests.of_references(db, [first.subject_ref])] == [first.id, second.id]


def test_after_a_rotation_the_open_request_is_still_found(db):
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))
    first = receive(db, before)

    second = receive(db, after)

    assert (second.id, second.again) == (first.id, True)
    assert second.subject_ref == first.subject_ref
    assert set(db[REQUESTS].find_one()["references"]) == set(references_of(after, "user_id", ADA))
    late = Keyring({**after.keys, "subject": after.keys["subject"][:1]})  # the old key was destroyed meanwhile
    assert receive(db, late).id == first.id
    assert requests.subject_value(after, second) == ADA


def test_a_worker_with_the_old_keys_and_one_with_the_new_do_not_make_two(db):
    values = key_values()
    before, after = keyring(values), keyring(rotated(values))

    assert receive(db, after).id == receive(db, before).id


def test_an_exchanged_key_is_noticed_before_anything_is_received(db):
    receive(db, keyring(), ObjectId())
    known = {name: db[name].count_documents({}) for name in db.list_collection_names()}

    with pytest.raises(KeyExchangedError, match=r"subject\.1.*new epoch"):
        receive(db, keyring(), ADA)

    assert {name: db[name].count_documents({}) for name in db.list_collection_names()} == known
    assert db[KEYS].count_documents({}) == 4


@pytest.mark.parametrize("value", [None, "", " ", {"$ne": None}, [], True, 1.5], ids=repr)
def test_what_names_nobody_is_refused_and_nothing_is_written(db, keys, value):
    with pytest.raises(NoReferenceError):
        receive(db, keys, value)
    assert db.list_collection_names() == []


@pytest.mark.parametrize("missing", ["vault", "subject"])
def test_without_keys_nothing_is_written(db, keys, missing):
    some = Keyring({purpose: ring for purpose, ring in keys.keys.items() if purpose != missing})
    with pytest.raises(KeyMissingError, match=f"mongo_ops_key_{missing}"):
        receive(db, some)
    assert db[REQUESTS].count_documents({}) == 0


@pytest.mark.parametrize("source", ["", "ada@example.org", "By letter", "x" * 41, "$where"])
def test_a_source_is_one_word(db, keys, source):
    with pytest.raises(requests.RequestRefusedError) as seen:
        receive(db, keys, source=source)
    assert "ada" not in str(seen.value)
    assert db.list_collection_names() == []


def test_a_letter_is_due_a_month_after_it_came_in(db, keys):
    came = datetime(2026, 1, 31, 9, tzinfo=UTC)
    request = receive(db, keys, source="letter", received_at=came)

    assert (request.received_at, request.due_at) == (came, datetime(2026, 2, 28, 9, tzinfo=UTC))
    for wrong in (NOW + timedelta(seconds=1), datetime(2026, 1, 1)):
        with pytest.raises(requests.RequestRefusedError, match="earlier"):
            receive(db, keys, ObjectId(), received_at=wrong)


def test_a_request_is_listed_by_urgency_and_by_being_overdue(db, keys):
    made = [receive(db, keys, ObjectId(), received_at=NOW - timedelta(days=days)) for days in (1, 40, 10, 60)]
    put(db, made[3], State.COMPLETED)

    assert [one.id for one in requests.listing(db, states=OPEN)] == [made[1].id, made[2].id, made[0].id]
    assert [one.id for one in requests.listing(db, overdue_at=NOW)] == [made[1].id]
    assert [one.id for one in requests.listing(db, states=[State.COMPLETED])] == [made[3].id]
    assert len(list(requests.listing(db))) == 4


def test_an_unknown_id_is_named_only_when_it_is_one(db, keys):
    with pytest.raises(requests.RequestMissingError, match="er_" + "a" * 26):
        requests.load(db, "er_" + "a" * 26)
    with pytest.raises(requests.RequestMissingError) as seen:
        requests.load(db, "ada@example.org")
    assert "ada" not in str(seen.value)


def test_what_is_sealed_cannot_be_moved_to_another_request(db, keys):
    ada, bob = receive(db, keys, ADA), receive(db, keys, ObjectId())
    db[REQUESTS].update_one({"_id": bob.id}, {"$set": {"sealed": ada.sealed}})

    with pytest.raises(vault.VaultError, match="another request"):
        requests.subject_value(keys, requests.load(db, bob.id))


# Transitions --------------------------------------------------------------------------------------------------------------

HAPPY = (State.PLANNED, State.APPROVED, State.EXECUTING, State.VERIFYING, State.COMPLETED, State.CLOSED)


def test_a_request_goes_all_the_way_and_each_step_is_in_the_ledger(db, keys):
    request = receive(db, keys)
    for number, state in enumerate(HAPPY):
        request = move(
            db,
            request,
            state,
            run_id="manual__1",
            plan_digest="ab" * 32,
            now=NOW + timedelta(hours=number),
            step=number,
        )
        assert (request.state, request.run_id) == (state, "manual__1")

    stored = db[REQUESTS].find_one()
    assert [(step["from"], step["to"]) for step in stored["transitions"]] == [
        (None, "received"), ("received", "planned"), ("planned", "approved"), ("approved", "executing"),
        ("executing", "verifying"), ("verifying", "completed"), ("completed", "closed"),
    ]  # fmt: skip
    assert [step["at"] for step in stored["transitions"][1:]] == [NOW + timedelta(hours=n) for n in range(6)]
    noted = list(db[ledger.LEDGER].find({"action": {"$ne": "erasure.request.received"}}).sort("chain.seq", 1))
    assert [entry["action"] for entry in noted] == [f"erasure.request.{state}" for state in HAPPY]
    assert [entry["details"]["step"] for entry in noted] == list(range(6))
    assert noted[0]["plan_digest"] == "ab" * 32
    assert ledger.verify(db).ok


def test_closing_destroys_the_identity_and_the_link_between_epochs(db):
    values = key_values(2)
    keys = keyring(values)
    request = receive(db, keys)
    assert len(db[REQUESTS].find_one()["references"]) == 2
    put(db, request, State.COMPLETED)

    closed = move(db, request, State.CLOSED)

    assert closed.sealed == b""
    stored = db[REQUESTS].find_one()
    assert "sealed" not in stored
    assert stored["references"] == [request.subject_ref]
    assert stored["open"] is False
    with pytest.raises(vault.VaultError, match="closed"):
        requests.subject_value(keys, closed)


@pytest.mark.parametrize("origin", list(State))
def test_only_the_allowed_ways_lead_on(db, keys, origin):
    request = receive(db, keys)
    for to in State:
        put(db, request, origin)
        entries = db[ledger.LEDGER].count_documents({})
        if to in WAYS[origin]:
            assert move(db, request, to).state is to
            assert db[REQUESTS].find_one()["open"] is (to in OPEN)
            assert db[ledger.LEDGER].count_documents({}) == entries + 1
        else:
            with pytest.raises(requests.WrongStateError, match=request.id):
                move(db, request, to)
            assert requests.load(db, request.id).state is origin
            assert db[ledger.LEDGER].count_documents({}) == entries
    assert ledger.verify(db).ok


def test_a_retry_of_the_same_run_may_say_it_again(db, keys):
    request = receive(db, keys)
    move(db, request, State.PLANNED, run_id="manual__1")
    before = db[ledger.LEDGER].count_documents({})

    move(db, request, State.PLANNED, run_id="manual__1")
    assert db[ledger.LEDGER].count_documents({}) == before
    move(db, request, State.PLANNED, run_id="manual__2")  # another run plans anew
    assert db[ledger.LEDGER].count_documents({}) == before + 1
    move(db, request, State.APPROVED, run_id="manual__2")
    with pytest.raises(requests.WrongStateError):
        move(db, request, State.APPROVED, run_id="manual__1")


def test_of_two_runs_at_once_one_moves_the_request(db, keys):
    request = receive(db, keys)
    put(db, request, State.APPROVED)
    gate = threading.Barrier(2)

    def run(number):
        gate.wait()
        try:
            return move(db, request, State.EXECUTING, run_id=f"run {number}").run_id
        except requests.WrongStateError:
            return None

    with ThreadPoolExecutor(2) as pool:
        winners = [name for name in pool.map(run, range(2)) if name]

    assert len(winners) == 1
    assert requests.load(db, request.id).run_id == winners[0]
    assert actions(db, ledger.LEDGER).count("erasure.request.executing") == 1


def test_a_run_that_lost_its_lease_moves_nothing(db, keys):
    request = receive(db, keys)
    with acquire(db, "erasure", Holder("run 1")) as lease:
        lease.transaction(lambda session: requests.transition(db, session, request.id, State.PLANNED, run_id="run 1"))
        unlock(db, "erasure", force=True)
        with pytest.raises(LeaseLostError):
            lease.transaction(
                lambda session: requests.transition(db, session, request.id, State.APPROVED, run_id="run 1")
            )

    assert requests.load(db, request.id).state is State.PLANNED
    assert actions(db, ledger.LEDGER)[-1] == "erasure.request.planned"


def test_many_requests_move_together_or_not_at_all(db, keys):
    made = [receive(db, keys, ObjectId()) for _ in range(5)]
    ids = [one.id for one in made]
    put(db, made[3], State.COMPLETED)

    def all_of_them(some):
        return transact(db, lambda session: requests.transition_all(db, session, some, State.PLANNED, run_id="run 1"))

    with pytest.raises(requests.WrongStateError, match=f"{ids[3]} is completed"):
        all_of_them(ids)
    assert db[REQUESTS].count_documents({"state": "received"}) == 4
    with pytest.raises(requests.RequestMissingError):
        all_of_them([ids[0], "er_" + "a" * 26])
    with pytest.raises(ValueError, match="twice"):
        all_of_them([ids[0], ids[0]])

    assert all_of_them(ids[:3]) == tuple(ids[:3])
    assert all_of_them(ids[:3] + ids[4:]) == (ids[4],)
    assert db[REQUESTS].count_documents({"state": "planned", "run_id": "run 1"}) == 4
    assert db[ledger.LEDGER].count_documents({"action": "erasure.request.planned"}) == 4


class Commands(CommandListener):
    def __init__(self):
        self.names = []

    def started(self, event):
        self.names.append(event.command_name)

    def succeeded(self, event): ...

    def failed(self, event): ...


def test_a_thousand_requests_move_in_as_many_round_trips_as_one(replica_set, db, keys):
    template = receive(db, keys)
    document = db[REQUESTS].find_one()
    copies = [{**document, "_id": f"er_{n}", "references": [f"sr1_{n}"]} for n in range(1000)]
    db[REQUESTS].insert_many(copies)
    commands = Commands()
    with MongoClient(replica_set.uri, event_listeners=[commands]) as client:
        listened = client.get_database(db.name, codec_options=CODEC)

        def go(session):
            ids = [template.id, *(one["_id"] for one in copies)]
            return requests.transition_all(listened, session, ids, State.PLANNED, run_id="r", actor=GRACE)

        assert len(transact(listened, go)) == 1001
        counted = [name for name in commands.names if name != "getMore"]
        assert len(counted) == 2 + 3 + 3 + 1  # find, update, ledger, audit, commit
    assert ledger.verify(db).entries == 1002
    assert audit.verify(db).entries == 1002


def test_a_decision_by_a_person_is_audited_and_the_runs_own_steps_are_not(db, keys):
    request = receive(db, keys)
    move(db, request, State.PLANNED, run_id="run 1")
    move(db, request, State.APPROVED, run_id="run 1", plan_digest="cd" * 32, actor=Staff("Alan Example", "airflow"))

    assert actions(db, "audit_log") == ["erasure.request.received", "erasure.request.approved"]
    entry = db.audit_log.find_one({"action": "erasure.request.approved"})
    assert entry["personal"]["actor"]["value"] == "Alan Example"
    assert (entry["run_id"], entry["plan_digest"]) == ("run 1", "cd" * 32)
    assert (
        b"alan"
        not in b"".join(bson.encode(one) for name in (REQUESTS, ledger.LEDGER) for one in db[name].find()).lower()
    )


@pytest.mark.parametrize("where", ["outcome", "fact"])
def test_evidence_takes_no_personal_value(db, keys, where):
    request = receive(db, keys)
    facts = {"outcome": {"kept": "ada@example.org"}} if where == "outcome" else {"kept": str(ADA)}
    with pytest.raises(ValueError, match="kept"):
        move(db, request, State.FAILED, **facts)
    assert requests.load(db, request.id).state is State.RECEIVED


def test_reopening_counts_and_starts_a_deadline_that_has_passed_anew(db, keys):
    request = receive(db, keys)
    put(db, request, State.VERIFYING)
    move(db, request, State.COMPLETED_WITH_RETENTION, run_id="run 1", outcome={"held": 3})
    early = move(db, request, State.RECEIVED, now=NOW + timedelta(days=2))
    assert (early.reopened, early.due_at, early.run_id, early.outcome) == (1, request.due_at, None, {})
    assert requests.subject_value(keys, early) == ADA

    put(db, request, State.COMPLETED)
    late = move(db, request, State.RECEIVED, now=datetime(2027, 1, 31, tzinfo=UTC))
    assert (late.reopened, late.due_at) == (2, datetime(2027, 2, 28, tzinfo=UTC))


def test_reopening_never_gives_a_person_two_open_requests(db, keys):
    first = receive(db, keys)
    put(db, first, State.COMPLETED)
    receive(db, keys)

    with pytest.raises(requests.OpenRequestExistsError, match="another open request"):
        move(db, first, State.RECEIVED)
    assert requests.load(db, first.id).state is State.COMPLETED


# Extension and batches ----------------------------------------------------------------------------------------------------


def extend(db, request, reason="500 requests in one week", notified=NOW + timedelta(days=9)):
    return requests.extend(
        db, request.id, reason=reason, notified_at=notified, actor=GRACE, now=NOW + timedelta(days=10)
    )


def test_an_extension_moves_the_deadline_and_its_reason_is_in_the_audit_log_only(db, keys):
    request = receive(db, keys)
    extended = extend(db, request)

    assert extended.due_at == datetime(2026, 6, 1, 12, tzinfo=UTC)
    entry = db.audit_log.find_one({"action": "erasure.request.extended"})
    assert entry["personal"]["reason"]["value"] == "500 requests in one week"
    assert b"one week" not in b"".join(
        bson.encode(one) for name in (REQUESTS, ledger.LEDGER) for one in db[name].find()
    )
    assert actions(db, ledger.LEDGER)[-1] == "erasure.request.extended"


def test_an_extension_is_refused_late_without_reason_twice_and_for_what_is_done(db, keys):
    request = receive(db, keys)
    with pytest.raises(ExtensionRefusedError):
        extend(db, request, reason=" ")
    with pytest.raises(ExtensionRefusedError, match="2026-04-01"):
        extend(db, request, notified=NOW + timedelta(days=32))
    assert requests.load(db, request.id).due_at == request.due_at
    extend(db, request)
    with pytest.raises(requests.RequestRefusedError, match="once"):
        extend(db, request)
    done = receive(db, keys, ObjectId())
    put(db, done, State.COMPLETED)
    with pytest.raises(requests.RequestRefusedError, match="not open"):
        extend(db, done)
    assert actions(db, "audit_log").count("erasure.request.extended") == 1


def test_a_batch_takes_what_is_ready_the_most_urgent_first(db, keys):
    made = [receive(db, keys, ObjectId(), received_at=NOW - timedelta(days=days)) for days in (1, 9, 5, 7, 3)]
    put(db, made[1], State.HELD)
    put(db, made[2], State.PARTIAL)

    batch = requests.make_batch(db, "development", actor=GRACE, now=NOW)

    assert requests.members(db, batch) == (made[3].id, made[2].id, made[4].id, made[0].id)
    assert requests.members(db, made[0].id) == (made[0].id,)
    assert len(batch) == 3 + 26
    entry = db.audit_log.find_one({"action": "erasure.batch.made"})
    assert (entry["entity_type"], entry["entity_id"], entry["details"]["requests"]) == ("erasure_batch", batch, 4)
    smaller = requests.make_batch(db, "development", actor=GRACE, now=NOW, limit=2)
    assert requests.members(db, smaller) == (made[3].id, made[2].id)


def test_a_batch_of_named_requests_wants_them_open(db, keys):
    made = [receive(db, keys, ObjectId()) for _ in range(3)]
    put(db, made[1], State.COMPLETED)

    with pytest.raises(requests.RequestRefusedError, match="1 of 3"):
        requests.make_batch(db, "development", actor=GRACE, now=NOW, requests=[one.id for one in made])
    assert db[BATCHES].count_documents({}) == 0
    some = [made[2].id, made[0].id, made[2].id]
    assert requests.members(db, requests.make_batch(db, "development", actor=GRACE, now=NOW, requests=some)) == (
        made[2].id,
        made[0].id,
    )


def test_an_empty_batch_is_refused(db, keys):
    requests.prepare(db, keys)
    with pytest.raises(requests.RequestRefusedError, match="No request"):
        requests.make_batch(db, "development", actor=GRACE, now=NOW)
    with pytest.raises(requests.RequestMissingError):
        requests.members(db, "eb_" + "a" * 26)
