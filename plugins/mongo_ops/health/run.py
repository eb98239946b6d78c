"""Carry checks out, each on its own: what goes wrong in one is its UNKNOWN, and hides no other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pymongo
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError

from mongo_ops.errors import MongoOpsError, PlanError
from mongo_ops.health.checks import CHECKS, GROUPS
from mongo_ops.health.collect import LOST_SECONDS, kind_of
from mongo_ops.health.model import Check, NotApplicableError, Result, Status, worst
from mongo_ops.health.sight import Sight
from mongo_ops.health.thresholds import Thresholds


class UnknownGroupError(PlanError):
    """There is no such group of checks."""


def chosen(groups: Iterable[str] | None = None) -> tuple[Check, ...]:
    """Return the checks of these groups, in the order of the catalogue; all for none.

    Raises:
        UnknownGroupError: there is none of that name.
    """
    wanted = tuple(groups or ()) or GROUPS
    strange = sorted(set(wanted) - set(GROUPS))
    if strange:
        raise UnknownGroupError(f"There is no group {', '.join(strange)}; there are {', '.join(GROUPS)}.")
    return tuple(check for check in CHECKS if check.group in wanted)


def carry_out(sight: Sight, checks: Sequence[Check], thresholds: Thresholds) -> tuple[Result, ...]:
    """Return what each check comes to. After the server went away, or without a primary, nobody waits for it."""
    results: list[Result] = []
    lost = not sight.snapshot.has_primary
    for check in checks:
        limits = thresholds.of(check)
        seconds = LOST_SECONDS if lost else thresholds.check_seconds
        result, gone = _one(replace(sight, limits=limits, mutes=thresholds.mutes), check, seconds)
        lost = lost or gone
        results.append(result)
    return tuple(results)


def none_could_look(checks: Sequence[Check], thresholds: Thresholds, error: MongoOpsError) -> tuple[Result, ...]:
    """Return the results of checks that there is no server for."""
    return tuple(
        Result(check.id, Status.UNKNOWN, reason=str(error), error=type(error).__name__)
        if thresholds.of(check).enabled
        else _off(check)
        for check in checks
    )


def _off(check: Check) -> Result:
    return Result(check.id, Status.SKIPPED, reason="health.yaml switches it off.", off=True)


def _one(sight: Sight, check: Check, seconds: float) -> tuple[Result, bool]:
    """Return the result, and whether the server went away."""
    if not sight.limits.enabled:
        return _off(check), False
    began, gone = time.monotonic(), False
    try:
        with pymongo.timeout(seconds):
            facts = check.read(sight) if check.read else sight.snapshot
        findings = tuple(check.verdict(facts, sight.limits))
        made = Result(check.id, worst(findings), findings)
    except NotApplicableError as error:
        made = Result(check.id, Status.SKIPPED, reason=str(error))
    except MongoOpsError as error:  # its text holds no value of a document
        made = Result(check.id, Status.UNKNOWN, reason=str(error), error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever it is, the check is UNKNOWN and the others go on
        gone = isinstance(error, AutoReconnect | ServerSelectionTimeoutError)
        made = Result(check.id, Status.UNKNOWN, reason=f"It could not look ({kind_of(error)}).", error=kind_of(error))
    return replace(made, seconds=time.monotonic() - began), gone
