"""`mongo-ops erase`: receive, plan, carry out and prove requests of people."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mongo_ops.cli import people, support
from mongo_ops.cli.output import show
from mongo_ops.erasure import coverage, report, requests
from mongo_ops.erasure import plan as planner
from mongo_ops.erasure.certificate import as_page
from mongo_ops.erasure.conclusion import certificates
from mongo_ops.erasure.keys import PURPOSES, renewed, variable
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.model import OPEN
from mongo_ops.erasure.requests import RequestMissingError
from mongo_ops.errors import PlanError

FAILED, SOMETHING_TO_DO = 1, 2


def erase(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    from mongo_ops.cli import erasure_care  # noqa: PLC0415 - holds, replay, exports: not for every call

    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "keys": _keys, "request": _request, "batch": _batch, "list": _list, "extend": _extend, "plan": _plan, "run": _run,
        "coverage": _coverage, "certificate": _certificate, **erasure_care.ACTIONS,
    }  # fmt: skip
    return actions[arguments.action](arguments)


def _keys(arguments: argparse.Namespace) -> int:
    chosen = [one for one in PURPOSES if arguments.rotate in (None, one)]
    if not chosen:
        raise PlanError(f"There is no such purpose; there are {', '.join(PURPOSES)}.")
    for purpose in chosen:
        name = f"AIRFLOW_VAR_{variable(purpose).upper()}"
        print(f"{name}='{renewed(purpose, os.environ.get(name) if arguments.rotate else None)}'")
    return 0


def _request(arguments: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    received = people.day(arguments.received) if arguments.received else None
    with people.open_engine(arguments) as (engine, occasion):
        values = people.ask_many(engine) if arguments.many else [people.ask(engine)]
        made = [
            requests.receive(
                engine.target.db, arguments.env, engine.data_map, engine.keyring, value, arguments.source, occasion.actor, now,
                received_at=received,
            )
            for value in values
        ]  # fmt: skip
        ids = list(dict.fromkeys(one.id for one in made))
        batch = None
        if arguments.many:
            batch = requests.make_batch(engine.target.db, arguments.env, actor=occasion.actor, now=now, requests=ids)
    first = made[0]
    again = " (they had asked already; this is that request)" if first.again else ""
    text = f"{batch}: {len(ids):,} requests" if batch else f"{first.id}: due {first.due_at:%Y-%m-%d}{again}"
    show(
        arguments, {"requests": ids, "batch": batch, "due_at": first.due_at, "again": [one.again for one in made]}, text
    )
    return 0


def _batch(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        chosen = arguments.requests or None
        batch = requests.make_batch(
            engine.target.db, arguments.env, actor=occasion.actor, now=datetime.now(UTC), requests=chosen
        )
        size = len(requests.members(engine.target.db, batch))
    show(arguments, {"batch": batch, "requests": size}, f"{batch}: {size:,} requests")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    with support.open_target(arguments.env, read_only=True) as target:
        found = requests.listing(target.db, states=OPEN if arguments.open else None)
        rows = report.requests_as_rows(found, now)
    lines = [
        f"{row['request']}  {row['state']:24} due {row['due']}  {row['days_left'] if row['days_left'] is not None else '':>5}  {row['alert']}"
        for row in rows
    ]
    show(arguments, {"requests": rows}, "\n".join(lines).rstrip() or "No requests.")
    return SOMETHING_TO_DO if any(row["alert"] == "overdue" for row in rows) else 0


def _extend(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        request = requests.extend(
            engine.target.db, arguments.request, reason=arguments.reason, notified_at=people.day(arguments.notified),
            actor=occasion.actor, now=datetime.now(UTC),
        )  # fmt: skip
    show(arguments, {"request": request.id, "due_at": request.due_at}, f"{request.id}: due {request.due_at:%Y-%m-%d}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, _):
        plan = engine.plan(arguments.request, only=True)
    show(arguments, planner.as_value(plan), report.plan_as_text(plan))
    return SOMETHING_TO_DO if plan.requests else 0


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    with people.open_engine(arguments) as (engine, _):
        plan = engine.plan(arguments.request)
        if not arguments.json:
            print(report.plan_as_text(plan))
        support.insist_on_digest(
            engine.target.environment,
            plan.digest,
            arguments.approved,
            f"erase plan --env {arguments.env} {arguments.request}",
        )
        came_to = engine.carry_through(plan)
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(came_to.states.items()))
    show(arguments, dataclasses.asdict(came_to), "\n".join([states, *came_to.reasons]))
    return 0 if came_to.complete else FAILED


def _coverage(arguments: argparse.Namespace) -> int:
    with support.open_target(arguments.env, read_only=True) as target:
        gaps = coverage.coverage(target.db, load_map())
    rows = [dataclasses.asdict(gap) for gap in gaps]
    show(
        arguments,
        {"gaps": rows},
        "\n".join(gap.sentence for gap in gaps) or "The data map names everything that is there.",
    )
    return SOMETHING_TO_DO if gaps else 0


def _certificate(arguments: argparse.Namespace) -> int:
    with support.open_target(arguments.env, read_only=True) as target:
        found = certificates(target.db, requests.load(target.db, arguments.request).id)
    if not found:
        raise RequestMissingError(
            f"{arguments.request} has no certificate: it is not complete. `mongo-ops erase list` shows its state."
        )
    if arguments.html:
        with people.telling_of_files():
            Path(arguments.html).write_text(as_page(found[-1]), encoding="utf-8")
        show(arguments, {"written": arguments.html}, f"Written to {arguments.html}.")
        return 0
    print(json.dumps(found[-1], indent=None if arguments.json else 2))
    return 0
