"""The values of erasure: the data map, requests, plans and what was done. Pure: no database, no clock, no file.

A *data map* names everything that leads from a person to documents (identifiers and rules) and classifies every field. An
*identity closure* is what the identifiers came to for one person. A *rule* is one collection's duty: which documents, and what
becomes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

Action = Literal["delete", "anonymize", "pseudonymize", "pull", "retain"]
Stage = Literal["objects", "leaves", "parents", "root"]
STAGES: tuple[Stage, ...] = ("objects", "leaves", "parents", "root")
"""The safe order: what others point to goes last, so that a person stays findable until everything else is done."""

IdentifierType = Literal["objectId", "string", "uuid", "int", "binary"]
Op = Literal["unset", "set", "reference", "redact", "pull"]
Closure = Mapping[str, tuple[Any, ...]]
"""What the identifiers of a data map came to for one person: name -> values."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """One kind of value that leads to a person's documents.

    Attributes:
        name: how rules write it, as ``$name``.
        collection, path: where its values are read from (``users`` and ``_id``; dotted, arrays by ``[]``).
        where: which documents, a selection with ``$other`` identifiers; empty for the subject's own.
        types: BSON types in which the value may be stored anywhere; every one of them is looked for.
        trace: whether the residual scan looks for it everywhere, in every encoding, when an erasure is complete.
        remains: the places (``collection.path``) where a traced value may stay, such as the key of a published artist; none by default.
        unique: whether it belongs to one person only; a value that somebody else has too is left out and reported.
        forbid: values that name nobody (``anonymous``); refused as a subject, ignored elsewhere.
        hashes: digests under which copies of it may be kept (``md5``, ``sha1``, ``sha256`` of its lower-case form).
        is_object: whether it is the key of an object in the environment's asset storage.
        why: required where ``trace`` is off (people share names) or ``remains`` is given: why it may stay.
    """

    name: str
    collection: str
    path: str
    where: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[IdentifierType, ...] = ("string",)
    trace: bool = True
    remains: tuple[str, ...] = ()
    unique: bool = False
    forbid: tuple[Any, ...] = ()
    hashes: tuple[str, ...] = ()
    is_object: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one path of a selected document.

    ``path`` is dotted; ``[]`` stands for the elements of an array, ``{name}`` for a key that is an identifier's value, ``*`` for any
    key. ``where`` restricts the elements of the last ``[]``: ``$name`` (the element itself) or ``{field: $name}``.

    Ops: ``unset`` removes the path; ``set`` puts ``value`` (may be None); ``reference`` puts the subject reference of whoever the
    value at ``of`` belongs to; ``redact`` replaces every traced identifier inside the text or subtree; ``pull`` removes the elements.
    """

    path: str
    op: Op
    value: Any = None
    of: str | None = None
    where: Any = None


@dataclass(frozen=True, slots=True)
class Ground:
    """Why something is kept, as an auditor wants it: Art. 17(3) GDPR or another law.

    ``basis`` e.g. ``art17_3_b``; ``period`` an ISO 8601 duration counted from ``start`` (a field); ``owner`` a role; ``review`` a duration.
    """

    basis: str
    purpose: str
    owner: str
    start: str | None = None
    period: str | None = None
    review: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One collection's duty towards a person.

    ``id`` is ``<collection>.<name>``, unique in the map. ``collection`` may end in ``*``: every collection that begins so. ``select`` is a
    selection: fields with constants or ``$identifier``; ``any``: a list of selections; ``{path}`` with ``{identifier}`` as a key and the
    value ``exists``; or ``{"anywhere": [identifiers]}``, a walk through whole documents.
    """

    id: str
    collection: str
    select: Mapping[str, Any]
    action: Action
    stage: Stage = "leaves"
    changes: tuple[Change, ...] = ()
    ground: Ground | None = None
    why: str = ""
    exported: bool = True


@dataclass(frozen=True, slots=True)
class FieldNote:
    """What a field is: ``category`` in the fideslang taxonomy (``user.contact.email``), ``system`` for what is not about a person."""

    category: str
    purpose: str | None = None
    legal_basis: str | None = None
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long documents are kept: from the date at ``start`` for ``period``; then ``action`` (with ``changes`` unless it deletes)."""

    id: str
    collection: str
    start: str
    period: str
    action: Literal["delete", "anonymize"]
    where: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    consent: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class CollectionEntry:
    """What the map says of a collection. ``fields`` classifies every path; a path ending in ``.*`` covers what is below it."""

    name: str
    fields: Mapping[str, FieldNote]
    rules: tuple[Rule, ...]
    retention: tuple[Retention, ...] = ()
    purpose: str = ""
    legal_basis: str = ""
    recipients: tuple[str, ...] = ()
    consent: str | None = None


