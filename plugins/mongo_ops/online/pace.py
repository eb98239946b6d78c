"""Whether the next chunk may go: the control document, replication lag, load, and what is left of the oplog. Every reason is a sentence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from pymongo.errors import OperationFailure

from mongo_ops.errors import PlanError
from mongo_ops.mongo import throttle
from mongo_ops.mongo.throttle import LagProbe
from mongo_ops.online import names
from mongo_ops.online.errors import CriticalLoadError, PausedTooLongError

if TYPE_CHECKING:
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.model import Limits
    from mongo_ops.online.work import Work

COMMANDS = ("run", "pause", "abort")
METRICS: Mapping[str, str] = {
    "queue": "operations waiting for a lock",
    "active": "clients at work or waiting",
    "connections": "connections",
    "dirty": "percent of the cache that is dirty",
}
LOAD_SECONDS = 1.0
REST_SECONDS = 5.0
HEADROOM = 0.2
FULL = 0.9
SEPARATE = {"repl": 0, "metrics": 0, "locks": 0, "network": 0, "opLatencies": 0, "tcmalloc": 0}


class ControlError(PlanError):
    """A setting of the control document is not valid."""


@dataclass(frozen=True)
class Control:
    """The control document as read; see ``Limits`` for the numbers."""

    command: str = "run"
    nice: float = 4.0
    chunk: int = 1000
    max_lag: float = 10.0
    max_load: Mapping[str, float] = field(default_factory=dict)
    critical_load: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Control:
        """Read it as stored."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        return cls(**known)


def first_control(limits: Limits) -> Document:
    """Return the control document that a migration starts with."""
    return {
        "command": "run",
        "nice": limits.nice,
        "chunk": limits.chunk,
        "max_lag": limits.max_lag,
        "max_load": dict(limits.max_load),
        "critical_load": dict(limits.critical_load),
    }


def checked(settings: Mapping[str, Any]) -> Document:
    """Return control settings as they are stored.

    Raises:
        ControlError: an unknown name or a value out of range.
    """
    stored: Document = {}
    for name, value in settings.items():
        stored[name] = _checked(name, value)
    return stored


def _checked(name: str, value: Any) -> Any:
    if name == "command" and value in COMMANDS:
        return value
    if name in ("max_load", "critical_load") and isinstance(value, Mapping):
        return {metric: _number(f"{name}.{metric}", value[metric], METRICS, metric) for metric in value}
    if name in ("nice", "max_lag"):
        return _number(name, value)
    if name == "chunk" and (number := int(_number(name, value))) > 0:
        return number
    raise ControlError(
        f"{name} cannot be set so. There are command ({', '.join(COMMANDS)}), nice, chunk, max_lag, max_load and critical_load "
        f"(with {', '.join(METRICS)})."
    )


def _number(name: str, value: Any, known: Mapping[str, str] | None = None, key: str = "") -> float:
    if known is not None and key not in known:
        raise ControlError(f"There is no metric {key!r}; there are {', '.join(known)}.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ControlError(f"{name} must be a number, 0 or more.")
    return number


def over(load: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Return which limit the load is over, or None. A metric that the server does not show is no reason."""
    for metric, limit in limits.items():
        if load.get(metric, 0.0) > limit:
            return f"{load[metric]:,.0f} {METRICS[metric]} (limit {limit:,.0f})"
    return None


def too_long(token_at: Timestamp, oldest: Timestamp, now: Timestamp, fill: float) -> bool:
    """Say whether a paused stream is close to the oplog's end: less than a fifth of a full oplog's window is left behind it."""
    if token_at.time <= oldest.time:
        return fill >= FULL
    window = max(1, now.time - oldest.time)
    return fill >= FULL and (token_at.time - oldest.time) / window < HEADROOM


class Pace:
    """Looks at the control document before every chunk and rests after it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._probe = LagProbe(work.target.client)
        self._load: Mapping[str, float] = {}
        self._load_at = float("-inf")
        self.control = Control.of(work.state.get("control", {}))

    def look(self) -> str | None:
        """Return why to wait, or None.

        Raises:
            CriticalLoadError: the load is over the critical limit.
            PausedTooLongError: a pause would outlive the oplog.
        """
        found = self._work.db[names.STATES].find_one({"_id": self._work.name}, {"control": 1, "token_at": 1}) or {}
        self.control = control = Control.of(found.get("control", {}))
        if control.command == "abort":
            return "an abort was asked for"
        if control.command == "pause":
            self._insist_on_window(found.get("token_at"))
            return "paused; go on with `mongo-ops online resume`"
        if control.max_load or control.critical_load:
            self._observe()
            critical = over(self._load, control.critical_load)
            if critical:
                raise CriticalLoadError(
                    f"{self._work.name} gave itself up: {critical}. Clean up with `mongo-ops online abort`, start again when the server is well."
                )
            busy = over(self._load, control.max_load)
            if busy:
                return busy
        return throttle.reason_to_wait(self._probe.sample(), throttle.Limits(max_lag=control.max_lag))

    def rest(self, seconds: float) -> None:
        """Rest after a chunk that took so long."""
        if self.control.nice > 0:
            time.sleep(min(REST_SECONDS, self.control.nice * seconds))

    def _observe(self) -> None:
        if time.monotonic() - self._load_at < LOAD_SECONDS:
            return
        self._load_at = time.monotonic()
        try:
            status = self._work.target.client.admin.command({"serverStatus": 1, **SEPARATE})
        except OperationFailure as error:
            if error.code != throttle.UNAUTHORIZED:
                raise
            raise ControlError(
                "The load cannot be seen: the user needs clusterMonitor, or take the load limits away."
            ) from None
        self._load = load_of(status)

    def _insist_on_window(self, token_at: Timestamp | None) -> None:
        seen = oplog(self._work)
        if token_at is None or seen is None:
            return
        oldest, now, fill = seen
        if too_long(token_at, oldest, now, fill):
            raise PausedTooLongError(
                f"{self._work.name} cannot stay paused: the oplog is {100 * fill:.0f} % full and reaches back {now.time - oldest.time:,} s, "
                f"the stream's place is {now.time - token_at.time:,} s old. Resume it now, or abort it."
            )


def load_of(status: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics from an answer of ``serverStatus``."""
    lock, cache = status.get("globalLock", {}), status.get("wiredTiger", {}).get("cache", {})
    size = float(cache.get("maximum bytes configured", 0))
    return {
        "queue": float(lock.get("currentQueue", {}).get("total", 0)),
        "active": float(lock.get("activeClients", {}).get("total", 0)),
        "connections": float(status.get("connections", {}).get("current", 0)),
        "dirty": 100 * float(cache.get("tracked dirty bytes in the cache", 0)) / size if size else 0.0,
    }


def oplog(work: Work) -> tuple[Timestamp, Timestamp, float] | None:
    """Return the oplog's oldest and newest time and how full it is (0 to 1); None where it cannot be seen."""
    log = work.target.client.get_database("local")["oplog.rs"]
    try:
        oldest = log.find_one({}, {"ts": 1}, sort=[("$natural", 1)])
        newest = log.find_one({}, {"ts": 1}, sort=[("$natural", -1)])
        stats = next(iter(log.aggregate([{"$collStats": {"storageStats": {}}}])), {}).get("storageStats", {})
    except OperationFailure as error:
        if error.code == throttle.UNAUTHORIZED:
            return None
        raise
    if oldest is None or newest is None:
        return None
    return oldest["ts"], newest["ts"], float(stats.get("size", 0)) / max(1.0, float(stats.get("maxSize", 1)))
