"""Notices to recipients: one for each of them and each request, written with its conclusion, without the person."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bson
import pytest
from tests.mongo.erasure_people import ANN, BOB, Course, Traces, plant
from tests.people import GRACE, NOW

from mongo_ops.erasure import ledger, notices, requests
from mongo_ops.erasure.model import Change, CollectionEntry, FieldNote, Ground, Rule, Tally
from mongo_ops.erasure.notices import NOTICES, NoticeMissingError
from mongo_ops.mongo.transactions import transact


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    return made


@pytest.fixture
def request_of_ann(course):
    return requests.load(course.db, course.receive())


def write(course, request, *rules, now=NOW, number=3):
    tallies = [Tally(one, number, {request.id: number, "er_other": 1}) for one in rules]
    return transact(
        course.db, lambda session: notices.write(course.db, session, course.data_map, [request], tallies, now)
    )


def test_an_erasure_leaves_a_notice_for_each_recipient_of_what_was_erased(course):
    request, other = course.receive(), course.receive(BOB.user)

    course.whole(course.batch(request, other))

    found = {one.id: one for one in notices.listing(course.db)}
    assert set(found) == {
        f"{one}/{recipient}"
        for one in (request, other)
        for recipient in ("mail_provider", "payment_provider", "model_provider")
    }
    mail = found[f"{request}/mail_provider"]
    assert mail.collections == ("users",)
    assert {"user.contact.email", "user.name"} <= set(mail.categories)
    assert found[f"{request}/model_provider"].collections == ("ai_content",)
    assert mail.subject_ref == requests.load(course.db, request).subject_ref
    stored = b"".join(map(bson.encode, course.db[NOTICES].find()))
    assert not Traces(ANN).hit(stored)


def test_a_conclusion_that_fails_leaves_no_notice(course, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(notices, "_touched", fail)
    with pytest.raises(RuntimeError):
        course.whole(course.receive())

    assert course.db[NOTICES].count_documents({}) == 0
    assert course.db.ops_erasure_certificates.count_documents({}) == 0


def test_the_same_again_changes_nothing_and_more_opens_a_told_notice_again(course, request_of_ann):
    assert write(course, request_of_ann, "users.account") == 2
    before = list(course.db[NOTICES].find())
    write(course, request_of_ann, "users.account", now=NOW + timedelta(days=1))
    assert list(course.db[NOTICES].find()) == before

    key = f"{request_of_ann.id}/mail_provider"
    notices.mark_told(course.db, "development", key, actor=GRACE, now=NOW)
    write(course, request_of_ann, "users.account", now=NOW + timedelta(days=2))
    assert key not in {one.id for one in notices.listing(course.db)}

    again = replace(request_of_ann, reopened=1)
    write(course, again, "users.account", now=NOW + timedelta(days=3))
    opened = next(one for one in notices.listing(course.db) if one.id == key)
    assert (opened.made_at, opened.told_at) == (NOW + timedelta(days=3), None)


def test_what_no_rule_touched_and_what_is_only_kept_is_told_to_nobody(course, request_of_ann):
    assert write(course, request_of_ann, "analytics.events") == 0
    assert write(course, request_of_ann, "users.account", number=0) == 0


def test_telling_is_ledgered_and_audited_once(course, request_of_ann):
    write(course, request_of_ann, "users.account")
    key = f"{request_of_ann.id}/payment_provider"

    told = notices.mark_told(course.db, "development", key, actor=GRACE, now=NOW)

    assert told.told_at == NOW
    assert [one.id for one in notices.listing(course.db)] == [f"{request_of_ann.id}/mail_provider"]
    assert len(list(notices.listing(course.db, open_only=False))) == 2
    (entry,) = course.db[ledger.LEDGER].find({"action": "erasure.notice.told"})
    assert entry["details"]["recipient"] == "payment_provider"
    assert course.db.audit_log.count_documents({"action": "erasure.notice.told"}) == 1
    assert ledger.verify(course.db).ok
    for missing in (key, "er_nobody/mail_provider"):
        with pytest.raises(NoticeMissingError):
            notices.mark_told(course.db, "development", missing, actor=GRACE, now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("c.x", "c", {}, "delete"), {"all": {"user.name", "user.contact.address.city"}, "maps": {"user.contact.address.city"}}),
        (Rule("c.x", "c", {}, "anonymize", changes=(Change("name", "unset"),)), {"all": {"user.name"}}),
        (
            Rule("c.x", "c", {}, "anonymize", changes=(Change("address", "unset"),)),
            {"all": {"user.contact.address.city"}, "maps": {"user.contact.address.city"}},
        ),
        (Rule("c.x", "c", {}, "anonymize", changes=(Change("other", "unset"),)), {}),
        (Rule("c.x", "c", {}, "retain", ground=Ground("art17_3_b", "tax", "cfo")), {}),
    ],
    ids=["whole", "field", "above", "elsewhere", "kept"],
)  # fmt: skip
def test_recipients_are_those_of_the_collection_and_of_the_fields(rule, expected):
    fields = {
        "_id": FieldNote("system"),
        "name": FieldNote("user.name"),
        "address.city": FieldNote("user.contact.address.city", recipients=("maps",)),
    }
    entry = CollectionEntry("c", fields, (rule,), recipients=("all",))

    assert {name: set(some) for name, some in notices.recipients_of(entry, rule).items()} == expected
