"""Look whether an erasure is complete. Code apart from what erases, and reads only.

Three questions, none answered by what the run says of itself. Does any rule still select something that it should have deleted or
changed? Is any trace of a person left anywhere, in any collection of any database, in any encoding? And would this scan have seen
it, that is: did it find the person before?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure import holds
from mongo_ops.erasure.model import Rule
from mongo_ops.erasure.run import RESULTS
from mongo_ops.erasure.scan import Judge, Place, Traces, Verdict, places
from mongo_ops.erasure.selectors import is_anywhere
from mongo_ops.erasure.settled import settled
from mongo_ops.erasure.survey import collections, means, queries
from mongo_ops.erasure.work import Work

if TYPE_CHECKING:
    from mongo_ops.erasure.holds import Holds
    from mongo_ops.erasure.survey import Collection
    from mongo_ops.mongo.documents import Document

SHOWN = 20


@dataclass(frozen=True)
class Left:
    """Documents that a rule still selects: unsettled ones are a fault, held and retained ones are not."""

    rule: str
    unsettled: int = 0
    held: int = 0
    retained: int = 0
    by_request: Mapping[str, int] = field(default_factory=dict)
    held_requests: frozenset[str] = frozenset()
    retained_by_request: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """What a verification saw.

    ``left`` by rule; ``residue``: (namespace, path, identifier) -> documents with traces where none may be; ``offenders``: requests with
    anything left; ``allowed``: request -> traces that may stay; ``blind``: what could not be looked at; ``unseen``: requests of which the
    scan had found nothing before, although rules selected documents of theirs; ``held``: requests of which a hold kept something, and
    ``holds`` the digest of the holds then in force.
    """

    left: tuple[Left, ...]
    residue: Mapping[tuple[str, str, str], int]
    allowed: Mapping[str, int]
    offenders: Mapping[str, int]
    collections: int
    blind: tuple[str, ...]
    unseen: frozenset[str]
    held: frozenset[str]
    holds: str

    @property
    def ok(self) -> bool:
        """Whether nothing is left that should not be, and everything was looked at with open eyes."""
        return not self.offenders and not self.unseen and not self.blind

    def as_value(self) -> dict[str, Any]:
        """Return it as a document can hold it."""
        residue = [[*spot, number] for spot, number in self.residue.items()]
        left = [{**asdict(one), "held_requests": sorted(one.held_requests)} for one in self.left]
        sets = {"unseen": sorted(self.unseen), "held": sorted(self.held)}
        counts = {"allowed": dict(self.allowed), "offenders": dict(self.offenders), "collections": self.collections}
        return {"left": left, "residue": residue, "blind": list(self.blind), "holds": self.holds, **sets, **counts}

    @classmethod
    def of_value(cls, value: Mapping[str, Any]) -> Verification:
        """Return what ``as_value`` gave."""
        left = tuple(Left(**{**one, "held_requests": frozenset(one["held_requests"])}) for one in value["left"])
        residue = {(space, path, name): number for space, path, name, number in value["residue"]}
        return cls(
            left=left,
            residue=residue,
            allowed=value["allowed"],
            offenders=value["offenders"],
            collections=value["collections"],
            blind=tuple(value["blind"]),
            unseen=frozenset(value["unseen"]),
            held=frozenset(value["held"]),
            holds=value["holds"],
        )

    def __str__(self) -> str:
        if self.ok:
            return (
                f"Nothing is left in {self.collections:,} collections ({sum(self.allowed.values()):,} traces may stay)."
            )
        parts = [f"{one.rule}: {one.unsettled:,} documents not done" for one in self.left if one.unsettled]
        parts += [
            f"{space}, {path}: {number:,} documents with {name}" for (space, path, name), number in self.residue.items()
        ]
        parts += [f"{len(self.unseen):,} requests the scan had not seen before"] if self.unseen else []
        return "; ".join([*parts[:SHOWN], *self.blind])


def verify(work: Work, before: Mapping[str, int], report: Callable[[str], None] = lambda _: None) -> Verification:
    """Look at everything.

    Args:
        work: the people, closures as they were before anything was erased.
        before: request -> traces that the scan found before.
        report: gets a sentence from time to time.
    """
    held = holds.active(work.db)
    there = collections(work.db, work.data_map.rules)
    left = tuple(_left(work, rule, there, held) for rule in work.data_map.rules if not is_anywhere(rule.select))
    where, blind = places(work.db.client, work.db.name)
    offenders: Counter[str] = Counter()
    residue: Counter[tuple[str, str, str]] = Counter()
    allowed: Counter[str] = Counter()
    held_requests = {request for one in left for request in one.held_requests}
    for traces in scan(work, where, judge(work, held), report):
        allowed.update(traces.allowed)
        held_requests |= traces.held
        offenders.update(traces.offenders)
        residue.update({(traces.namespace, path, name): number for (path, name), number in traces.spots.items()})
    for one in left:
        offenders.update(one.by_request)
    unseen = {subject.request_id for subject in work.subjects if before.get(subject.request_id, 0) == 0}
    unseen &= work.haystack.traceable & _had_something(work, left)
    return Verification(
        left=left,
        residue=dict(residue),
        allowed=dict(allowed),
        offenders=dict(offenders),
        collections=len(where),
        blind=tuple(blind),
        unseen=frozenset(unseen),
        held=frozenset(held_requests),
        holds=held.digest,
    )


def scan(
    work: Work, where: Sequence[Place], judged: Any = None, report: Callable[[str], None] = lambda _: None
) -> Iterator[Traces]:
    """Walk the places one by one and yield what each holds."""
    for number, place in enumerate(where, start=1):
        report(f"residual scan: {place.namespace} ({number} of {len(where)})")
        yield work.haystack.walk(work.db.client[place.database][place.collection], judged)


def judge(work: Work, held: Holds) -> Judge:
    """Return who decides whether a trace may be where it is: the map's ``remains`` and ``retain``, and the legal holds."""
    retaining = [rule for rule in work.data_map.rules if rule.action == "retain"]
    prefix = f"{work.db.name}."

    def look(namespace: str, document: Document, path: str, identifier: str, requests: frozenset[str]) -> Verdict:
        free = frozenset(one for one in requests if not held.of(work.references[one]))
        if not namespace.startswith(prefix):
            return Verdict(free, requests - free)
        name = namespace[len(prefix) :]
        if f"{name}.{path}" in work.data_map.identifiers[identifier].remains:
            return Verdict()
        if free and is_held(work, held, name, document):
            return Verdict(held=requests)
        retained = (work.owners(document, rule) for rule in retaining if means(rule, name))
        return Verdict(free.difference(*retained), requests - free)

    return look


