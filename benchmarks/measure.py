"""How things are measured: in rounds, interleaved, in alternating order, with a warm-up that does not count. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """One quantity of one contender, a value per round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)

    def show(self, form: str = "{:.3f}") -> str:
        """Return ``median (smallest - largest)``."""
        low, high = self.spread
        return f"{form.format(self.median)} ({form.format(low)} - {form.format(high)})"


def ratio(one: Series, other: Series) -> Series:
    """Return the ratio in each round. Rounds are compared with themselves, so that a noisy one does not mislead."""
    return Series(tuple(a / b for a, b in zip(one.values, other.values, strict=True)))


def plus(*parts: Series) -> Series:
    """Return the sum in each round."""
    return Series(tuple(sum(values) for values in zip(*(part.values for part in parts), strict=True)))


def turn(contenders: Sequence[T], number: int) -> tuple[T, ...]:
    """Return the order of a round: another one begins each time, and every second round runs backwards."""
    first = number % len(contenders) if contenders else 0
    order = (*contenders[first:], *contenders[:first])
    return order[::-1] if number % 2 else order


def rounds(contenders: Sequence[T], count: int, warm_up: int = 1) -> Iterator[tuple[int, bool, T]]:
    """Yield (round, counts, contender); the first ``warm_up`` rounds do not count."""
    for number in range(warm_up + count):
        for contender in turn(contenders, number):
            yield number, number >= warm_up, contender


@dataclass
class Notebook:
    """What was measured, by contender and quantity."""

    notes: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def write(self, contender: str, quantity: str, value: float) -> None:
        """Add a round's value."""
        self.notes.setdefault((contender, quantity), []).append(value)

    def series(self, contender: str, quantity: str) -> Series:
        """Return what was written."""
        return Series(tuple(self.notes[contender, quantity]))

    def has(self, contender: str, quantity: str) -> bool:
        """Tell whether it was measured."""
        return (contender, quantity) in self.notes

    def as_value(self) -> dict[str, dict[str, list[float]]]:
        """Return all values for JSON: contender, quantity, rounds."""
        value: dict[str, dict[str, list[float]]] = {}
        for (contender, quantity), values in self.notes.items():
            value.setdefault(contender, {})[quantity] = [round(one, 6) for one in values]
        return value


@dataclass(frozen=True)
class Goal:
    """Something promised: what, within which bound, and what was measured (None: not measured)."""

    what: str
    bound: float
    sense: Literal["at most", "at least", "under"]
    unit: str
    measured: Series | None

    @property
    def verdict(self) -> str:
        """Say ``met``, ``NOT met`` or ``not measured``. The median decides."""
        if self.measured is None:
            return "not measured"
        meets: dict[str, Callable[[float], bool]] = {
            "at most": lambda value: value <= self.bound,
            "at least": lambda value: value >= self.bound,
            "under": lambda value: value < self.bound,
        }
        return "met" if meets[self.sense](self.measured.median) else "NOT met"

    def row(self) -> tuple[str, str, str, str]:
        """Return the table's row: what, goal, measured, verdict."""
        seen = "-" if self.measured is None else self.measured.show("{:.2f}")
        return self.what, f"{self.sense} {self.bound:g} {self.unit}".strip(), seen, self.verdict
