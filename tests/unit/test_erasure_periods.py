"""Periods of a data map: every one that the map takes can be counted, from any day of our time and in both directions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mongo_ops.erasure.map_words import _a_period
from mongo_ops.erasure.periods import after, before

NOW = datetime(2028, 2, 29, 12, tzinfo=UTC)
COUNTED = {
    "P0D": NOW,
    "P35D": datetime(2028, 1, 25, 12, tzinfo=UTC),
    "P2W": datetime(2028, 2, 15, 12, tzinfo=UTC),
    "P1M": datetime(2028, 1, 29, 12, tzinfo=UTC),
    "P1Y": datetime(2027, 2, 28, 12, tzinfo=UTC),
    "P1Y2M3W4D": datetime(2026, 12, 4, 12, tzinfo=UTC),
    "P1000Y": datetime(1028, 2, 29, 12, tzinfo=UTC),
    "P365000D": datetime(1028, 10, 29, 12, tzinfo=UTC),
    "P1000Y365000D": datetime(28, 10, 29, 12, tzinfo=UTC),
}


@pytest.mark.parametrize("text", COUNTED)
def test_what_the_map_takes_can_be_counted(text):
    assert _a_period(text) == text
    assert before(NOW, text) == COUNTED[text]
    assert after(NOW, text) >= NOW


@pytest.mark.parametrize(
    "text", ["", "P", "PT1H", "P1DT12H", "P1Y2", "1Y", "P-1D", "P1.5Y", "P1001Y", "P12001M", "P365001D", "P53000W"]
)
def test_what_cannot_be_counted_is_refused(text):
    with pytest.raises(ValueError, match="ISO 8601"):
        _a_period(text)
