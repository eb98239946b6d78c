"""Folders in object storage, whatever the store. Never imports Airflow: inside Airflow an ObjectStoragePath is handed in.

Everything in this package takes a ``Folder``: a ``upath.UPath``, or anything that behaves like one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Protocol, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from upath import UPath

from mongo_ops.errors import PlanError, RunError

LOCAL = ("", "file", "local")
DENIED = (PermissionError,)
_DRIVERS = ("botocore", "aiobotocore", "google", "azure", "aiohttp")


class InvalidStorageError(PlanError):
    """The storage's URI or connection cannot be used."""


class StorageDeniedError(PlanError):
    """The store refused the credentials, or their rights."""


class StorageFailedError(RunError):
    """The store did not do what it was asked; a retry may."""


class Folder(Protocol):
    """What is needed of a path: ``UPath`` and Airflow's ``ObjectStoragePath`` have it."""

    @property
    def name(self) -> str:
        """The last segment."""

    @property
    def path(self) -> str:
        """The path as the store's driver wants it."""

    @property
    def protocol(self) -> str:
        """``file``, ``s3``, ..."""

    @property
    def fs(self) -> Any:
        """The fsspec file system, authenticated."""

    def __truediv__(self, other: str, /) -> Self: ...
    def exists(self) -> bool:
        """Whether there is a file or folder."""

    def open(self, mode: str, /) -> IO[Any]:
        """Open the file."""

    def iterdir(self) -> Iterator[Self]:
        """Yield what is in the folder."""


def open_folder(uri: str, *, connection: str | None = None) -> Folder:
    """Return the folder at ``uri`` (``file://``, ``s3://``, any fsspec protocol; a plain path is local). No I/O.

    Args:
        uri: where the folder is.
        connection: an Airflow connection id. Its ``AIRFLOW_CONN_*`` variable is read if it is set (``aws`` only); otherwise
            fsspec finds the credentials of the environment, such as ``AWS_ACCESS_KEY_ID``.

    Raises:
        InvalidStorageError: no such protocol, its package is missing, or the connection is not usable.
    """
    try:
        return cast("Folder", UPath(uri, **_options(connection)))
    except (ValueError, ImportError, TypeError) as error:
        raise InvalidStorageError(
            f"Storage {_without_secrets(uri)} cannot be opened ({type(error).__name__}). Check the protocol, and that its "
            "fsspec package is installed (s3fs for s3://)."
        ) from None


def is_local(path: Folder) -> bool:
    """Whether the path is on a file system of this machine."""
    return path.protocol in LOCAL


def show(path: Folder) -> str:
    """Return the path for people: without a user or password."""
    return _without_secrets(str(path))


def fresh(path: Folder) -> Folder:
    """Forget what the driver remembers of listings, since other processes write too; return the path."""
    forget = getattr(path.fs, "invalidate_cache", None)
    if forget is not None:
        forget()
    return path


@contextmanager
def telling(path: Folder) -> Iterator[None]:
    """Turn what a store's driver raises into errors of ours, without the driver's text, which may hold credentials.

    Raises:
        StorageDeniedError, StorageFailedError: instead of the driver's errors.
    """
    try:
        yield
    except DENIED:
        raise StorageDeniedError(
            f"{show(path)} may not be used. Check the credentials of the storage connection and their rights."
        ) from None
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(_DRIVERS):
            raise
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            raise StorageDeniedError(
                f"No credentials were found for {show(path)}. Name a storage connection."
            ) from None
        raise StorageFailedError(
            f"{show(path)} could not be read or written ({type(error).__name__}). Check the store and run again."
        ) from None


def _options(connection: str | None) -> Mapping[str, Any]:
    value = os.environ.get(f"AIRFLOW_CONN_{connection.upper()}") if connection else None
    if not value or connection is None:
        return {}
    parts = _parse(connection, value)
    if parts.get("conn_type") != "aws":
        raise InvalidStorageError(
            f"Connection {connection}: outside of Airflow only `aws` is read; set the store's variables."
        )
    extra = parts.get("extra") or {}
    client = {name: extra[name] for name in ("endpoint_url", "region_name") if extra.get(name)}
    options = {"key": parts.get("login"), "secret": parts.get("password"), "token": extra.get("aws_session_token")}
    return {name: found for name, found in options.items() if found} | ({"client_kwargs": client} if client else {})


def _parse(connection: str, value: str) -> dict[str, Any]:
    """Read an ``AIRFLOW_CONN_*`` value, JSON or URI."""
    try:
        if not value.lstrip().startswith("{"):
            url = urlsplit(value)
            login, password = (unquote(part) if part else None for part in (url.username, url.password))
            return {"conn_type": url.scheme, "login": login, "password": password, "extra": dict(parse_qsl(url.query))}
        parts = json.loads(value)
        extra = parts.get("extra") or {}
        return {**parts, "extra": json.loads(extra) if isinstance(extra, str) else extra}
    except ValueError:
        raise InvalidStorageError(f"Connection {connection} is neither a valid URI nor valid JSON.") from None


def _without_secrets(uri: str) -> str:
    protocol, mark, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{protocol}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else uri
