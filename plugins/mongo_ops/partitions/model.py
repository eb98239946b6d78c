"""The values of a partitioning: what is asked, what the plan says. Pure: no database, no clock, no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from mongo_ops.mongo.documents import digest
from mongo_ops.partitions.errors import RequestError
from mongo_ops.partitions.months import RETIRED, month_in

MOST_MONTHS = 240
_PATH = re.compile(r"[^.$\0][^.\0]*(\.[^.$\0][^.\0]*)*")
_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


class Strategy(StrEnum):
    """How a collection is split."""

    SHARDING = "sharding"
    BY_TIME = "by_time"
    TIME_SERIES = "time_series"
    ARCHIVE = "archive"
    RESTORE = "restore"


_BY_DATE = frozenset({Strategy.BY_TIME, Strategy.ARCHIVE, Strategy.TIME_SERIES})


def insist_on_name(name: str) -> None:
    """Refuse collections that are not the application's: the server's, and those that this project keeps.

    Raises:
        RequestError: it is one of them, or no name at all.
    """
    own = name.startswith(("system.", "ops_")) or name == "audit_log"
    if not name or own or set("$\0") & set(name) or name.strip(".") != name or ".." in name:
        raise RequestError(
            "Name a collection of the application's; system, ops_ and audit collections stay as they are."
        )


class Phase(StrEnum):
    """The phases of a run, in this order. A strategy uses some of them."""

    CREATE = "create"
    MOVE = "move"
    ARCHIVE = "archive"
    REMOVE = "remove"
    COMMAND = "command"
    RESTORE = "restore"


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A range of the shard key (``upper`` excluded) and the shards that shall hold it. Bounds are Extended JSON documents."""

    name: str
    shards: tuple[str, ...]
    lower: Mapping[str, Any]
    upper: Mapping[str, Any]

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Zone:
        """Read ``{name, shards, lower, upper}``.

        Raises:
            RequestError: it is not of that form.
        """
        try:
            return cls(name=str(value["name"]), shards=tuple(map(str, value["shards"])),
                       lower=dict(value["lower"]), upper=dict(value["upper"]))  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise RequestError(
                'A zone is written {"name": "EU", "shards": ["shard01"], "lower": {"country": "AT"}, "upper": {"country": "AU"}}.'
            ) from None


@dataclass(frozen=True, kw_only=True)
class PartitionRequest:
    """What a person asks for.

    Attributes:
        collection: which.
        strategy: how.
        key: the date field (``by_time``, ``archive``, ``time_series``), or the shard key: ``country, user_id:hashed``.
        months_ahead: by_time: month collections made in advance.
        keep_months: by_time: full months kept beside the current one, older ones are archived and dropped; None keeps all.
            archive: documents older than that many full months before this one go.
        move: by_time: move documents of closed months out of the source collection. Writers must use the helper already.
        archive: by_time: whether months go to object storage before they are dropped.
        view: by_time: the router view's name; None for ``<collection>_all``.
        zones, balancer_window: sharding: ranges on shards, and ``23:00-06:00`` when chunks may move.
        meta_field, granularity: time_series.
        source, into: restore: the archive's folder, and the collection; None for where it came from.
    """

    collection: str
    strategy: Strategy
    key: str = ""
    months_ahead: int = 2
    keep_months: int | None = None
    move: bool = False
    archive: bool = True
    view: str | None = None
    zones: tuple[Zone, ...] = ()
    balancer_window: str | None = None
    meta_field: str | None = None
    granularity: str = "seconds"
    source: str | None = None
    into: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no database could give.

        Raises:
            RequestError: with what to change.
        """
        for name in (self.collection, self.view_name, self.into or self.collection):
            insist_on_name(name)
        if self.strategy is not Strategy.RESTORE and not self.key:
            raise RequestError(f"Strategy {self.strategy} needs a key.")
        if self.strategy in _BY_DATE and not _PATH.fullmatch(self.key):
            raise RequestError("The key is one field, written like created_at or meta.created_at.")
        if self.view_name == self.collection or month_in(self.collection, self.view_name.removesuffix(RETIRED)):
            raise RequestError(
                "The view has the collection's name, or that of one of its months. Name another one (view)."
            )
        if self.strategy is Strategy.RESTORE and not self.source:
            raise RequestError("To restore, name the archive's folder as source.")
        if not 0 <= self.months_ahead <= MOST_MONTHS:
            raise RequestError(f"months_ahead lies between 0 and {MOST_MONTHS}.")
        if self.keep_months is not None and not 0 <= self.keep_months <= MOST_MONTHS:
            raise RequestError(f"keep_months lies between 0 and {MOST_MONTHS}.")
        if self.strategy is Strategy.ARCHIVE and self.keep_months is None:
            raise RequestError("Strategy archive needs keep_months: how many full months stay in the database.")
        if self.balancer_window is not None and not _WINDOW.fullmatch(self.balancer_window):
            raise RequestError("A balancer window is written like 23:00-06:00 (the time zone of the config servers).")

    @property
    def view_name(self) -> str:
        """The router view's name."""
        return self.view or f"{self.collection}_all"

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        zones = [{**asdict(one), "shards": list(one.shards)} for one in self.zones]
        value = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**value, "strategy": str(self.strategy), "zones": zones}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> PartitionRequest:
        """Read it back; unknown names are refused by Python itself."""
        zones = tuple(Zone.of(one) for one in value.get("zones") or ())
        try:
            strategy = Strategy(value["strategy"])
        except ValueError:
            raise RequestError(f"strategy must be one of {', '.join(Strategy)}.") from None
        return cls(**{**value, "strategy": strategy, "zones": zones})


