"""Art. 12(3) GDPR: one calendar month, two more only with a reason and a notice in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mongo_ops.erasure.deadlines import ExtensionRefusedError, due, extended, months_after, overdue, remaining


def day(year, month, day, hour=9):
    return datetime(year, month, day, hour, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (day(2026, 1, 31), day(2026, 2, 28)),
        (day(2028, 1, 31), day(2028, 2, 29)),
        (day(2026, 1, 30), day(2026, 2, 28)),
        (day(2026, 1, 28), day(2026, 2, 28)),
        (day(2026, 2, 28), day(2026, 3, 28)),
        (day(2026, 3, 31), day(2026, 4, 30)),
        (day(2026, 12, 31), day(2027, 1, 31)),
        (day(2026, 12, 1), day(2027, 1, 1)),
        (day(2026, 7, 31), day(2026, 8, 31)),
    ],
)
def test_a_request_is_due_one_calendar_month_after_receipt(received, expected):
    assert due(received) == expected


def test_a_deadline_keeps_its_time_zone():
    kolkata = timezone(timedelta(hours=5, minutes=30))
    assert due(datetime(2026, 1, 31, 1, tzinfo=kolkata)) == datetime(2026, 2, 28, 1, tzinfo=kolkata)


def test_a_moment_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        due(datetime(2026, 1, 31))


def test_overdue_begins_after_the_last_moment():
    end = due(day(2026, 1, 31))
    assert not overdue(end, end)
    assert overdue(end, end + timedelta(seconds=1))
    assert remaining(end, end - timedelta(days=2)) == timedelta(days=2)
    assert remaining(end, end + timedelta(days=1)) == timedelta(days=-1)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (day(2026, 1, 31), day(2026, 4, 30)),
        (day(2026, 11, 30), day(2027, 2, 28)),
        (day(2027, 11, 30), day(2028, 2, 29)),
    ],
)
def test_an_extension_ends_three_months_after_receipt(received, expected):
    assert extended(received, reason="500 requests at once", notified_at=received + timedelta(days=5)) == expected


def test_notice_on_the_last_moment_of_the_first_month_is_in_time():
    received = day(2026, 1, 31)
    assert extended(received, reason="complex", notified_at=due(received)) == day(2026, 4, 30)


@pytest.mark.parametrize(
    ("reason", "notified_at", "said"),
    [
        ("", day(2026, 2, 1), "reason"),
        ("  ", day(2026, 2, 1), "reason"),
        ("complex", None, "Tell the person"),
        ("complex", day(2026, 2, 28, 10), "between 2026-01-31 and 2026-02-28"),
        ("complex", day(2026, 1, 30), "between 2026-01-31 and 2026-02-28"),
    ],
)
def test_an_extension_without_its_conditions_is_refused(reason, notified_at, said):
    with pytest.raises(ExtensionRefusedError, match=said):
        extended(day(2026, 1, 31), reason=reason, notified_at=notified_at)


def test_every_day_of_four_years_is_due_in_the_next_month():
    moment = day(2025, 1, 1)
    while moment < day(2029, 1, 1):
        end = due(moment)
        assert (end.year * 12 + end.month) - (moment.year * 12 + moment.month) == 1
        assert end.day == moment.day or (end.day < moment.day and (end + timedelta(days=1)).day == 1)
        assert months_after(moment, 0) == moment
        moment += timedelta(days=1)
