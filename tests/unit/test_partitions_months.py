"""Months and the names of their collections: the writers' helper."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mongo_ops.partitions import Month, collection_for
from mongo_ops.partitions.months import month_in, name_of, span


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        (datetime(2026, 11, 3, tzinfo=UTC), "events_2026_11"),
        (datetime(2026, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), "events_2026_12"),
        (datetime(2027, 1, 1), "events_2027_01"),
        (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "events_2026_11"),
        (datetime(987, 2, 1, tzinfo=UTC), "events_0987_02"),
    ],
)
def test_a_document_belongs_to_the_month_of_its_moment_in_utc(moment, name):
    assert collection_for("events", moment) == name


def test_months_compare_and_count_over_the_year():
    november = Month(2026, 11)

    assert (november + 2, november - 11, november - 23) == (Month(2027, 1), Month(2025, 12), Month(2024, 12))
    assert Month(2026, 2) < november < Month(2027, 1)
    assert [str(one) for one in span(november, november + 2)] == ["2026_11", "2026_12", "2027_01"]
    assert list(span(november, november - 1)) == []
    assert november.start == datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026_13", "2026_00", "0000_01", "2026_1", "26_11", "2026_11_01", "abcd_ef", ""])
def test_what_names_no_month_is_none(text):
    assert Month.parse(text) is None


@pytest.mark.parametrize(
    ("name", "month"),
    [
        ("events_2026_11", Month(2026, 11)),
        ("events_2026-11", None),
        ("events_2026_11_retired", None),
        ("my_events_2026_11", None),
        ("events2_2026_11", None),
        ("events", None),
    ],
)
def test_a_month_collection_is_known_by_its_name(name, month):
    assert month_in("events", name) == month
    assert month is None or name_of("events", month) == name
