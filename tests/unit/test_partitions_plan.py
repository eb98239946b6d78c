"""What is asked, what a plan's digest binds, and what a person reads of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mongo_ops.partitions import report
from mongo_ops.partitions.catalogue import Shape, router, routes
from mongo_ops.partitions.errors import RequestError
from mongo_ops.partitions.model import PartitionPlan, PartitionRequest, PartitionStep, Phase, Picture, Strategy
from mongo_ops.partitions.months import Month
from mongo_ops.partitions.moving import month_of
from mongo_ops.partitions.privileges import Grant, missing, reading

AT = datetime(2026, 11, 15, tzinfo=UTC)
REQUEST = PartitionRequest(collection="events", strategy=Strategy.BY_TIME, key="at")
PLAN = PartitionPlan(
    environment="staging", database="d", request=REQUEST, at=AT, destination="s3://a/b",
    steps=(PartitionStep(phase=Phase.CREATE, subject="events_2026_11", sentence="make it"),),
)  # fmt: skip


def test_a_plan_and_its_request_survive_json_and_keep_their_digest():
    rich = replace(PLAN, pictures=(Picture(title="t", bars=(("2026-01", 3),)),), notes=("n",), blockers=("b",))

    assert PartitionPlan.of(rich.as_value()) == rich
    assert PartitionPlan.of(rich.as_value()).digest == rich.as_value()["digest"]


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, environment="production"),
        replace(PLAN, database="e"),
        replace(PLAN, destination="s3://elsewhere"),
        replace(PLAN, request=replace(REQUEST, archive=False)),
        replace(PLAN, steps=()),
        replace(PLAN, steps=(replace(PLAN.steps[0], data={"uuid": "1"}),)),
        replace(PLAN, blockers=("no",)),
    ],
)
def test_the_digest_binds_what_is_done_and_where(other):
    assert other.digest != PLAN.digest


def test_the_digest_does_not_move_with_counts_and_the_clock():
    later = replace(PLAN, at=datetime(2026, 11, 16, tzinfo=UTC), notes=("n",), pictures=(Picture(title="t", bars=()),))

    assert replace(later, steps=(replace(PLAN.steps[0], sentence="make it, 7 documents"),)).digest == PLAN.digest


@pytest.mark.parametrize(
    "wrong",
    [
        {"collection": ""},
        {"collection": "system.views"},
        {"collection": "ops_leases"},
        {"collection": "a$b"},
        {"key": ""},
        {"months_ahead": -1},
        {"keep_months": 1000},
        {"strategy": Strategy.ARCHIVE},
        {"strategy": Strategy.RESTORE},
        {"balancer_window": "25:00-01:00"},
        {"balancer_window": "night"},
    ],
)
def test_what_no_database_could_give_is_refused(wrong):
    with pytest.raises(RequestError):
        replace(REQUEST, **wrong)


def test_bars_are_in_proportion_and_nothing_that_is_there_is_invisible():
    lines = list(
        report.drawn(Picture(title="by month", bars=(("2026-01", 1000), ("2026-02", 500), ("2026-03", 1), ("none", 0))))
    )

    full = [line.count(report.FULL) for line in lines[1:]]
    assert lines[0] == "by month"
    assert full == [40, 20, 0, 0]
    assert [report.HALF in line for line in lines[1:]] == [False, False, True, False]
    assert "66.6 %" in lines[1]
    assert "1,000" in lines[1]


def test_a_plan_reads_the_same_with_nothing_to_do_and_with_reasons_against_it():
    text = report.plan_as_text(replace(PLAN, steps=(), blockers=("No cluster.",), notes=("Look.",)))

    assert "Nothing to do." in text
    assert "REFUSED  No cluster." in text
    assert text.endswith(f"Digest {replace(PLAN, steps=(), blockers=('x',)).digest}")
    assert "- **Refused.** No cluster." in report.plan_as_markdown(replace(PLAN, blockers=("No cluster.",)))


def test_a_router_view_reads_the_source_first_and_is_known_again():
    definition = router(["events", "events_2026_10", "events_2026_11"])

    assert definition["viewOn"] == "events"
    assert routes(definition) == ("events", "events_2026_10", "events_2026_11")
    assert routes({"viewOn": "events", "pipeline": [{"$match": {}}]}) == ()


def test_shapes_differ_by_validator_and_by_the_order_of_an_index_and_not_by_the_order_of_words():
    index = {"key": {"a": 1, "b": 1}, "name": "i", "unique": True}
    shape = Shape({"validator": {"n": 1}}, (index,))

    assert shape.alike(
        Shape(
            {"validator": {"n": 1}, "validationLevel": "strict"},
            ({"unique": True, "name": "i", "key": {"a": 1, "b": 1}},),
        )
    )
    assert not shape.alike(Shape({}, (index,)))
    assert not shape.alike(Shape(shape.options, ({**index, "key": {"b": 1, "a": 1}},)))


def test_a_grant_is_missing_when_any_of_its_actions_is():
    wanted = (Grant("w", "d", ("find", "insert")), Grant("r", "d", ("find",)), Grant("x", "admin", ("collMod",)))

    assert missing((Grant("w", "d", ("find",)), Grant("r", "d", ("find", "update"))), wanted) == (wanted[0], wanted[2])
    assert reading(wanted) == (Grant("w", "d", ("find",)), Grant("r", "d", ("find",)))


@pytest.mark.parametrize(
    ("document", "month"),
    [
        ({"at": AT}, Month(2026, 11)),
        ({"a": {"at": AT}}, None),
        ({"at": [AT]}, None),
        ({"at": "2026-11-15"}, None),
        ({"at": None}, None),
        ({}, None),
    ],
)
def test_only_a_single_date_gives_a_month(document, month):
    assert month_of(document, "at") == month
    assert month_of({"outer": document}, "outer.at") == month
