"""Withdrawn consent, enforced in chunks of people: a retry skips nobody, whoever has gone or come meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.mongo.erasure_people import ANN, BOB, CAST, JOANN, Course, database, plant
from tests.people import GRACE

from mongo_ops.erasure import retention, run, withdrawals
from mongo_ops.erasure.consent import Decision, grant, withdraw

NOW = datetime(2028, 6, 1, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def model(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("model")) as target:
        yield Course(target).model()


@pytest.fixture
def course(model, tmp_path):
    at = model.emptied(tmp_path)
    plant(at.db)
    for who in CAST:
        decision = Decision("analytics", "2026-01", "web")
        grant(at.db, "development", who.user, decision, actor=GRACE, now=NOW - timedelta(days=40))
        withdraw(at.db, "development", at.data_map, who.user, decision, actor=GRACE, now=NOW - timedelta(days=4))
    yield at
    model.emptied(tmp_path)


def test_a_retry_skips_nobody_when_somebody_of_an_earlier_chunk_is_gone(course, monkeypatch):
    monkeypatch.setattr(withdrawals, "PEOPLE", 1)
    plan = retention.plan(course.engine, at=NOW)
    first, second, third = sorted(CAST, key=lambda who: who.user)
    real, calls = run.Handling.carry_out, []

    def dying(self, rule, there):
        calls.append(rule.id)
        if len(calls) == 2:
            raise ConnectionError
        return real(self, rule, there)

    monkeypatch.setattr(run.Handling, "carry_out", dying)
    with pytest.raises(ConnectionError):
        withdrawals.consent_withdrawals(course.engine, plan)
    monkeypatch.setattr(run.Handling, "carry_out", real)
    plays = {who: course.db.analytics.count_documents({"user_id": who.user}) for who in (first, second, third)}
    assert plays == {first: 0, second: 5, third: 5}
    course.db.consent.delete_many({"user_id": first.user})  # an erasure was quicker

    done = {one.type: one for one in withdrawals.consent_withdrawals(course.engine, plan)}

    assert course.db.analytics.count_documents({"user_id": {"$in": [who.user for who in (ANN, BOB, JOANN)]}}) == 0
    assert (done["analytics"].people, done["analytics"].documents) == (2, {"analytics.events": 15})
