"""More of `mongo-ops erase`: legal holds, what came back after a restore, a person's own data, notices to recipients."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from mongo_ops.cli import people, support
from mongo_ops.cli.output import show
from mongo_ops.erasure import holds, notices, replay
from mongo_ops.erasure.engine import Engine
from mongo_ops.erasure.hold_scopes import DocumentScope, SubjectScope

FAILED, SOMETHING_TO_DO = 1, 2


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
}
