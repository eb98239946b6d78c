"""What all commands share: open an environment, say on whose behalf, insist on approval."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mongo_ops.audit import Head
from mongo_ops.errors import PlanError
from mongo_ops.migrations import engine
from mongo_ops.migrations.engine import Survey
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.run import Run
from mongo_ops.mongo.connection import ConnectionSpec, InvalidConnectionError, Target, connect
from mongo_ops.mongo.guard import ReadOnlyGuard
from mongo_ops.mongo.lease import Holder
from mongo_ops.settings import Environment, include_folder, load_environment
from mongo_ops.storage import Folder, open_folder

if TYPE_CHECKING:
    from mongo_ops.migrations.plan import Plan


class ApprovalMissingError(PlanError):
    """The environment is protected and the plan is not approved."""


def connection_spec(environment: Environment) -> ConnectionSpec:
    """Return the connection from ``AIRFLOW_CONN_*``; from Airflow's secrets backend when one is configured.

    Raises:
        InvalidConnectionError: neither has it.
    """
    variable = f"AIRFLOW_CONN_{environment.connection.upper()}"
    value = os.environ.get(variable)
    if value:
        return ConnectionSpec.parse(environment.connection, value)
    if has_secrets_backend():
        from mongo_ops.orchestration import targets  # noqa: PLC0415 - imports Airflow, which takes seconds

        return targets.connection_spec(environment)
    raise InvalidConnectionError(
        f"{variable} is not set. Give the connection of {environment.name} there as JSON, e.g. "
        '{"conn_type": "mongo", "host": "db1,db2", "login": "...", "password": "...", "schema": "...", '
        '"extra": {"replicaSet": "rs0"}}, or configure AIRFLOW__SECRETS__BACKEND.'
    )


def has_secrets_backend() -> bool:
    """Say whether Airflow is told to look for connections and variables elsewhere than in the environment."""
    return bool(os.environ.get("AIRFLOW__SECRETS__BACKEND"))


@contextmanager
def open_target(name: str, *, read_only: bool = False) -> Iterator[Target]:
    """Yield the checked target of an environment; with ``read_only`` every write is refused on the wire."""
    environment = load_environment(name)
    listeners = (ReadOnlyGuard(),) if read_only else ()
    with connect(connection_spec(environment), environment, listeners=listeners) as target:
        yield target


@contextmanager
def open_run(arguments: argparse.Namespace) -> Iterator[tuple[Run, Survey]]:
    """Yield a run that holds the migrations' lease, and what is on disk and in the database under it."""
    with open_target(arguments.env) as target:
        here = occasion(reason=arguments.reason)
        with engine.open_run(target, here, losses(target.environment), holder=holder(here)) as run:
            yield run, engine.survey(target, include_folder())


def occasion(plan_digest: str | None = None, reason: str | None = None) -> Occasion:
    """Return on whose behalf: the user of the operating system, in a run of its own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user entry
        user = f"uid {os.getuid()}"
    return Occasion(Actor(user, "os"), f"cli {uuid.uuid4().hex[:12]}", plan_digest, reason)


def holder(of: Occasion) -> Holder:
    """Return the lease's holder for a command."""
    return Holder(of.run_id, socket.gethostname(), os.getpid())


def losses(environment: Environment) -> Losses:
    """Return where destroyed data is kept."""
    return Losses(open_folder(environment.storage, connection=environment.storage_connection))


def anchors_of(environment: Environment) -> Folder:
    """Return the folder of the audit chains' anchors; in the environment's storage where none is named."""
    if environment.anchors:
        return open_folder(environment.anchors, connection=environment.anchors_connection)
    return open_folder(environment.storage, connection=environment.storage_connection) / "anchors"


def insist_on_approval(environment: Environment, plan: Plan, approved: str | None) -> None:
    """Refuse an unapproved plan of migrations on a protected environment.

    Raises:
        ApprovalMissingError: no digest was given, or another plan's.
    """
    if plan.steps:
        insist_on_digest(environment, plan.digest, approved, f"plan --env {environment.name}")


def insist_on_digest(environment: Environment, digest: str, approved: str | None, look: str) -> None:
    """Refuse a plan on a protected environment whose digest nobody has passed on.

    Args:
        environment: where.
        digest: the plan's.
        approved: what was given.
        look: the command by which a second person reads the plan.

    Raises:
        ApprovalMissingError: no digest was given, or another plan's.
    """
    if not environment.protected or digest == approved:
        return
    what = "the approved digest is another plan's" if approved else "the plan is not approved"
    raise ApprovalMissingError(
        f"{environment.name} is protected and {what}. Let a second person read `mongo-ops {look}`, then pass --approved {digest}; or "
        "trigger the DAG, which asks in the Airflow UI."
    )


def anchor(text: str | None) -> Head | None:
    """Return the head that SEQ:HASH names, as printed by an earlier verification; None for none.

    Raises:
        PlanError: it is not of that form.
    """
    if not text:
        return None
    number, _, found = text.partition(":")
    if not number.isdigit() or not found:
        raise PlanError("--anchor takes SEQ:HASH, as printed by an earlier verification.")
    return Head(int(number), found)
