"""People under a legal hold: nothing of theirs is deleted or dropped, whichever way it would go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.mongo.erasure_people import ANN, BOB, Course, plant
from tests.mongo.partition_runner import NOW, Partitions
from tests.people import GRACE

from mongo_ops.erasure import holds
from mongo_ops.partitions import by_time
from mongo_ops.partitions.errors import HeldError
from mongo_ops.partitions.model import Phase, Strategy

OLD = NOW - timedelta(days=200)


@pytest.fixture
def course(target):
    made = Course(target)
    plant(made.db)
    made.db.analytics.drop()
    made.db.analytics.insert_many(
        [{"event_type": "play", "user_id": who.user, "ts": OLD} for who in (ANN, ANN, BOB, BOB, BOB)]
    )
    return made


@pytest.fixture
def partitions(course, tmp_path):
    return Partitions(course.target, (tmp_path / "archive").as_uri(), {"erasure": course.engine})


def hold(course, who):
    scope = holds.of_subject(course.db, course.keyring, "user_id", who.user)
    now = datetime.now(UTC)
    return holds.place(
        course.db, "development", scope, reason_code="litigation", authority="LG", review_at=now + timedelta(days=9), actor=GRACE, now=now
    )  # fmt: skip


def test_cold_documents_of_a_held_person_are_archived_and_stay(course, partitions):
    hold(course, ANN)

    plan = partitions.plan(Strategy.ARCHIVE, collection="analytics", key="ts", keep_months=2)
    done = partitions.carry_out(plan)

    assert any(note.startswith("2 of them are under a legal hold, or belong to somebody who is") for note in plan.notes)
    assert done["remove"] == {"deleted": 3, "changed": 0, "gone": 0, "held": 2}
    assert [one["user_id"] for one in course.db.analytics.find()] == [ANN.user, ANN.user]


def test_a_month_with_documents_of_a_held_person_is_not_dropped(course, partitions, monkeypatch):
    monkeypatch.setattr(by_time, "load_personal_fields", dict)  # as if the data map named analytics*
    asked = {"collection": "analytics", "key": "ts"}
    partitions.run(Strategy.BY_TIME, move=True, **asked)
    month = by_time.name_of("analytics", by_time.Month.of(OLD))
    early = partitions.plan(Strategy.BY_TIME, run="run 2", keep_months=1, **asked)
    placed = hold(course, ANN)

    late = partitions.plan(Strategy.BY_TIME, run="run 3", keep_months=1, **asked)
    with pytest.raises(HeldError, match=f"2 documents of {month}"):
        partitions.carry_out(early, "run 2")

    assert early.of_phase(Phase.REMOVE)
    assert not late.of_phase(Phase.REMOVE)
    assert any(note.startswith(f"{month} stays: 2 of its documents") for note in late.notes)
    assert course.db[month].count_documents({}) == 5
    holds.release(course.db, "development", placed.id, reason="over", actor=GRACE, now=datetime.now(UTC))
    assert partitions.run(Strategy.BY_TIME, run="run 4", keep_months=1, **asked)["remove"]["documents"] == 5
