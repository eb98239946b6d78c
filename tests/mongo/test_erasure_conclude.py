"""What a run comes to: legal holds at every moment, retention, re-opened requests; and a foreign data map from end to end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.erasure_maps import chinook
from tests.mongo.erasure_people import ANN, BOB, JOANN, REMAIN, Course, database, plant, raw_of, snapshot, traced_places
from tests.people import GRACE

from mongo_ops import audit
from mongo_ops.erasure import holds, ledger, requests
from mongo_ops.erasure.closure import CLOSURES
from mongo_ops.erasure.conclusion import certificates
from mongo_ops.erasure.plan import NobodyError, PlanChangedError
from mongo_ops.erasure.requests import load


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


def place(course, scope):
    now = datetime.now(UTC)
    told = {"reason_code": "litigation", "authority": "court, file 7", "review_at": now + timedelta(days=30)}
    return holds.place(course.db, "development", scope, **told, actor=GRACE, now=now)


def release(course, hold):
    return holds.release(course.db, "development", hold.id, reason="settled", actor=GRACE, now=datetime.now(UTC))


def begun(course, run):
    plan = course.engine.plan(run)
    course.engine.hold()
    course.engine.begin(plan)
    return plan


# Holds on a person ---------------------------------------------------------------------------------------------------------


def test_a_hold_placed_mid_run_stops_at_the_next_batch_and_its_release_finishes_the_same_request(course):
    request = course.receive()
    plan = begun(course, request)
    course.engine.carry_out(plan, "analytics.events")
    hold = place(course, holds.of_request(course.db, request))
    before = snapshot(course.db)

    course.execute(plan)
    concluded = course.finish(plan)
    course.engine.release()

    assert concluded.states == {"held": 1}
    after = snapshot(course.db)
    assert {name for name in before if before[name] != after[name]} <= {"ops_checkpoints", "ops_legal_holds"}
    assert course.db.users.count_documents({"_id": ANN.user}) == 1
    assert certificates(course.db, request) == []
    with pytest.raises(NobodyError, match="held"):
        course.engine.plan(request)

    assert release(course, hold) == (request,)
    assert course.whole(request).states == {"completed_with_retention": 1}
    assert set(traced_places(course.target.client, ANN)) == REMAIN
    (made,) = certificates(course.db, request)
    assert {one["rule"]: one["documents"] for one in made["rules"]}[
        "analytics.events"
    ] == 5  # of the try before the hold, too


def test_a_hold_placed_between_plan_and_begin_needs_a_new_plan(course):
    request = course.receive()
    plan = course.engine.plan(request)
    place(course, holds.of_request(course.db, request))

    with pytest.raises(PlanChangedError):
        course.engine.begin(plan)

    assert course.db.users.count_documents({"_id": ANN.user}) == 1


def test_one_held_person_does_not_keep_the_others(course):
    ann, bob = course.receive(), course.receive(BOB.user)
    hold = place(course, holds.of_request(course.db, bob))
    batch = course.batch(ann, bob)

    assert course.whole(batch).states == {"completed_with_retention": 1}
    assert course.engine.plan(batch, only=True).excluded == {
        ann: "done already (completed_with_retention)",
        bob: "held",
    }
    assert course.db.users.count_documents({"_id": BOB.user}) == 1

    release(course, hold)
    concluded = course.whole(bob)
    assert concluded.complete, concluded.reasons


# Holds on documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collection", "filter_text", "key"),
    [
        ("geo_events", '{"event_type": "check_in"}', ANN.id(64)),
        ("versioning", f'{{"_id": {{"$oid": "{BOB.id(10)}"}}}}', BOB.id(10)),  # found by a walk only
        ("security_events", '{"event_type": "login_failed"}', BOB.id(7)),
    ],
)
def test_held_documents_stay_and_go_when_the_hold_is_released(course, collection, filter_text, key):
    hold = place(course, holds.of_documents(course.db, collection, filter_text))
    before = raw_of(course.db, collection, key)
    request = course.receive()

    assert course.whole(request).states == {"completed_with_retention": 1}
    assert load(course.db, request).outcome["holds"] == [hold.id]
    assert raw_of(course.db, collection, key) == before
    assert {place.partition(".")[0] for place in traced_places(course.target.client, ANN).keys() - REMAIN} == {
        collection
    }
    assert course.db.users.count_documents({"_id": ANN.user}) == 0
    assert course.db[CLOSURES].count_documents({"_id": request}) == 1

    assert release(course, hold) == (request,)
    assert course.state(request) == "received"
    assert course.whole(request).states == {"completed_with_retention": 1}
    assert set(traced_places(course.target.client, ANN)) == REMAIN
    assert len(certificates(course.db, request)) == 2
    assert course.db[CLOSURES].count_documents({}) == 0
    assert ledger.verify(course.db).ok
    assert audit.verify(course.db).ok


def test_a_hold_that_keeps_nothing_of_a_person_is_not_theirs(course):
    hold = place(course, holds.of_documents(course.db, "geo_events", '{"event_type": "concert"}'))
    request = course.receive()

    assert course.whole(request).complete
    assert "holds" not in load(course.db, request).outcome
    assert course.db[CLOSURES].count_documents({}) == 0
    assert release(course, hold) == ()


def test_a_hold_released_between_verification_and_conclusion_leaves_nobody_behind(course):
    hold = place(course, holds.of_documents(course.db, "geo_events", '{"event_type": "check_in"}'))
    request = course.receive()
    plan = begun(course, request)
    course.execute(plan)
    course.engine.sweep(plan)
    course.engine.verify(plan)
    release(course, hold)

    assert course.engine.conclude(plan).states == {"partial": 1}
    course.engine.release()
    assert course.whole(request).complete
    assert set(traced_places(course.target.client, ANN)) == REMAIN


def test_what_an_earlier_run_of_the_request_did_is_in_its_certificate(course):
    course.db.notes.insert_one({"text": "a gap"})
    ann, joann = course.receive(), course.receive(JOANN.user)
    assert course.whole(course.batch(ann, joann)).states == {"partial": 2}
    course.db.notes.drop()

    assert course.whole(ann).states == {"completed_with_retention": 1}

    (made,) = certificates(course.db, ann)
    assert {one["rule"]: one["documents"] for one in made["rules"]}["users.account"] == 1
    assert course.whole(joann).complete


# A foreign data map --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(target):
    counts = chinook.load(target.db)
    return Course(target, data_map=chinook.data_map()), counts


def test_a_foreign_map_erases_a_customer_and_keeps_the_books(shop):
    course, counts = shop
    db = course.db
    luis = db.Customer.find_one({"CustomerId": 1})
    others = {name: sorted(map(str, db[name].find({"CustomerId": {"$ne": 1}}))) for name in ("Customer", "Invoice")}
    rest = {name: sorted(map(str, db[name].find())) for name in ("Employee", "InvoiceLine", "Track")}
    invoices = list(db.Invoice.find({"CustomerId": 1}))
    request = course.receive(1)

    concluded = course.whole(request)

    assert concluded.states == {"completed_with_retention": 1}, concluded
    reference = requests.load(db, request).subject_ref
    assert db.Customer.count_documents({}) == counts["Customer"] - 1
    assert [one["InvoiceId"] for one in db.Invoice.find({"CustomerId": reference})] == [
        one["InvoiceId"] for one in invoices
    ]
    address = {"BillingAddress": {"$exists": True}}
    assert db.Invoice.count_documents({"CustomerId": reference, **address}) == 0
    assert sum(one["Total"] for one in db.Invoice.find({"CustomerId": reference})) == sum(
        one["Total"] for one in invoices
    )
    assert {
        name: sorted(map(str, db[name].find({"CustomerId": {"$nin": [1, reference]}}))) for name in others
    } == others
    assert {name: sorted(map(str, db[name].find())) for name in rest} == rest
    found = [one for name in db.list_collection_names() for one in db[name].find() if luis["Email"] in str(one)]
    assert found == []
    (made,) = certificates(db, request)
    assert {one["rule"]: (one["documents"], one["form"]) for one in made["retained"]} == {
        "Invoice.billed": (7, "under the subject reference"), "InvoiceLine.billed": (38, "as it is"),
    }  # fmt: skip


def test_a_foreign_map_erases_everybody_in_one_batch(shop):
    course, counts = shop
    batch = course.batch(*(course.receive(number) for number in range(1, counts["Customer"] + 1)))

    concluded = course.whole(batch)

    assert concluded.states == {"completed_with_retention": counts["Customer"]}, concluded
    assert course.db.Customer.count_documents({}) == 0
    assert course.db.Invoice.count_documents({"CustomerId": {"$type": "number"}}) == 0
    assert course.db.Employee.count_documents({}) == counts["Employee"]


def test_dropping_a_rule_of_a_foreign_map_is_noticed(shop):
    course, _ = shop
    mutant = course.without("Customer.account")

    assert mutant.whole(mutant.receive(1)).states == {"partial": 1}


def test_somebody_without_anything_to_trace_is_judged_by_the_rules_alone(shop):
    course, _ = shop
    course.db.Customer.insert_one({"CustomerId": 9001, "FirstName": "No", "LastName": "Mail"})
    request = course.receive(9001)

    assert course.whole(request).states == {"completed": 1}
    (made,) = certificates(course.db, request)
    assert made["verification"]["traces_before"] == 0
    assert course.db.Customer.count_documents({"CustomerId": 9001}) == 0

    course.db.Customer.insert_one({"CustomerId": 9002, "FirstName": "No", "LastName": "Mail"})
    left = replace(course, data_map=course.without("Customer.account").data_map)
    with pytest.raises(NobodyError):
        left.whole(left.receive(9003))