def is_held(work: Work, held: Holds, name: str, document: Mapping[str, Any]) -> bool:
    """Say whether a hold on a set of documents covers this one."""
    free = held.exclusion(name)
    return free is not None and work.db[name].find_one({"$and": [{"_id": document["_id"]}, free]}, {"_id": 1}) is None


def _left(work: Work, rule: Rule, there: Mapping[str, Collection], held: Holds) -> Left:
    """Look at every document that a rule selects now."""
    unsettled: Counter[str] = Counter()
    retained: Counter[str] = Counter()
    held_requests: set[str] = set()
    counts: Counter[str] = Counter()
    for name, one in there.items():
        for document in _selected(work, rule, one) if means(rule, name) else ():
            owners = work.owners(document, rule)
            free = frozenset(owner for owner in owners if not held.of(work.references[owner]))
            if not free or is_held(work, held, name, document):
                held_requests |= owners
                counts["held"] += 1
            elif not _is_settled(work, rule, document, free):
                unsettled.update(free)
                counts["unsettled"] += 1
            if rule.action == "retain":
                retained.update(owners)
                counts["retained"] += 1
    return Left(
        rule.id, counts["unsettled"], counts["held"], counts["retained"],
        dict(unsettled), frozenset(held_requests), dict(retained),
    )  # fmt: skip


def _selected(work: Work, rule: Rule, one: Collection) -> Iterator[Document]:
    for query in queries(work, rule, one):
        yield from work.db[one.name].find(query)


def _is_settled(work: Work, rule: Rule, document: Document, owners: frozenset[str]) -> bool:
    if rule.action == "delete":
        return False
    traced = [one.name for one in work.data_map.traced]
    return settled(document, rule.changes, work.index, owners=owners, traced=traced)


def _had_something(work: Work, left: Sequence[Left]) -> set[str]:
    """Return the requests for which rules have done something, or still find something."""
    found = {request for one in left for request in (*one.by_request, *one.held_requests)}
    for result in work.db[RESULTS].find({"run": work.run}, {"counts": 1}):
        found |= {request for request, _ in result["counts"]}
    return found
