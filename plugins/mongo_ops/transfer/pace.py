"""How fast an import may go: it waits while secondaries lag, and ends cleanly when its time is used up. Never writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mongo_ops.mongo.batches import BudgetSpentError
from mongo_ops.mongo.throttle import LagProbe, Limits, hold_back
from mongo_ops.transfer.formats.base import Chunks
from mongo_ops.transfer.lane import Lane

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


class Pace:
    """Lets chunks through to the lanes, within the environment's ``max_lag`` and ``budget``.

    The budget begins with the first chunk that is not done yet, which always gets through: however small it is and however long
    it takes to read up to there, each try gets further.
    """

    def __init__(
        self,
        target: Target,
        step: str,
        lanes: Sequence[Lane],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = Limits(max_lag=target.environment.max_lag, budget=target.environment.budget)
        self._probe = LagProbe(target.client)
        self._step, self._lanes, self._tell, self._clock = step, lanes, tell, clock
        self._began: float | None = None
        self._over: BudgetSpentError | None = None

    def let(self, chunks: Chunks) -> Chunks:
        """Yield chunks, each when it may be written, up to the end of the budget."""
        for chunk in chunks:
            if self._lanes[chunk.number % len(self._lanes)].wants(chunk):
                try:
                    self._wait()
                except BudgetSpentError as error:
                    self._over = error
                    return
            yield chunk

    def insist_on_end(self) -> None:
        """Raise what ended the chunks early, after the lanes have written those that were let through.

        Raises:
            BudgetSpentError: run again.
        """
        if self._over is not None:
            raise self._over

    def _wait(self) -> None:
        if self._began is None:
            hold_back(self._probe, self._limits, self._check_leases, self._tell)
            self._began = self._clock()
            return
        self._check()
        hold_back(self._probe, self._limits, self._check, self._tell)

    def _check(self) -> None:
        budget, began = self._limits.budget, self._began
        if budget is not None and began is not None and self._clock() - began > budget:
            raise BudgetSpentError(
                f"{self._step}: the time budget of {budget:g} s is spent. Run again to go on from there."
            )
        self._check_leases()

    def _check_leases(self) -> None:
        for lane in self._lanes:
            lane.lease.check()
