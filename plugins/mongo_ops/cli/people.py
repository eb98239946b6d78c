"""What the commands about people share: open the engine, ask for an identifier without letting it into history or logs."""

from __future__ import annotations

import argparse
import errno
import getpass
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from mongo_ops.cli import support
from mongo_ops.erasure import tombstones
from mongo_ops.erasure.engine import Engine
from mongo_ops.erasure.identifiers import parse_subject
from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.map_file import FILE, load_map
from mongo_ops.erasure.replay import tombstone_filter
from mongo_ops.erasure.tags import subjects_named
from mongo_ops.errors import PlanError
from mongo_ops.migrations.history import Occasion
from mongo_ops.settings import include_folder
from mongo_ops.storage import open_folder
from mongo_ops.transfer.whereabouts import Exports

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


class InputMissingError(PlanError):
    """An identifier was asked for and none came."""


@contextmanager
def open_engine(arguments: argparse.Namespace, *, read_only: bool = False) -> Iterator[tuple[Engine, Occasion]]:
    """Yield the engine on an environment, and on whose behalf it works."""
    occasion = support.occasion(reason=getattr(arguments, "reason", None))
    with support.open_target(arguments.env, read_only=read_only) as target:
        at = target.environment
        engine = Engine(
            target=target,
            data_map=load_map(),
            keyring=keyring(),
            folder=open_folder(at.storage, connection=at.storage_connection),
            holder=support.holder(occasion),
            actor=occasion.actor,
            assets=open_folder(at.assets, connection=at.assets_connection) if at.assets else None,
            exports=Exports(target.db, lambda uri, connection: open_folder(uri, connection=connection)),
        )
        yield engine, occasion


def refusal(target: Target, collection: str) -> Callable[[bytes], bool] | None:
    """Return what says of a document's bytes that it was erased and must not come in again; None where nobody was ever erased.

    Raises:
        KeyMissingError: there are tombstones and no key to read them with.
    """
    at = target.environment
    folder = open_folder(at.storage, connection=at.storage_connection)
    if not tombstones.at(folder).exists():
        return None
    return partial(tombstone_filter(target, load_map(), keyring(), folder), collection)


def subjects(collections: Iterable[str], where: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the references of the people whom an export's filter names, by collection; nobody's where there is no data map."""
    if not where or not (include_folder() / FILE).is_file():
        return {}
    return subjects_named(load_map(), keyring(), collections, where)


def keyring() -> Keyring:
    """Return the keys from ``AIRFLOW_VAR_MONGO_OPS_KEY_*``, or from Airflow's secrets backend when one is configured."""
    if support.has_secrets_backend():
        from mongo_ops.orchestration import keys  # noqa: PLC0415 - imports Airflow, which takes seconds

        return keys.keyring()
    return Keyring.from_environment()


def ask(engine: Engine) -> Any:
    """Return the typed identifier of one person: asked for without echo, or read from a pipe.

    Raises:
        InvalidIdentifierError, InputMissingError: nothing was read or written.
    """
    name = engine.data_map.subject
    text = getpass.getpass(f"{name} (not shown): ") if sys.stdin.isatty() else next(_lines(), "").rstrip("\n")
    return parse_subject(engine.data_map, text)


def ask_many(engine: Engine) -> list[Any]:
    """Return the typed identifiers of many people, one per line of standard input. All are checked before the first is used.

    Raises:
        InvalidIdentifierError: names the line.
        InputMissingError: there is no line.
    """
    found = []
    for number, line in enumerate(_lines(), start=1):
        try:
            found.append(parse_subject(engine.data_map, line.rstrip("\n")))
        except PlanError as error:
            raise type(error)(f"Line {number}: {error}") from None
    if not found:
        raise InputMissingError("Standard input has no line. Give one identifier per line.")
    return found


def _lines() -> Iterator[str]:
    try:
        yield from sys.stdin
    except UnicodeDecodeError:
        raise InputMissingError("Standard input is not UTF-8 text. Nothing was read or written.") from None


@contextmanager
def telling_of_files() -> Iterator[None]:
    """Turn what the file system says of a file on this machine into a sentence.

    Raises:
        PlanError: it cannot be written.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise PlanError(
            f"A file cannot be written ({reason}). Check its folder, the rights and the space left."
        ) from None


def day(text: str) -> datetime:
    """Return the moment that a date, or a date and time, names; UTC unless it says otherwise.

    Raises:
        PlanError: it is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PlanError("A date is written like 2026-03-31, or 2026-03-31T12:00:00+01:00.") from None
