"""Make the plan of a run: who is in it, what their identifiers lead to, what each rule selects, what stands in the way.

Reads everything and writes nothing but the closures, sealed, and only when asked to. The people it cannot serve (held, found nowhere,
done already) are left out one by one; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongo_ops.erasure import closure, holds, objects, requests, survey
from mongo_ops.erasure.coverage import coverage
from mongo_ops.erasure.model import OPEN, DataMap, Finding, Plan, Request, RuleCount, Subject
from mongo_ops.erasure.plan import sealed
from mongo_ops.erasure.scan import places
from mongo_ops.erasure.verify import scan
from mongo_ops.erasure.work import Work

if TYPE_CHECKING:
    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.erasure.objects import Stores
    from mongo_ops.mongo.connection import Target

HELD, DONE, NOBODY, ELSEWHERE = "held", "done already", "matches nobody", "of another environment"


@dataclass(frozen=True)
class Planned:
    """A plan, the people in it, how many traces of each the scan saw, which requests match nobody, and which share values with others."""

    plan: Plan
    work: Work
    traces: Mapping[str, int]
    nobody: tuple[str, ...]
    sharing: frozenset[str]


def plan_run(
    target: Target,
    data_map: DataMap,
    keyring: Keyring,
    run: str,
    stores: Stores | None = None,
    known: Work | None = None,
) -> Planned:
    """Plan a request or a batch; reads only.

    Without ``stores``, to compare with a plan that was made: nothing is said about files, and what the scan saw then is not looked at again.
    ``known`` are its people; they are taken again if they still are the same.

    Raises:
        RequestMissingError, KeyMissingError, VaultError: nothing was planned.
    """
    db = target.db
    excluded: dict[str, str] = {}
    people = list(_people(target, data_map, keyring, run, excluded))
    resolved = closure.resolve(db, data_map, people)
    work = Work(target, data_map, keyring, resolved.subjects, run)
    if known is not None and known.subjects == work.subjects:
        work = known
    where, blind = places(db.client, db.name)
    traces: Counter[str] = Counter()
    for seen in scan(work, where) if stores is not None else ():
        traces.update(seen.by_request)
    there = survey.collections(db, data_map.rules)
    nobody = tuple(sorted(_nobody(work, resolved, traces, there)))
    excluded |= dict.fromkeys(nobody, NOBODY)
    if nobody:
        work = Work(target, data_map, keyring, [one for one in resolved.subjects if one.request_id not in nobody], run)
    counts = tuple(survey.count(work, rule, there) for rule in data_map.rules)
    gaps = [Finding(one.where, one.sentence) for one in coverage(db, data_map)]  # with one a result is partial at best
    gaps += [Finding("scan", sentence) for sentence in blind]
    gaps += objects.gaps(work, stores) if stores is not None else ()
    findings = (*resolved.findings, *survey.obstacles(work, counts, there), *_of_limits(work), *gaps)
    findings += objects.findings(work, stores) if stores is not None else ()
    plan = Plan(
        run_id=run,
        environment=target.environment.name,
        database=target.database,
        requests=len(work.subjects),
        excluded=excluded,
        counts=counts,
        objects=sum(len(one.closure.get(name, ())) for one in work.subjects for name in objects_of(data_map)),
        findings=findings,
        map_digest=data_map.digest,
        closure_digest=closure.commitment(keyring, work.subjects),
        partial=tuple(one.sentence for one in gaps),
    )
    return Planned(sealed(plan), work, dict(traces), nobody, resolved.sharing)


def objects_of(data_map: DataMap) -> tuple[str, ...]:
    """Return the identifiers that are keys of objects."""
    return tuple(one.name for one in data_map.identifiers.values() if one.is_object)


def _people(
    target: Target, data_map: DataMap, keyring: Keyring, run: str, excluded: dict[str, str]
) -> Iterator[Subject]:
    """Yield the people of a run with what is known of them already; say of the others why they are left out."""
    members = requests.members(target.db, run)
    held = holds.active(target.db)
    known = {one.request_id: one for one in closure.load(target.db, keyring, members)}
    for request in requests.load_all(target.db, members):
        reason = _reason(target, request, held)
        if reason is not None:
            excluded[request.id] = reason
            continue
        before = known.get(request.id)
        values = before.closure if before else {data_map.subject: (requests.subject_value(keyring, request),)}
        yield Subject(request.id, request.subject_ref, values)


def _reason(target: Target, request: Request, held: holds.Holds) -> str | None:
    if request.environment != target.environment.name:
        return ELSEWHERE
    if request.state not in OPEN:
        return f"{DONE} ({request.state})"
    return HELD if held.of(request.subject_ref) else None


def _nobody(
    work: Work, resolved: closure.Resolution, traces: Mapping[str, int], there: Mapping[str, survey.Collection]
) -> set[str]:
    """Return the requests whose person is found nowhere: no document of their own, no trace now or before, no rule that selects anything."""
    rootless = [one for one in work.subjects if one.request_id in resolved.rootless and not traces.get(one.request_id)]
    before = closure.traces(work.db, [one.request_id for one in rootless])
    suspects = [one for one in rootless if not before.get(one.request_id)]
    if not suspects:
        return set()
    found = survey.met(Work(work.target, work.data_map, work.keyring, suspects, work.run), there)
    return {one.request_id for one in suspects} - found


def _of_limits(work: Work) -> Iterator[Finding]:
    most = work.data_map.limits.subjects
    if len(work.subjects) > most:
        sentence = f"The run has {len(work.subjects):,} people, above the limit of {most:,} (data_map.yaml, limits)."
        yield Finding("limits", sentence, stops=True)


__all__ = ["Planned", "RuleCount", "objects_of", "plan_run"]
