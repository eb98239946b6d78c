"""`mongo-ops online`: change a collection under its writers, step by step. Every step can be stopped and repeated."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.errors import PlanError
from mongo_ops.mongo.guard import WriteRefusedError
from mongo_ops.online import discover, lint, report
from mongo_ops.online.engine import Engine
from mongo_ops.online.errors import NotStartedError
from mongo_ops.online.model import ENDED, Phase, SliceResult
from mongo_ops.settings import include_folder, load_personal_fields

FAILED, SOMETHING_TO_DO = 1, 2
SLICE_SECONDS = 30.0
WAIT_SECONDS = 2.0


def online(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list, "lint": _lint, "plan": _plan, "start": _start, "status": _status, "pause": _pause, "resume": _resume,
        "follow": _follow, "abort": _abort, "cut-over": _cut_over, "rollback": _rollback, "contract": _contract,
    }  # fmt: skip
    return actions[arguments.action](arguments)


@contextmanager
def _engine(arguments: argparse.Namespace, *, read_only: bool = False) -> Iterator[Engine]:
    file = discover.find(include_folder(), arguments.name)
    occasion = support.occasion(getattr(arguments, "approved", None), arguments.reason)
    with support.open_target(arguments.env, read_only=read_only) as target:
        say = _say if not arguments.json else (lambda _: None)
        yield Engine(target, file, occasion, support.holder(occasion), keep_lease=True, report=say)


@contextmanager
def _held(arguments: argparse.Namespace) -> Iterator[Engine]:
    """Yield the engine and give its lease back at the end."""
    with _engine(arguments) as engine:
        try:
            yield engine
        finally:
            engine.release()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _list(arguments: argparse.Namespace) -> int:
    rows = []
    with support.open_target(arguments.env, read_only=True) as target:
        for file in discover.discover(include_folder()):
            state = target.db["ops_online"].find_one({"_id": file.name}, {"phase": 1}) or {}
            rows.append({"name": file.name, "collection": file.migration.collection, "mode": file.migration.mode,
                         "phase": state.get("phase", "not started"), "title": file.title})  # fmt: skip
    lines = [f"{row['name']:40} {row['phase']:12} {row['mode']:9} {row['collection']}" for row in rows]
    show(arguments, {"migrations": rows}, "\n".join(lines) or "No specs.")
    return 0


def _lint(arguments: argparse.Namespace) -> int:
    findings = lint.lint(include_folder(), load_personal_fields())
    errors = [finding for finding in findings if finding.severity == "error"]
    value = {"findings": [{**dataclasses.asdict(finding), "severity": finding.severity} for finding in findings]}
    lines = [*map(str, findings), f"{len(errors)} errors, {len(findings) - len(errors)} warnings"]
    show(arguments, value, "\n".join(lines))
    return SOMETHING_TO_DO if errors else 0


def _insist_on_lint(engine: Engine) -> None:
    findings = lint.check(engine.file, load_personal_fields())
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise PlanError(f"{engine.file.name} cannot start: {'; '.join(errors)}")


def _plan(arguments: argparse.Namespace) -> int:
    with _engine(arguments, read_only=True) as engine:
        try:
            plan = engine.plan()
        except WriteRefusedError as error:
            raise PlanError(f"The plan would write: {error}.") from None
    show(arguments, report.plan_as_value(plan), report.plan_as_text(plan))
    return SOMETHING_TO_DO


def _start(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _plan(arguments)
    ends = time.monotonic() + arguments.budget if arguments.budget else float("inf")
    with _held(arguments) as engine:
        _insist_on_lint(engine)
        plan = engine.plan()
        look = f"online plan --env {arguments.env} {arguments.name}"
        support.insist_on_digest(engine.target.environment, plan.digest, arguments.approved, look)
        result = engine.start(plan.digest, parts=arguments.parts)
        while not _stands(result) and time.monotonic() < ends:
            result = _next(engine, min(SLICE_SECONDS, ends - time.monotonic()))
        status = engine.status()
    show(arguments, {**result.as_dict(), "status": status}, report.status_as_text(status))
    return 0 if result.next in (Phase.READY, Phase.SOAK, Phase.DONE) else SOMETHING_TO_DO


def _next(engine: Engine, budget: float) -> SliceResult:
    """Do one slice of whatever is on; every part of a backfill in its turn."""
    results: list[SliceResult] = []
    for part in range(engine.parts()):
        results.append(engine.advance(budget=budget, part=part))
        if _stands(results[-1]):
            return results[-1]
    if len(results) > 1 and all(one.phase is Phase.BACKFILL and one.done for one in results):
        return engine.advance(Phase.CATCH_UP, budget=budget)
    if results[-1].waiting:
        time.sleep(WAIT_SECONDS)
    return results[-1]


def _stands(result: SliceResult) -> bool:
    """Whether nothing more happens without a person."""
    return result.next in (Phase.READY, Phase.SOAK, *ENDED)


def _follow(arguments: argparse.Namespace) -> int:
    with _held(arguments) as engine:
        result = engine.advance(budget=arguments.budget)
    show(arguments, result.as_dict(), str(result))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    with _engine(arguments, read_only=True) as engine:
        status = engine.status()
    show(arguments, status, report.status_as_text(status))
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    return _control(arguments, "pause" if not arguments.set else None)


def _resume(arguments: argparse.Namespace) -> int:
    return _control(arguments, "run")


def _control(arguments: argparse.Namespace, command: str | None) -> int:
    with _engine(arguments) as engine:
        settings: dict[str, Any] = _settings(arguments.set, engine.status()["control"])
        control = engine.control(**settings, **({"command": command} if command else {}))
    show(arguments, control, ", ".join(f"{name} {value}" for name, value in control.items()))
    return 0


def _settings(words: list[str], now: dict[str, Any]) -> dict[str, Any]:
    """Read KEY=VALUE; ``max_load.queue=50`` changes one metric and leaves the others."""
    settings: dict[str, Any] = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found:
            raise PlanError(f"--set takes KEY=VALUE, not {word!r}.")
        name, _, metric = key.partition(".")
        settings[name] = {**now.get(name, {}), **settings.get(name, {}), metric: value} if metric else value
    return settings


def _abort(arguments: argparse.Namespace) -> int:
    with _held(arguments) as engine:
        result = engine.abort(arguments.reason or "asked for")
        while not result.done:
            result = engine.abort(arguments.reason or "asked for")
    show(
        arguments, result.as_dict(), f"{engine.file.name} is aborted; {engine.file.migration.collection} is as before."
    )
    return 0


def _verified(engine: Engine, arguments: argparse.Namespace) -> str:
    """Return the digest of the last verification; on a protected environment somebody must have passed it on."""
    found = engine.verification()
    if found is None:
        raise NotStartedError(f"{engine.file.name} is not verified yet.")
    look = f"online status --env {arguments.env} {arguments.name}"
    support.insist_on_digest(engine.target.environment, found.digest, arguments.approved, look)
    return str(arguments.approved or found.digest)


def _cut_over(arguments: argparse.Namespace) -> int:
    with _held(arguments) as engine:
        came_to = engine.cut_over(_verified(engine, arguments))
    return _swapped(arguments, came_to.as_dict(), "cut over")


def _rollback(arguments: argparse.Namespace) -> int:
    with _held(arguments) as engine:
        if engine.target.environment.protected and not arguments.yes:
            raise PlanError(f"{arguments.env} is protected: say --yes to roll back.")
        came_to = engine.rollback()
    return _swapped(arguments, came_to.as_dict(), "rolled back")


def _swapped(arguments: argparse.Namespace, value: dict[str, Any], what: str) -> int:
    text = f"{arguments.name}: {what}; writes were refused for {value['refused_ms']:.0f} ms ({value['fence']}), readers had a gap of at most {value['reads_gap_ms']:.0f} ms."
    show(arguments, value, text)
    return 0


def _contract(arguments: argparse.Namespace) -> int:
    with _held(arguments) as engine:
        approved = _verified(engine, arguments)
        result = engine.contract(approved, early=arguments.early)
        while not result.done:
            result = engine.contract(approved, early=arguments.early)
    show(arguments, result.as_dict(), f"{engine.file.name} is done.")
    return 0
