"""Thresholds, mutes and what to look for, from ``include/health.yaml``. Reads files only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mongo_ops.errors import PlanError
from mongo_ops.health.checks import CHECKS
from mongo_ops.health.model import Check, Limits, Mute
from mongo_ops.settings import Environment, include_folder

FILE = "health.yaml"


class HealthFileError(PlanError):
    """``health.yaml`` is not valid."""


class _LimitsModel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    warn: float | None = None
    crit: float | None = None
    enabled: bool = True
    options: dict[str, Any] = Field(default_factory=dict)


class _MuteModel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    check: str
    scope: str = "*"
    owner: str = Field(min_length=1)
    until: date
    reason: str = Field(min_length=3)


class _NotifierModel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    use: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    options: dict[str, Any] = Field(default_factory=dict)
    environments: list[str] = Field(default_factory=list)


class _FileModel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sample_seconds: float = Field(default=1.0, ge=0, le=60)
    check_seconds: float = Field(default=60.0, gt=0)
    history_days: int = Field(default=400, ge=1)
    report_days: int = Field(default=30, ge=1)
    connections: dict[str, str] = Field(default_factory=dict)
    notifiers: list[_NotifierModel] = Field(default_factory=list)
    checks: dict[str, _LimitsModel] = Field(default_factory=dict)
    mutes: list[_MuteModel] = Field(default_factory=list)


@dataclass(frozen=True)
class Notice:
    """How people are told of changes: a notifier of Airflow by its path, what it is made with, and of which environments (none: all)."""

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thresholds:
    """What health.yaml says. Durations are in seconds unless named otherwise; ``connections`` are of health users, by environment."""

    sample_seconds: float = 1.0
    check_seconds: float = 60.0
    history_days: int = 400
    report_days: int = 30
    limits: Mapping[str, Limits] = field(default_factory=dict)
    mutes: tuple[Mute, ...] = ()
    connections: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    def of(self, check: Check) -> Limits:
        """Return a check's limits: the file's over its own."""
        return self.limits.get(check.id, check.limits)

    def as_seen(self, environment: Environment) -> Environment:
        """Return an environment with the connection of its health user, where one is named."""
        return replace(environment, connection=self.connections.get(environment.name, environment.connection))

    def notices_of(self, environment: str) -> tuple[Notice, ...]:
        """Return how people are told of an environment's changes."""
        return tuple(one for one in self.notices if not one.environments or environment in one.environments)


def load_thresholds(folder: Path | None = None) -> Thresholds:
    """Read ``health.yaml``; every check has its own limits where there is no file.

    Raises:
        HealthFileError: it is not valid, or names a check that there is not.
    """
    path = (folder or include_folder()) / FILE
    if not path.is_file():
        return Thresholds()
    try:
        model = _FileModel.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise HealthFileError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise HealthFileError(f"{path}: {faults}") from None
    own = {check.id: check.limits for check in CHECKS}
    strange = sorted({*model.checks, *(mute.check for mute in model.mutes if mute.check != "*")} - set(own))
    if strange:
        raise HealthFileError(f"{path} names checks that there are not: {', '.join(strange)}.")
    return Thresholds(
        model.sample_seconds,
        model.check_seconds,
        model.history_days,
        model.report_days,
        {name: _limits(given, own[name]) for name, given in model.checks.items()},
        tuple(Mute(**mute.model_dump()) for mute in model.mutes),
        model.connections,
        tuple(Notice(one.use, one.options, tuple(one.environments)) for one in model.notifiers),
    )


def _limits(given: _LimitsModel, own: Limits) -> Limits:
    warn = own.warn if given.warn is None else given.warn
    crit = own.crit if given.crit is None else given.crit
    return Limits(warn, crit, given.enabled, {**own.options, **given.options})
