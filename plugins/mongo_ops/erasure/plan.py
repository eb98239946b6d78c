"""From what was found to what is approved: the plan of a run and its digest. Pure.

The digest binds who (a keyed commitment to all identity closures), by which rules (the data map's digest) and where. Counts are shown and
not bound: people go on using the product while a plan waits for its approval. A run that selects far more than was shown is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mongo_ops.erasure.model import Finding, Plan, RuleCount
from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import digest

TWICE, MANY = 2, 100
"""A rule may come to select up to twice as many documents as were shown, and this many more in any case."""


class PlanStoppedError(PlanError):
    """The plan found what would stop it half-way, or goes beyond its limits."""


class PlanChangedError(PlanError):
    """What would be done now is not what was planned."""


class NobodyError(PlanError):
    """None of the requests leads to anything."""


def sealed(plan: Plan) -> Plan:
    """Return the plan with its digest."""
    bound = {
        "environment": plan.environment,
        "database": plan.database,
        "run": plan.run_id,
        "requests": plan.requests,
        "excluded": sorted(plan.excluded),
        "map": plan.map_digest,
        "closure": plan.closure_digest,
        "rules": [one.rule for one in plan.counts],
    }
    return replace(plan, digest=digest(bound))


def insist_on_way(plan: Plan) -> None:
    """Refuse a plan with obstacles.

    Raises:
        PlanStoppedError: names all of them.
        NobodyError: nobody is left in it.
    """
    if not plan.requests:
        reasons = "; ".join(f"{request}: {reason}" for request, reason in list(plan.excluded.items())[:5])
        raise NobodyError(f"Nothing was done for anybody: {reasons or 'the batch is empty'}.")
    stops = [f"{one.where}: {one.sentence}" for one in plan.findings if one.stops]
    if stops:
        raise PlanStoppedError(f"The plan stops here, nothing was changed. {' '.join(stops)}")


def insist_on_whole(plan: Plan, map_digest: str) -> None:
    """Refuse a plan that was edited on its way, or whose data map was.

    Raises:
        PlanChangedError: says which.
    """
    if plan.map_digest != map_digest:
        raise PlanChangedError(
            "The data map was edited after the plan was made. Plan and approve again; what is done stays done."
        )
    if sealed(plan).digest != plan.digest:
        raise PlanChangedError(
            "The plan was edited after it was made: its digest does not fit. Plan and approve again; what is done stays done."
        )


def insist_on_same(planned: Plan, now: Plan) -> None:
    """Refuse to carry out a plan that is not the one that was made, or that grew far beyond what was shown.

    Raises:
        PlanChangedError: says what changed.
    """
    insist_on_whole(planned, now.map_digest)
    if planned.digest != now.digest:
        raise PlanChangedError(
            "The people's data changed after the plan was made (a new account, artist or request): it leads to other documents now. "
            "Plan and approve again; nothing was changed."
        )
    shown = {one.rule: one.documents for one in planned.counts}
    for one in now.counts:
        if one.documents > max(TWICE * shown[one.rule], shown[one.rule] + MANY):
            raise PlanChangedError(
                f"Rule {one.rule} selects {one.documents:,} documents now, {shown[one.rule]:,} when the plan was made. Plan and "
                "approve again; nothing was changed."
            )


def as_value(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON-able values, for what passes between tasks. Nothing in it names a person."""
    return asdict(plan)


def of_value(value: Mapping[str, Any]) -> Plan:
    """Return the plan that ``as_value`` gave."""
    counts: Sequence[RuleCount] = tuple(RuleCount(**one) for one in value["counts"])
    findings = tuple(Finding(**one) for one in value["findings"])
    return Plan(**{**value, "counts": counts, "findings": findings, "partial": tuple(value["partial"])})
