"""Durations of a data map: ISO 8601 in years, months, weeks and days, counted by the calendar. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from mongo_ops.erasure.deadlines import months_after

PERIOD = re.compile(r"P(?=\d)(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?\Z")

MOST_MONTHS, MOST_DAYS = 12_000, 365_000
"""A thousand years: what is older was never anybody's, and the calendar of computers begins in the year 1."""


def is_countable(text: str) -> bool:
    """Say whether a text is a period that ``after`` and ``before`` can count from any day of our time."""
    if PERIOD.match(text) is None:
        return False
    months, days = _parts(text)
    return months <= MOST_MONTHS and days <= MOST_DAYS


def after(moment: datetime, period: str) -> datetime:
    """Return the moment one period later; 31 January and P1M give the end of February."""
    months, days = _parts(period)
    return months_after(moment, months) + timedelta(days=days)


def before(moment: datetime, period: str) -> datetime:
    """Return the moment one period earlier; what began before it is over."""
    months, days = _parts(period)
    return months_after(moment - timedelta(days=days), -months)


def _parts(period: str) -> tuple[int, int]:
    match = PERIOD.match(period)
    if match is None:
        raise ValueError(f"{period!r} is no ISO 8601 duration of years, months, weeks and days, such as P3Y or P90D.")
    years, months, weeks, days = (int(part or 0) for part in match.groups())
    return 12 * years + months, 7 * weeks + days
