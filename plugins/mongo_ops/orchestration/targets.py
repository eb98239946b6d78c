"""Open an environment's database from inside Airflow, through the Mongo provider's hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mongo_ops.settings import Environment, load_environment

if TYPE_CHECKING:
    from mongo_ops.migrations.losses import Losses
    from mongo_ops.mongo.connection import ConnectionSpec, Target
    from mongo_ops.storage import Folder


def connection_spec(environment: Environment) -> ConnectionSpec:
    """Return how the hook would connect, credentials masked in this task's logs from here on.

    Raises:
        InvalidConnectionError: Airflow knows no such connection, or it is not a mongo connection.
    """
    from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException  # noqa: PLC0415
    from airflow.providers.mongo.hooks.mongo import MongoHook  # noqa: PLC0415
    from airflow.sdk.log import mask_secret  # noqa: PLC0415

    from mongo_ops.mongo.connection import ConnectionSpec, InvalidConnectionError  # noqa: PLC0415

    try:
        hook = MongoHook(environment.connection)
    except AirflowNotFoundException:
        raise InvalidConnectionError(
            f"Airflow has no connection {environment.connection}. Define it as AIRFLOW_CONN_{environment.connection.upper()}, in a "
            "secrets backend, or in the UI (Admin, Connections)."
        ) from None
    except AirflowException as error:
        raise InvalidConnectionError(f"Connection {environment.connection}: {error}") from None
    connection = hook.connection
    if connection.password:
        mask_secret(connection.password)
    hosts = f"{connection.host}:{connection.port}" if connection.port else str(connection.host)
    options = dict(hook.extras)
    if hook.allow_insecure:
        options["tlsAllowInvalidCertificates"] = True
    return ConnectionSpec(environment.connection, hook.uri, hosts, connection.schema or None, options)


@contextmanager
def open_target(name: str, *, read_only: bool = False) -> Iterator[Target]:
    """Yield the checked target of an environment; with ``read_only`` every write is refused on the wire."""
    from mongo_ops.mongo.connection import connect  # noqa: PLC0415
    from mongo_ops.mongo.guard import ReadOnlyGuard  # noqa: PLC0415

    environment = load_environment(name)
    listeners = (ReadOnlyGuard(),) if read_only else ()
    with connect(connection_spec(environment), environment, listeners=listeners) as target:
        yield target


def open_folder(uri: str, connection: str | None) -> Folder:
    """Return a folder as an ObjectStoragePath; a path without a scheme is one of this machine.

    Raises:
        InvalidStorageError: Airflow knows no such connection. It would otherwise look for credentials in the environment.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException  # noqa: PLC0415
    from airflow.sdk import BaseHook, ObjectStoragePath  # noqa: PLC0415

    from mongo_ops.storage import InvalidStorageError  # noqa: PLC0415

    if connection:
        try:
            BaseHook.get_connection(connection)
        except AirflowNotFoundException:
            raise InvalidStorageError(
                f"Airflow has no connection {connection}. Define it, or leave it empty."
            ) from None
    return ObjectStoragePath(uri if "://" in uri else f"file://{uri}", conn_id=connection or None)


def open_storage(environment: Environment) -> Folder:
    """Return the environment's storage."""
    return open_folder(environment.storage, environment.storage_connection)


def open_assets(environment: Environment) -> Folder | None:
    """Return the folder of the product's own objects; None where none is named."""
    return open_folder(environment.assets, environment.assets_connection) if environment.assets else None


def open_anchors(environment: Environment) -> Folder:
    """Return the folder of the audit chains' anchors; in the environment's storage where none is named."""
    if environment.anchors:
        return open_folder(environment.anchors, environment.anchors_connection)
    return open_storage(environment) / "anchors"


def open_losses(environment: Environment) -> Losses:
    """Return where destroyed data is kept: in the environment's storage."""
    from mongo_ops.migrations.losses import Losses  # noqa: PLC0415

    return Losses(open_storage(environment))
