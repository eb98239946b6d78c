"""What an audit entry says, and what a verification found. Values only: no database, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bson import ObjectId

ActorKind = Literal["airflow", "os", "system"]
FaultKind = Literal["edited", "deleted", "reordered", "truncated", "forged", "head"]
ACTOR = "actor"
INT32 = range(-(2**31), 2**31)
_NAME = re.compile(r"[A-Za-z_]\w*\Z")


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Who did what to which entity, with which result.

    ``entity_id`` is hashed into the chain for good, so it must be a key (or None for an event of the system), never an
    e-mail address or a name. ``details`` is hashed as well and holds counts, digests and names of collections only. What
    is said about a person goes into ``personal`` (and ``actor``): the chain holds a salted commitment of each value, and
    the value itself can be erased.
    """

    action: str
    entity_type: str
    entity_id: str | int | ObjectId | None = None
    actor: str | None = None
    actor_kind: ActorKind = "system"
    environment: str
    plan_digest: str | None = None
    run_id: str | None = None
    result: str
    details: Mapping[str, Any] = field(default_factory=dict)
    personal: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the reference model's validator would refuse.

        Raises:
            TypeError, ValueError: a field of the wrong kind; the message names the field, never its value.
        """
        for name in ("action", "entity_type", "environment", "result"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"AuditEntry.{name} must be a text that is not empty.")
        key = self.entity_id
        if isinstance(key, bool) or not isinstance(key, str | int | ObjectId | None):
            raise TypeError(f"AuditEntry.entity_id must be a text, an int, an ObjectId or None, not {type(key)}.")
        if isinstance(key, int) and key not in INT32:
            raise ValueError("AuditEntry.entity_id does not fit 32 bits; write it as a text.")
        if ACTOR in self.personal:
            raise ValueError("AuditEntry.personal must not name `actor`; give it as AuditEntry.actor.")
        if not all(isinstance(name, str) and _NAME.match(name) for name in self.personal):
            raise ValueError("AuditEntry.personal: names must be plain identifiers, without dots or dollars.")

    @property
    def personal_values(self) -> dict[str, Any]:
        """Every value about a person, the actor included."""
        return {**({} if self.actor is None else {ACTOR: self.actor}), **self.personal}


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the number of its last entry (0 for none) and that entry's hash (64 hex digits)."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the chain. ``seq`` is the entry concerned, or the first of several; None if unknown."""

    kind: FaultKind
    seq: int | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification saw.

    ``entries`` counts chained entries, ``unchained`` those that other writers put into the same collection,
    ``erased_values`` the personal values that were erased. ``head_seq`` and ``head_hash`` are the last entry read, the
    value to anchor. ``more_faults`` counts the faults beyond those listed. ``chain`` is what the sentence calls the chain.
    """

    entries: int
    unchained: int
    erased_values: int
    faults: tuple[Fault, ...]
    head_seq: int
    head_hash: str
    more_faults: int = 0
    chain: str = "audit chain"

    @property
    def ok(self) -> bool:
        """Whether the chain is whole."""
        return not self.faults

    def __str__(self) -> str:
        others = f", {self.unchained:,} of other writers" if self.unchained else ""
        erased = f", {self.erased_values:,} personal values erased" if self.erased_values else ""
        seen = f"{self.entries:,} chained entries{others}{erased}"
        if self.ok:
            return f"The {self.chain} is whole: {seen}."
        found = len(self.faults) + self.more_faults
        return f"The {self.chain} has {found:,} fault{'s' if found > 1 else ''} ({seen}): {self.faults[0].sentence}"