@dataclass(frozen=True, slots=True)
class Waiver:
    """A collection or path (``collection`` or ``collection.path``; ``*`` at the end) left out on purpose, until a day (ISO date)."""

    path: str
    why: str
    owner: str
    until: str


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What one run may do at most; a plan beyond it is refused. ``share`` counts only in collections of 1,000 documents or more."""

    subjects: int = 20_000
    documents_per_subject: int = 100_000
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class DataMap:
    """The whole map. ``subject`` is the identifier by which a person is named in a request. ``digest`` is of the file's meaning."""

    version: int
    subject: str
    identifiers: Mapping[str, Identifier]
    collections: Mapping[str, CollectionEntry]
    waivers: tuple[Waiver, ...]
    limits: BlastRadius
    backups_period: str
    recipients: Mapping[str, str]
    digest: str

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules in the order in which they run: by stage, then by id."""
        rules = [rule for entry in self.collections.values() for rule in entry.rules]
        return tuple(sorted(rules, key=lambda rule: (STAGES.index(rule.stage), rule.id)))

    def rule(self, rule_id: str) -> Rule:
        """Return a rule by its id."""
        return next(rule for rule in self.rules if rule.id == rule_id)

    @property
    def traced(self) -> tuple[Identifier, ...]:
        """The identifiers of which nothing may be left."""
        return tuple(one for one in self.identifiers.values() if one.trace)


class Actor(Protocol):
    """Who acts: a name and where it comes from. Staff; the name goes into the audit log's ``actor`` and nowhere else."""

    @property
    def name(self) -> str:
        """The user's name."""

    @property
    def kind(self) -> Literal["airflow", "os", "system"]:
        """Who says so."""


class State(StrEnum):
    """Where a request is. The order is the way it goes; ``HELD``, ``PARTIAL`` and ``FAILED`` go on when the cause is gone."""

    RECEIVED = "received"
    PLANNED = "planned"
    APPROVED = "approved"
    EXECUTING = "executing"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    COMPLETED_WITH_RETENTION = "completed_with_retention"
    HELD = "held"
    PARTIAL = "partial"
    FAILED = "failed"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    CLOSED = "closed"


OPEN = frozenset(
    {
        State.RECEIVED,
        State.PLANNED,
        State.APPROVED,
        State.EXECUTING,
        State.VERIFYING,
        State.HELD,
        State.PARTIAL,
        State.FAILED,
    }
)
"""States in which the person is still owed something."""


@dataclass(frozen=True, slots=True)
class Request:
    """One person's request, without the person. ``subject_ref`` is a keyed reference (pseudonym); ``sealed`` opens only with the vault's key.

    ``sealed`` is empty once the request is closed. ``again`` says that it was open already when it was received once more.
    """

    id: str
    environment: str
    state: State
    subject_ref: str
    sealed: bytes
    received_at: datetime
    due_at: datetime
    source: str
    reopened: int = 0
    run_id: str | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """One person of a run, opened: the request, the reference, and the identity closure. Never printed, never serialised."""

    request_id: str
    reference: str
    closure: Closure = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person must know before a plan is approved; ``stops`` ones must be mended first. No personal value in it."""

    where: str
    sentence: str
    stops: bool = False


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How many documents a rule selects; ``indexed`` says whether an index leads to them, or the collection is walked."""

    rule: str
    action: Action
    stage: Stage
    documents: int
    indexed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run will do, for one or many requests. ``digest`` binds the approval; nothing personal is in it.

    ``run_id`` is the request's or the batch's id. ``closure_digest`` commits to the identity closures (keyed), ``map_digest`` to the data
    map. ``excluded``: request id -> why it is not part of it. ``partial``: why the result can be partial at best.
    """

    run_id: str
    environment: str
    database: str
    requests: int
    excluded: Mapping[str, str]
    counts: tuple[RuleCount, ...]
    objects: int
    findings: tuple[Finding, ...]
    map_digest: str
    closure_digest: str
    partial: tuple[str, ...] = ()
    digest: str = ""

    def stage(self, stage: Stage) -> tuple[str, ...]:
        """Return the ids of a stage's rules that have something to do, in order."""
        return tuple(one.rule for one in self.counts if one.stage == stage and one.documents)


@dataclass(frozen=True, slots=True)
class Tally:
    """What a rule did, in total and for each request (request id -> documents)."""

    rule: str
    documents: int = 0
    by_request: Mapping[str, int] = field(default_factory=dict)


def names_of(select: Any) -> tuple[str, ...]:
    """Return the identifiers that a selection (or an element condition) uses, in order of appearance, each once."""
    found: dict[str, None] = {}

    def look(value: Any) -> None:
        if isinstance(value, str) and value.startswith("$"):
            found[value[1:]] = None
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if key == "anywhere":
                    found.update(dict.fromkeys(map(str, inner)))
                    continue
                found.update(dict.fromkeys(part[1:-1] for part in str(key).split(".") if part.startswith("{")))
                look(inner)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for inner in value:
                look(inner)

    look(select)
    return tuple(found)
