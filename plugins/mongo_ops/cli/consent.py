"""`mongo-ops consent`: record, prove and report what people have consented to. The person's identifier is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime

from mongo_ops.cli import people
from mongo_ops.cli.output import show
from mongo_ops.erasure import consent as book

NOT_IN_FORCE = 2


def consent(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "grant": _grant, "withdraw": _withdraw, "prove": _prove, "report": _report,
    }  # fmt: skip
    return actions[arguments.action](arguments)


def _grant(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        person, now = people.ask(engine), datetime.now(UTC)
        made = book.grant(engine.target.db, arguments.env, person, _decision(arguments), actor=occasion.actor, now=now)
    show(arguments, {"record": str(made)}, f"Recorded as {made}.")
    return 0


def _withdraw(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, occasion):
        person, now = people.ask(engine), datetime.now(UTC)
        made = book.withdraw(
            engine.target.db,
            arguments.env,
            engine.data_map,
            person,
            _decision(arguments),
            actor=occasion.actor,
            now=now,
        )
    due = [one.id for one in made.delete]
    what = f"; mongo_retention deletes what was processed under it: {', '.join(due)}" if due else ""
    show(arguments, {"record": str(made.record_id), "delete": due}, f"Recorded as {made.record_id}{what}.")
    return 0


def _prove(arguments: argparse.Namespace) -> int:
    at = people.day(arguments.at) if arguments.at else datetime.now(UTC)
    with people.open_engine(arguments) as (engine, _):
        proof = book.prove(engine.target.db, engine.data_map, arguments.type, at=at, user_id=people.ask(engine))
    in_force = proof is not None and proof.valid
    text = f"{arguments.type}: {'in force' if in_force else 'not in force'} at {at:%Y-%m-%d %H:%M} UTC"
    show(arguments, {"type": arguments.type, "valid": in_force, "record": proof.record if proof else None}, text)
    return 0 if in_force else NOT_IN_FORCE


def _report(arguments: argparse.Namespace) -> int:
    with people.open_engine(arguments) as (engine, _):
        proofs = book.report(engine.target.db, engine.data_map, at=datetime.now(UTC), user_id=people.ask(engine))
    lines = [f"{proof.type:24} {'in force' if proof.valid else 'not in force'}" for proof in proofs]
    show(arguments, {"consents": [proof.record for proof in proofs]}, "\n".join(lines) or "No decision is recorded.")
    return 0


def _decision(arguments: argparse.Namespace) -> book.Decision:
    return book.Decision(arguments.type, arguments.policy_version, arguments.source)
