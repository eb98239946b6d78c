"""Open a client that is fit for operations, or say in one sentence why not.

Never decides what to do with a database, and never shows a credential: errors carry hosts only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit

import pymongo
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, ConnectionFailure, InvalidURI, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from mongo_ops.errors import PlanError, RunError
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from pymongo.database import Database
    from pymongo.monitoring import _EventListener

    from mongo_ops.settings import Environment

APP_NAME = "mongo-ops"
DEFAULT_DATABASE = "spotify_ai_agent"
CHECK_SECONDS = 10.0
AUTHENTICATION_FAILED = frozenset({18, 8000})
UNAUTHORIZED = 13
EXTRA_KEY = "__extra__"  # where Airflow puts extras that do not fit into a query
SHORTEST_SECRET = 4  # what is shorter occurs in ordinary words
SECRET_OPTION = re.compile(r"passw|pwd|secret|token|authmechanismproperties", re.IGNORECASE)


class InvalidConnectionError(PlanError):
    """The connection's definition cannot be used."""


class CredentialsRefusedError(PlanError):
    """The server refused the user, the password or the user's rights."""


class StandaloneServerError(PlanError):
    """The server has no transactions, without which nothing here can be exactly-once."""


class ServerUnreachableError(RunError):
    """No server answered."""


@dataclass(frozen=True)
class ConnectionSpec:
    """How to reach a deployment. ``uri`` holds credentials and is therefore never shown."""

    conn_id: str
    uri: str = field(repr=False)
    hosts: str
    database: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, conn_id: str, value: str) -> ConnectionSpec:
        """Read an ``AIRFLOW_CONN_*`` value, JSON or URI, the way Airflow's Mongo hook does.

        Raises:
            InvalidConnectionError: the value is not a mongo connection.
        """
        parts = _parse_json(conn_id, value) if value.lstrip().startswith("{") else _parse_uri(conn_id, value)
        return cls.build(conn_id, parts)

    @classmethod
    def build(cls, conn_id: str, parts: Mapping[str, Any]) -> ConnectionSpec:
        """Make a spec from a connection's fields: conn_type, host, port, login, password, schema, extra."""
        if parts.get("conn_type") != "mongo":
            raise InvalidConnectionError(
                f"Connection {conn_id}: conn_type must be 'mongo', not {parts.get('conn_type')!r}."
            )
        host, port = parts.get("host"), parts.get("port")
        if not host:
            raise InvalidConnectionError(f"Connection {conn_id} names no host.")
        if "@" in str(host):
            raise InvalidConnectionError(
                f"Connection {conn_id}: put the login into login and password, not into the host."
            )
        extra = dict(_extra(conn_id, parts.get("extra")))
        srv = str(extra.pop("srv", "false")).lower() == "true"
        if srv and port:
            raise InvalidConnectionError(f"Connection {conn_id}: an SRV connection must not give a port.")
        if str(extra.pop("allow_insecure", "false")).lower() == "true":
            extra["tlsAllowInvalidCertificates"] = True
        login, password = parts.get("login"), parts.get("password")
        secret = f"{quote_plus(login)}:{quote_plus(password)}@" if login and password else ""
        hosts = f"{host}:{port}" if port else str(host)
        schema = parts.get("schema") or None
        uri = f"mongodb{'+srv' if srv else ''}://{secret}{hosts}/{schema or ''}"
        return cls(conn_id=conn_id, uri=uri, hosts=hosts, database=schema, options=extra)


def _parse_json(conn_id: str, value: str) -> Mapping[str, Any]:
    try:
        return cast("Mapping[str, Any]", json.loads(value))
    except ValueError:
        raise InvalidConnectionError(f"Connection {conn_id} starts like JSON but is not valid JSON.") from None


def _parse_uri(conn_id: str, value: str) -> Mapping[str, Any]:
    try:
        url = urlsplit(value)
        parts: dict[str, Any] = {
            "conn_type": url.scheme,
            "host": url.hostname and unquote(url.hostname),
            "port": url.port,
        }
    except ValueError:
        raise InvalidConnectionError(
            f"Connection {conn_id} is not a valid URI; several hosts need the JSON form, see docs/connections.md."
        ) from None
    parts["login"] = unquote(url.username) if url.username else None
    parts["password"] = unquote(url.password) if url.password else None
    parts["schema"] = unquote(url.path.lstrip("/")) or None
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    parts["extra"] = query.get(EXTRA_KEY, query)
    return parts


def _extra(conn_id: str, extra: Any) -> Mapping[str, Any]:
    if not extra:
        return {}
    if isinstance(extra, str):
        extra = _parse_json(conn_id, extra)
    if not isinstance(extra, Mapping):
        raise InvalidConnectionError(f"Connection {conn_id}: extra must be a JSON object of MongoClient options.")
    return extra


@dataclass(frozen=True)
class Target:
    """An environment with an open client. ``db`` reads and writes with majority concern."""

    environment: Environment
    client: MongoClient[Document]
    database: str

    @property
    def db(self) -> Database[Document]:
        """The environment's database."""
        return self.client.get_database(
            self.database,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority"),
        )


