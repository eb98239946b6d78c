"""More of `mongo-ops erase`: legal holds, what came back after a restore, a person's own data, notices to recipients."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mongo_ops.cli import people, support
from mongo_ops.cli.output import show
from mongo_ops.erasure import access, holds, notices, replay
from mongo_ops.erasure.engine import Engine
from mongo_ops.erasure.hold_scopes import DocumentScope, SubjectScope
from mongo_ops.errors import PlanError

FAILED, SOMETHING_TO_DO = 1, 2
PIPE = "-"


def _holds(arguments: argparse.Namespace) -> int:
    with support.open_target(arguments.env, read_only=True) as target:
        rows = [
            {
                "hold": one.id,
                "on": _on(one.scope),
                "reason_code": one.reason_code,
                "authority": one.authority,
                "review": one.review_at,
            }
            for one in holds.listing(target.db)
        ]
    lines = [
        f"{row['hold']}  {row['on']:30} {row['reason_code']:20} review {row['review']:%Y-%m-%d}  {row['authority']}"
        for row in rows
    ]
    show(arguments, {"holds": rows}, "\n".join(lines) or "No legal holds.")
    return 0


def _hold(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        made = holds.place(
            engine.target.db, arguments.env, _scope(engine, arguments), reason_code=arguments.reason_code,
            authority=arguments.authority, review_at=people.day(arguments.review), actor=occasion.actor, now=datetime.now(UTC),
        )  # fmt: skip
    show(arguments, {"hold": made.id}, f"{made.id}: in force from now on, to be reviewed on {made.review_at:%Y-%m-%d}.")
    return 0


def _release(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        opened = holds.release(
            engine.target.db,
            arguments.env,
            arguments.hold,
            reason=arguments.reason,
            actor=occasion.actor,
            now=datetime.now(UTC),
        )
    text = f"Released. Open again: {', '.join(opened)}" if opened else "Released. No request was waiting for it."
    show(arguments, {"released": arguments.hold, "opened": list(opened)}, text)
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, _):
        seen = replay.replay(engine, only=arguments.dry_run)
    show(arguments, seen.as_dict(), str(seen))
    return 0 if seen.ok else SOMETHING_TO_DO if arguments.dry_run else FAILED


def _export_subject(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        person = people.ask(engine)
        with _sink(arguments.output) as sink:
            done = access.export(engine.target, engine.data_map, engine.keyring, person, sink, actor=occasion.actor)
    if arguments.output != PIPE:
        show(
            arguments,
            dataclasses.asdict(done),
            f"{done.total:,} documents of {done.reference} written to {arguments.output}.",
        )
    return 0


@contextmanager
def _sink(output: str) -> Iterator[IO[bytes]]:
    """Yield standard output, or a new file that only its owner may read; an export is not written over."""
    if output == PIPE:
        yield sys.stdout.buffer
        return
    try:
        with people.telling_of_files():
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise PlanError(f"{output} is there already; an export is never written over another one.") from None
    try:
        with people.telling_of_files(), os.fdopen(handle, "wb") as file:
            yield file
    except BaseException:  # half of what is known about a person is no answer
        Path(output).unlink()
        raise


def _notices(arguments: argparse.Namespace) -> int:
    if arguments.told:
        with people.open_engine(arguments) as (engine, occasion):
            told = notices.mark_told(
                engine.target.db, arguments.env, arguments.told, actor=occasion.actor, now=datetime.now(UTC)
            )
        show(arguments, {"told": told.id}, f"{told.id}: told.")
        return 0
    with support.open_target(arguments.env, read_only=True) as target:
        waiting = list(notices.listing(target.db))
    rows = [dataclasses.asdict(one) for one in waiting]
    lines = [f"{one.id}  since {one.made_at:%Y-%m-%d}: {', '.join(one.categories)}" for one in waiting]
    show(arguments, {"notices": rows}, "\n".join(lines) or "Everybody was told.")
    return SOMETHING_TO_DO if rows else 0


def _scope(engine: Engine, arguments: argparse.Namespace) -> SubjectScope | DocumentScope:
    if arguments.request:
        return holds.of_request(engine.target.db, arguments.request)
    if arguments.collection:
        return holds.of_documents(engine.target.db, arguments.collection, arguments.filter)
    return holds.of_subject(engine.target.db, engine.keyring, engine.data_map.subject, people.ask(engine))


def _on(scope: SubjectScope | DocumentScope) -> str:
    return f"documents of {scope.collection}" if isinstance(scope, DocumentScope) else "a person"


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "holds": _holds,
    "hold": _hold,
    "release": _release,
    "replay": _replay,
    "notices": _notices,
    "export-subject": _export_subject,
}
