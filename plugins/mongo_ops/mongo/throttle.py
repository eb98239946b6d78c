"""Decide whether a bulk job may send its next batch. A pure verdict over a sample that somebody else took."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymongo.errors import ConnectionFailure, OperationFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo import MongoClient

    from mongo_ops.mongo.documents import Document

PRIMARY, SECONDARY = 1, 2
UNAUTHORIZED, NO_REPLICATION = 13, 76
WAIT_SECONDS = 0.5
COMMAND_NOT_FOUND = 59  # mongos: each shard replicates on its own
PASSING = frozenset({6, 7, 50, 89, 91, 94, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})
"""Codes of a server that starts, steps down, shuts down or is overloaded: the next sample may work."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows. Seconds throughout.

    Attributes:
        max_lag: replication lag up to which work goes on.
        max_sample_age: how long the last successful observation is trusted while newer ones fail.
        batch_seconds: how long a batch should take.
        budget: how long all batches may take together; None for no limit.
    """

    max_lag: float = 10.0
    max_sample_age: float = 30.0
    batch_seconds: float = 0.5
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What the probe saw: the slowest healthy secondary's lag, and how old that observation is.

    The age stays below the probe's interval while observing works. It grows when observing fails, so that work goes on
    through a short failure and waits (``max_sample_age``) when nobody knows any more how the secondaries are doing.
    """

    lag: float
    age: float = 0.0


def reason_to_wait(sample: Sample, limits: Limits) -> str | None:
    """Return why to hold back, or None to go on. A stale sample is a reason."""
    if sample.age > limits.max_sample_age:
        return f"the last replication sample is {sample.age:.0f} s old (limit {limits.max_sample_age:.0f} s)"
    if sample.lag > limits.max_lag:
        return f"replication lag {sample.lag:.1f} s (limit {limits.max_lag:.1f} s)"
    return None


def hold_back(probe: LagProbe, limits: Limits, check: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Wait while there is a reason to; ``check`` may raise at each look, ``tell`` gets each new reason once."""
    told = None
    while (reason := reason_to_wait(probe.sample(), limits)) is not None:
        check()
        if reason != told:
            tell(reason)
            told = reason
        time.sleep(WAIT_SECONDS)


def next_size(size: int, seconds: float, target: float, *, smallest: int = 10, largest: int = 20_000) -> int:
    """Return the next batch's size: halved when a batch took twice its time, at most doubled when it was quick.

    Slowness does not make it smaller than ``smallest``; a size that is smaller already (a batch failed) grows from there.
    """
    factor = min(2.0, max(0.5, target / max(seconds, 0.001)))
    return max(min(smallest, size), min(largest, int(size * factor)))


class LagProbe:
    """Sample replication lag, at most once per ``interval`` seconds. Unhealthy members are left out.

    A failure that may pass keeps the former observation, which then ages. Where lag can never be seen, ``unavailable`` says
    why, and the log says it once.
    """

    def __init__(self, client: MongoClient[Document], interval: float = 1.0) -> None:
        self._client, self._interval = client, interval
        self._tried_at = float("-inf")
        self._seen_at = time.monotonic()  # nothing seen yet counts as seen now: the first failures are tolerated too
        self._lag = 0.0
        self.unavailable: str | None = None

    def sample(self) -> Sample:
        """Return the newest observation; a deployment that shows no replication status counts as not lagging."""
        now = time.monotonic()
        if self.unavailable is None and now - self._tried_at >= self._interval:
            self._tried_at = now
            self._observe(now)
        return Sample(self._lag, 0.0 if self.unavailable else time.monotonic() - self._seen_at)

    def _observe(self, now: float) -> None:
        try:
            members = self._client.admin.command("replSetGetStatus")["members"]
        except ConnectionFailure as error:
            log.debug("The replication status could not be read (%s).", type(error).__name__)
            return
        except OperationFailure as error:
            if error.code in PASSING:
                log.debug("The replication status could not be read (code %s).", error.code)
                return
            if error.code not in (UNAUTHORIZED, NO_REPLICATION, COMMAND_NOT_FOUND):
                raise
            self.unavailable = f"replication lag cannot be seen (code {error.code}); the user needs clusterMonitor"
            log.warning("Work is not held back for replication: %s.", self.unavailable)
            return
        dates = [m["optimeDate"] for m in members if m["state"] in (PRIMARY, SECONDARY) and m["health"] == 1]
        self._seen_at = now
        self._lag = (max(dates) - min(dates)).total_seconds() if dates else 0.0
