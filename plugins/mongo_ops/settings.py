"""Environments: which database, through which connection, with which protection. Reads files and variables, no database."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mongo_ops.errors import PlanError

INCLUDE_VARIABLE = "MONGO_OPS_INCLUDE"
PROJECT = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class SettingsError(PlanError):
    """``environments.yaml`` is missing or wrong, or names no such environment."""


class EnvironmentModel(BaseModel):
    """One entry of ``environments.yaml`` as written."""

    model_config = ConfigDict(extra="forbid")

    connection: str = Field(min_length=1)
    database: str | None = Field(default=None, pattern=r'^[^/\\. "$*<>:|?\x00]{1,63}$')
    protected: bool = False
    promotes_from: str | None = None
    storage: str = ".run/storage"
    storage_connection: str | None = None
    assets: str | None = Field(default=None, min_length=1)
    assets_connection: str | None = None
    anchors: str | None = Field(default=None, min_length=1)
    anchors_connection: str | None = None
    nightly: bool = False
    max_lag_seconds: float = Field(default=10.0, gt=0)
    batch_seconds: float = Field(default=0.5, gt=0, le=20)
    budget_seconds: float | None = Field(default=None, gt=0)
    lease_seconds: float = Field(default=60.0, ge=1)
    approval_minutes: float = Field(default=60.0, gt=0)
    approvers: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _lease_outlives_batches(self) -> EnvironmentModel:
        if self.lease_seconds < 4 * self.batch_seconds:
            raise ValueError(
                "lease_seconds must be at least four times batch_seconds: a batch renews the lease at its end"
            )
        return self


@dataclass(frozen=True)
class Environment:
    """A database that migrations run on, and the rules for it.

    ``database`` is None when the connection's schema names it. ``storage`` is the URI of the folder that keeps snapshots, ``assets``
    that of the product's own objects (pictures, audio), whose keys documents name, ``anchors`` where the heads of the audit chains go. ``nightly``: what scheduled DAGs run on.
    Durations are in seconds.
    """

    name: str
    connection: str
    database: str | None = None
    protected: bool = False
    promotes_from: str | None = None
    storage: str = ""
    storage_connection: str | None = None
    assets: str | None = None
    assets_connection: str | None = None
    anchors: str | None = None
    anchors_connection: str | None = None
    nightly: bool = False
    max_lag: float = 10.0
    batch_seconds: float = 0.5
    budget: float | None = None
    lease_ttl: float = 60.0
    approval_minutes: float = 60.0
    approvers: tuple[str, ...] = field(default=())


def include_folder() -> Path:
    """Return the folder with migrations and YAML files: ``MONGO_OPS_INCLUDE``, else the project's ``include``."""
    chosen = os.environ.get(INCLUDE_VARIABLE)
    return Path(chosen).resolve() if chosen else PROJECT / "include"


def load_environments(folder: Path | None = None) -> Mapping[str, Environment]:
    """Read ``environments.yaml``; keys keep the file's order.

    Raises:
        SettingsError: the file is missing, is not valid, or promotes from an unknown environment.
    """
    path = (folder or include_folder()) / "environments.yaml"
    if not path.is_file():
        raise SettingsError(
            f"{path} does not exist. Copy one from the project, or set {INCLUDE_VARIABLE} to its folder."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    entries = content.get("environments") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise SettingsError(f"{path} must hold a mapping `environments` with at least one entry.")
    environments = {str(name): _environment(path, str(name), entry) for name, entry in entries.items()}
    for environment in environments.values():
        source = environment.promotes_from
        if source is not None and (source not in environments or source == environment.name):
            raise SettingsError(f"{path}: {environment.name} promotes from {source!r}, which is no other environment.")
    return environments


@dataclass(frozen=True)
class NamedFields(Collection[str]):
    """The fields of one collection that the data map names, asked by their dotted names: ``credits.name`` for ``credits[].name``.

    A document is named when a field in it is (``address`` by ``address.city``), and all of it by ``details.*``.
    """

    paths: frozenset[str]

    def __contains__(self, field: object) -> bool:
        above = str(field).split(".")
        wholes = (".".join([*above[:length], "*"]) for length in range(1, len(above) + 1))
        return any(path == field or path.startswith(f"{field}.") for path in self.paths) or any(
            whole in self.paths for whole in wholes
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def load_personal_fields(folder: Path | None = None) -> Mapping[str, NamedFields] | None:
    """Return the fields per collection that ``data_map.yaml`` names; None while there is no data map.

    Read as ``collections: {users: {fields: {email: ..., address.city: ..., "credits[].name": ..., details.*: ...}}}``.

    Raises:
        SettingsError: the file is there and is not such a mapping.
    """
    path = (folder or include_folder()) / "data_map.yaml"
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {
            str(name): NamedFields(frozenset(str(field).replace("[]", "") for field in entry["fields"]))
            for name, entry in content["collections"].items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise SettingsError(f"{path} must be YAML with `collections`, each with its `fields`.") from None


def load_environment(name: str, folder: Path | None = None) -> Environment:
    """Return one environment.

    Raises:
        SettingsError: there is none of that name.
    """
    environments = load_environments(folder)
    if name not in environments:
        raise SettingsError(f"There is no environment {name!r}; environments.yaml names {', '.join(environments)}.")
    return environments[name]


def _environment(path: Path, name: str, entry: Any) -> Environment:
    try:
        model = EnvironmentModel.model_validate(entry)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"{path}: environment {name}: {faults}") from None
    return Environment(
        name=name,
        connection=model.connection,
        database=model.database,
        protected=model.protected,
        promotes_from=model.promotes_from,
        storage=_storage(f"{path}: environment {name}", "storage", model.storage),
        storage_connection=model.storage_connection,
        assets=None if model.assets is None else _storage(f"{path}: environment {name}", "assets", model.assets),
        assets_connection=model.assets_connection,
        anchors=None if model.anchors is None else _storage(f"{path}: environment {name}", "anchors", model.anchors),
        anchors_connection=model.anchors_connection,
        nightly=model.nightly,
        max_lag=model.max_lag_seconds,
        batch_seconds=model.batch_seconds,
        budget=model.budget_seconds,
        lease_ttl=model.lease_seconds,
        approval_minutes=model.approval_minutes,
        approvers=tuple(model.approvers),
    )


def _storage(where: str, key: str, text: str) -> str:
    """Fill in ``${VARIABLE}`` and ``${VARIABLE:-default}``; make a plain path an absolute ``file://`` URI."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1]) or match[2]
        if value is None:
            raise SettingsError(f"{where}: the variable {match[1]} in `{key}` is not set.")
        return value

    uri = _VARIABLE.sub(fill, text)
    return uri if "://" in uri else (PROJECT / uri).resolve().as_uri()