def client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a connection's own options over ours: app name, bounded waits, retryable reads and writes."""
    ours: dict[str, Any] = {"appname": APP_NAME, "connectTimeoutMS": 10_000, "serverSelectionTimeoutMS": 30_000}
    return {**ours, "retryWrites": True, "retryReads": True, **options}


@contextmanager
def connect(
    spec: ConnectionSpec, environment: Environment, *, listeners: tuple[_EventListener, ...] = ()
) -> Iterator[Target]:
    """Yield a checked target and close its client afterwards.

    ``listeners`` are pymongo command listeners; the dry run's write guard is one.

    Raises:
        InvalidConnectionError, CredentialsRefusedError, StandaloneServerError, ServerUnreachableError: before anything
            is written, each with what to do.
    """
    client: MongoClient[Document]
    try:
        options = client_options(spec.options)
        client = MongoClient(spec.uri, **options, event_listeners=list(listeners))
    except (
        InvalidURI,
        ConfigurationError,
        ValueError,
        TypeError,
        OSError,
    ) as error:  # OSError: an unreadable certificate
        raise InvalidConnectionError(
            f"Connection {spec.conn_id} ({spec.hosts}) cannot be used: {_without_secrets(str(error), spec)}"
        ) from None
    with client:
        database = environment.database or spec.database or DEFAULT_DATABASE
        check(client, database, spec)
        yield Target(environment, client, database)


def check(client: MongoClient[Document], database: str, spec: ConnectionSpec) -> None:
    """Ask the server whether it can be worked with: reachable, authenticated, a replica set or a sharded cluster."""
    conn_id, hosts = spec.conn_id, spec.hosts
    try:
        with pymongo.timeout(CHECK_SECONDS):
            hello = client.admin.command("hello")
            client.get_database(database).command("listCollections", nameOnly=True, cursor={"batchSize": 0})
    except OperationFailure as error:
        raise _refused(error, conn_id, hosts) from None
    except ConfigurationError as error:
        raise InvalidConnectionError(
            f"Connection {conn_id} ({hosts}) cannot be used: {_without_secrets(str(error), spec)}"
        ) from None
    except (ConnectionFailure, PyMongoError) as error:
        raise ServerUnreachableError(
            f"No MongoDB server answered at {hosts} (connection {conn_id}) within {CHECK_SECONDS:.0f} s "
            f"({type(error).__name__}). Check host, port, replica set name and firewall, then run again."
        ) from None
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise StandaloneServerError(
            f"The server at {hosts} (connection {conn_id}) is standalone and has no transactions, so nothing could be "
            "resumed safely. Start it with --replSet rs0 and run rs.initiate() once; one node is enough."
        )


def _refused(error: OperationFailure, conn_id: str, hosts: str) -> PlanError:
    if error.code in AUTHENTICATION_FAILED:
        return CredentialsRefusedError(
            f"The server at {hosts} refused the user or password of connection {conn_id}. "
            "Check login, password and authSource of the connection."
        )
    if error.code == UNAUTHORIZED:
        return CredentialsRefusedError(
            f"The user of connection {conn_id} may not read {hosts} (or no login is given). Grant it readWrite and dbAdmin "
            "on the database, or name a login."
        )
    return InvalidConnectionError(f"The server at {hosts} refused connection {conn_id} (code {error.code}).")


def _without_secrets(text: str, spec: ConnectionSpec) -> str:
    """Mask the login and the values of secret options in a driver's message.

    A user name is masked only where it stands alone, since it may be part of an ordinary word. Parts of fewer than
    ``SHORTEST_SECRET`` characters are masked with the whole ``user:password`` only.
    """
    user_info = spec.uri.partition("://")[2].rpartition("@")[0]
    user, _, password = user_info.partition(":")
    whole = {user_info, unquote(user_info)} - {""}
    secrets = {password, unquote(password), *_secret_values(spec.options)}
    names = {user, unquote(user)}
    patterns = [re.escape(one) for one in sorted(whole, key=len, reverse=True)]
    patterns += [re.escape(one) for one in sorted(secrets, key=len, reverse=True) if len(one) >= SHORTEST_SECRET]
    patterns += [rf"(?<!\w){re.escape(one)}(?!\w)" for one in names if len(one) >= SHORTEST_SECRET]
    return re.sub("|".join(patterns), "***", text) if patterns else text


def _secret_values(options: Mapping[str, Any], *, inside: bool = False) -> Iterator[str]:
    """Yield the values of options whose name says that they are secret, and the parts of such values."""
    for name, value in options.items():
        secret = inside or SECRET_OPTION.search(str(name)) is not None
        if isinstance(value, Mapping):
            yield from _secret_values(value, inside=secret)
        elif secret and value is not None:
            text = str(value)
            yield from {text, unquote(text), quote_plus(text), repr(text)[1:-1]}
            yield from (part.partition(":")[2] for part in text.split(",") if ":" in part)
