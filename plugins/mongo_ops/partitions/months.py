"""Months and the collections named after them: ``events_2026_11``. Always UTC. Pure: the writers' helper lives here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

MONTHS = 12
RETIRED = "_retired"
"""What a month collection's name ends in between leaving the readers' view and being dropped."""


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of a year, in UTC. Months compare and count: ``Month(2026, 12) + 1 == Month(2027, 1)``."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """Return the month of a moment; one without a time zone is taken as UTC, as MongoDB stores it."""
        there = moment if moment.tzinfo is None else moment.astimezone(UTC)
        return cls(there.year, there.month)

    @classmethod
    def parse(cls, text: str) -> Month | None:
        """Return the month that ``2026_11`` (or ``2026-11``) names, or None."""
        found = re.fullmatch(r"([0-9]{4})[_-]([0-9]{2})", text)
        if found is None or not 1 <= int(found[2]) <= MONTHS or int(found[1]) == 0:
            return None
        return cls(int(found[1]), int(found[2]))

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    def __add__(self, months: int) -> Month:
        year, month = divmod(self.year * MONTHS + self.month - 1 + months, MONTHS)
        return Month(year, month + 1)

    def __sub__(self, months: int) -> Month:
        return self + -months

    def __str__(self) -> str:
        return f"{self.year:04}_{self.month:02}"


def collection_for(collection: str, moment: datetime) -> str:
    """Return the name of the month collection for a moment: ``("events", 3 November 2026)`` gives ``events_2026_11``."""
    return name_of(collection, Month.of(moment))


def name_of(collection: str, month: Month) -> str:
    """Return a month collection's name."""
    return f"{collection}_{month}"


def month_in(collection: str, name: str) -> Month | None:
    """Return the month whose collection ``name`` is, or None when it is none of this collection's months."""
    if not name.startswith(f"{collection}_"):
        return None
    text = name[len(collection) + 1 :]
    return Month.parse(text) if re.fullmatch(r"[0-9]{4}_[0-9]{2}", text) else None


def span(first: Month, last: Month) -> Iterator[Month]:
    """Yield the months from the first to the last, both included."""
    while first <= last:
        yield first
        first += 1