@dataclass(frozen=True, kw_only=True)
class PartitionStep:
    """One thing that the run will do: in which phase, to what, and all it needs to know (JSON data)."""

    phase: Phase
    subject: str
    sentence: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"phase": str(self.phase), "subject": self.subject, "sentence": self.sentence, "data": dict(self.data)}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> PartitionStep:
        """Read it back."""
        return cls(**{**value, "phase": Phase(value["phase"])})


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A histogram: a title, and a count for each label. Labels are months or ranks, never values of documents."""

    title: str
    bars: tuple[tuple[str, int], ...]

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"title": self.title, "bars": [list(one) for one in self.bars]}

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Picture:
        """Read it back."""
        return cls(title=value["title"], bars=tuple((label, count) for label, count in value["bars"]))


@dataclass(frozen=True, kw_only=True)
class PartitionPlan:
    """What a run will do. ``blockers`` are reasons for which it may not; ``notes`` and ``pictures`` are for who decides."""

    environment: str
    database: str
    request: PartitionRequest
    at: datetime
    destination: str
    steps: tuple[PartitionStep, ...]
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    blockers: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over what will be done and where (64 hex digits); counts and the moment do not enter it."""
        steps = [[str(one.phase), one.subject, one.data] for one in self.steps]
        where = {"environment": self.environment, "database": self.database, "destination": self.destination}
        return digest({**where, "request": self.request.as_value(), "steps": steps, "blocked": bool(self.blockers)})

    def of_phase(self, phase: Phase) -> tuple[PartitionStep, ...]:
        """Return the steps of a phase, in their order."""
        return tuple(one for one in self.steps if one.phase is phase)

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON (XCom)."""
        return {
            "environment": self.environment,
            "database": self.database,
            "request": self.request.as_value(),
            "at": self.at.isoformat(),
            "destination": self.destination,
            "steps": [one.as_value() for one in self.steps],
            "notes": list(self.notes),
            "pictures": [one.as_value() for one in self.pictures],
            "blockers": list(self.blockers),
            "digest": self.digest,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> PartitionPlan:
        """Read it back."""
        return cls(
            environment=value["environment"],
            database=value["database"],
            request=PartitionRequest.of(value["request"]),
            at=datetime.fromisoformat(value["at"]),
            destination=value["destination"],
            steps=tuple(map(PartitionStep.of, value["steps"])),
            notes=tuple(value["notes"]),
            pictures=tuple(map(Picture.of, value["pictures"])),
            blockers=tuple(value["blockers"]),
        )
