"""What a check finds, as values: statuses, findings, results, a whole run. No database, no clock."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import bson
from bson import ObjectId

from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC

if TYPE_CHECKING:
    from mongo_ops.health.sight import Sight

EVIDENCE, DIGEST = 20, 10
WHOLE = "all"
"""The scope of a finding that is about the deployment, not about one of its parts."""


class Status(enum.StrEnum):
    """What a check comes to. ``UNKNOWN``: it could not look; never taken for OK."""

    OK = "OK"
    SKIPPED = "SKIPPED"
    UNKNOWN = "UNKNOWN"
    WARN = "WARN"
    CRIT = "CRIT"

    @property
    def rank(self) -> int:
        """How bad it is; SKIPPED is no worse than OK."""
        return {"OK": 0, "SKIPPED": 0, "UNKNOWN": 1, "WARN": 2, "CRIT": 3}[self.value]


class Transition(enum.StrEnum):
    """How a finding stands to the run before. ``WORSE`` includes from UNKNOWN to a verdict; better but not well is ``SAME``."""

    NEW = "NEW"
    WORSE = "WORSE"
    SAME = "SAME"
    FIXED = "FIXED"


class NotApplicableError(PlanError):
    """There is nothing to look at here, so that the check is SKIPPED; the message says why."""


class FactMissingError(PlanError):
    """A fact that the check needs could not be read, so that the check is UNKNOWN."""


@dataclass(frozen=True)
class Limits:
    """When a value is a warning and when it is critical; where ``crit`` is below ``warn``, low values are bad."""

    warn: float | None = None
    crit: float | None = None
    enabled: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def low_is_bad(self) -> bool:
        """Whether small values are the bad ones."""
        return self.warn is not None and self.crit is not None and self.crit < self.warn

    def grade(self, value: float) -> Status:
        """Return the status of a value; a value at the limit is over it."""
        for bound, status in ((self.crit, Status.CRIT), (self.warn, Status.WARN)):
            if bound is not None and (value <= bound if self.low_is_bad else value >= bound):
                return status
        return Status.OK

    def option(self, name: str) -> Any:
        """Return a further option of the check.

        Raises:
            FactMissingError: health.yaml took it away.
        """
        if name not in self.options:
            raise FactMissingError(f"health.yaml must give the option `{name}` of this check.")
        return self.options[name]


@dataclass(frozen=True)
class Finding:
    """One thing a check saw: about ``scope`` (a collection, an index, a member), in one sentence without a document's value.

    ``value`` in ``unit`` is what trends are drawn of; ``evidence`` are at most ``EVIDENCE`` ids; ``diff`` are lines that begin with
    ``-`` (wanted) and ``+`` (is).
    """

    status: Status
    sentence: str
    scope: str = WHOLE
    value: float | None = None
    unit: str = ""
    evidence: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing to look after.

    Attributes:
        id: its name in health.yaml, the history and the report.
        title: what it is about, for people.
        group: ``replication``, ``server``, ``storage``, ``schema``, ``indexes``, ``data``, ``own`` or ``security``.
        todo: what to do first when it finds something.
        limits: thresholds and options, which health.yaml overrides.
        verdict: pure: facts and limits in, findings out; nothing found is OK.
        read: gets further facts; by default the facts are the snapshot.
    """

    id: str
    title: str
    group: str
    todo: str
    limits: Limits
    verdict: Callable[[Any, Limits], Iterable[Finding]]
    read: Callable[[Sight], Any] | None = None


@dataclass(frozen=True)
class Result:
    """What one check came to in one run; ``error`` is the kind of what went wrong, never its text; ``off`` means switched off."""

    check: str
    status: Status
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    error: str | None = None
    seconds: float = 0.0
    off: bool = False

    @property
    def is_unable(self) -> bool:
        """Whether it could not look at all. A single finding that is UNKNOWN is a finding like others."""
        return self.status is Status.UNKNOWN and not self.findings


@dataclass(frozen=True)
class Mute:
    """Says that a finding is known: ``scope`` may hold ``*``; it ends with the day ``until``."""

    check: str
    scope: str
    owner: str
    until: date
    reason: str


@dataclass(frozen=True)
class Judged:
    """A finding with its place in the history. ``muted`` is the owner of the mute."""

    check: str
    finding: Finding
    transition: Transition | None = None
    muted: str | None = None
    since: datetime | None = None

    @property
    def is_problem(self) -> bool:
        """Whether somebody should look."""
        return self.finding.status.rank > 0 and self.muted is None


@dataclass(frozen=True)
class Earlier:
    """What was known of one check: its problems by scope (status, since), as of the last run in which it could look.

    ``unable_since``: since when it could not look at all; None when it could, the last time.
    """

    problems: Mapping[str, tuple[Status, datetime]] = field(default_factory=dict)
    unable_since: datetime | None = None


@dataclass(frozen=True)
class Run:
    """A whole run. ``judged`` holds every problem and what was fixed, the worst first."""

    id: str
    environment: str
    database: str
    at: datetime
    results: tuple[Result, ...]
    judged: tuple[Judged, ...]
    commands: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst that is not muted."""
        found = [one.finding.status for one in self.judged if one.is_problem and one.transition is not Transition.FIXED]
        return max(found, key=lambda status: status.rank, default=Status.OK)

    @property
    def changes(self) -> tuple[Judged, ...]:
        """What to tell people: new, worse and fixed, without what is muted."""
        telling = (Transition.NEW, Transition.WORSE, Transition.FIXED)
        return tuple(one for one in self.judged if one.muted is None and one.transition in telling)


def worst(findings: Iterable[Finding]) -> Status:
    """Return the worst status of findings; OK for none."""
    return max((one.status for one in findings), key=lambda status: status.rank, default=Status.OK)


def shown_id(value: Any) -> str:
    """Return a document's key as evidence: an object id or a whole number as it is; all else may name a person and becomes a short digest."""
    if isinstance(value, ObjectId) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return f"#{hashlib.sha256(bson.encode({'_id': value}, codec_options=CODEC)).hexdigest()[:DIGEST]}"


def shown_ids(values: Iterable[Any]) -> tuple[str, ...]:
    """Return the first keys as evidence."""
    return tuple(shown_id(value) for value in islice(values, EVIDENCE))
