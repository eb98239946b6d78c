"""The commands that correct or adopt what the database says about migrations, and the rehearsal."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.errors import PlanError
from mongo_ops.migrations import adopt, engine, resolve
from mongo_ops.migrations import rehearse as rehearsing
from mongo_ops.migrations.engine import Survey
from mongo_ops.migrations.model import MigrationFile
from mongo_ops.migrations.resolve import Resolution
from mongo_ops.settings import include_folder, load_environment

SOMETHING_TO_DO = 2


def rehearse(arguments: argparse.Namespace) -> int:
    """Run the pending migrations up, down and up on a sampled copy; exit code 1 when one fails."""
    environment = load_environment(arguments.env)
    spec = support.connection_spec(environment)
    done = rehearsing.rehearse(
        spec, environment, include_folder(), version=arguments.to, allow_out_of_order=arguments.allow_out_of_order,
        sample=arguments.sample or None,
    )  # fmt: skip
    show(arguments, done.as_json(), done.as_text())
    return 0 if done.ok else 1


def mark(arguments: argparse.Namespace) -> int:
    """Say what state a migration really is in."""
    with support.open_run(arguments) as (run, facts):
        done = resolve.mark(run, _named(facts, arguments.migration), arguments.state, arguments.reason)
    _show(arguments, (done,))
    return 0


def baseline(arguments: argparse.Namespace) -> int:
    """Record migrations as applied without running them: up to a version, or those another tool has applied."""
    if arguments.peer:
        return _adopt(arguments)
    if arguments.dry_run:
        with support.open_target(arguments.env, read_only=True) as target:
            facts = engine.survey(target, include_folder())
            plan = engine.plan_forward(target, facts, version=arguments.to, allow_out_of_order=True)
        show(arguments, {"would_record": plan.names}, "\n".join(plan.names) or "Nothing to record.")
        return SOMETHING_TO_DO if plan.names else 0
    with support.open_run(arguments) as (run, facts):
        done = resolve.baseline(run, facts.files, arguments.to, arguments.reason)
    _show(arguments, done)
    return 0


def _adopt(arguments: argparse.Namespace) -> int:
    pairs = _pairs(arguments.match)
    place = {
        "collection": arguments.collection,
        "folder": Path(arguments.folder) if arguments.folder else None,
        "pairs": pairs,
    }
    if arguments.dry_run:
        with support.open_target(arguments.env, read_only=True) as target:
            facts = engine.survey(target, include_folder())
            seen = adopt.preview(target.db, facts.files, arguments.peer, **place)
        show(arguments, seen.as_json(), seen.as_text())
        return SOMETHING_TO_DO
    with support.open_run(arguments) as (run, facts):
        seen = adopt.preview(run.target.db, facts.files, arguments.peer, **place)
        done = adopt.adopt(run, facts.files, seen, arguments.reason, ignore_unmatched=arguments.ignore_unmatched)
    _show(arguments, done)
    return 0


def _pairs(matches: Sequence[str]) -> Mapping[str, str]:
    """Read ``THEIRS=OURS`` words.

    Raises:
        PlanError: a word has no ``=``.
    """
    wrong = [word for word in matches if "=" not in word]
    if wrong:
        raise PlanError(f"--match takes THEIRS=OURS, not {wrong[0]!r}.")
    return {theirs: ours for theirs, _, ours in (word.rpartition("=") for word in matches)}


def _named(facts: Survey, name: str) -> MigrationFile | str:
    """Return the file of a name or version; the recorded name when its file is gone."""
    files = [file for file in facts.files if name in (file.name, file.version)]
    records = [record.name for record in facts.records if name in (record.name, record.version)]
    if not files and not records:
        raise PlanError(f"There is no migration {name}; `mongo-ops status` lists them.")
    return files[0] if files else records[0]


def _show(arguments: argparse.Namespace, done: Sequence[Resolution]) -> None:
    value = {"recorded": [json.loads(json.dumps(dataclasses.asdict(one), default=str)) for one in done]}
    show(arguments, value, "\n".join(f"{one.name}: {one.was} -> {one.now}" for one in done) or "Nothing to record.")
