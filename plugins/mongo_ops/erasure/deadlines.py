"""When a request must be answered: Art. 12(3) GDPR. Pure: the time is always handed in.

One month from receipt, counted by the calendar and cut to the month's last day (Regulation 1182/71, Art. 3(2)(c)). That a period
which ends on a holiday runs on to the next working day (Art. 3(4)) is not used: it differs between countries, and early is never late.
"""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta

from mongo_ops.errors import PlanError

MONTHS, EXTENDED_MONTHS = 1, 3


class ExtensionRefusedError(PlanError):
    """The conditions of an extension are not met."""


def due(received_at: datetime) -> datetime:
    """Return the moment until which a request must be answered, one calendar month after its receipt.

    Raises:
        ValueError: the moment has no time zone.
    """
    return months_after(received_at, MONTHS)


def extended(received_at: datetime, *, reason: str, notified_at: datetime | None) -> datetime:
    """Return the moment when an extension by two further months ends, counted from receipt.

    Args:
        received_at: when the request was received.
        reason: why it is needed: complexity, or the number of requests.
        notified_at: when the person was told, with the reasons; must be within the first month.

    Raises:
        ExtensionRefusedError: no reason, no notice, or notice too late.
    """
    if not reason.strip():
        raise ExtensionRefusedError(
            "An extension needs its reason: complexity, or the number of requests (Art. 12(3) GDPR)."
        )
    if notified_at is None:
        raise ExtensionRefusedError(
            "Tell the person of the extension and its reasons first, then record when (Art. 12(3) GDPR)."
        )
    if not received_at <= notified_at <= due(received_at):
        raise ExtensionRefusedError(
            f"The person was told on {notified_at:%Y-%m-%d}; it must be within one month of receipt, between "
            f"{received_at:%Y-%m-%d} and {due(received_at):%Y-%m-%d}. The request stays due on that day."
        )
    return months_after(received_at, EXTENDED_MONTHS)


def overdue(due_at: datetime, now: datetime) -> bool:
    """Whether the moment has passed."""
    return now > due_at


def remaining(due_at: datetime, now: datetime) -> timedelta:
    """Return how long there is still; negative when it is overdue."""
    return due_at - now


def months_after(moment: datetime, months: int) -> datetime:
    """Return the same day and time some calendar months later; 31 January -> 28 or 29 February."""
    if moment.tzinfo is None:
        raise ValueError("A deadline needs a moment with a time zone.")
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
