"""Online migrations as values: what a spec file declares, the phases, what one slice of work came to. No I/O."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Pipeline = Sequence[Mapping[str, Any]]
Transform = Pipeline | Callable[[dict[str, Any]], dict[str, Any]]


class Phase(enum.StrEnum):
    """Where a migration is. Every action is possible in few of them and says so."""

    BACKFILL = "backfill"
    CATCH_UP = "catch_up"
    VERIFY = "verify"
    READY = "ready"
    CUT_OVER = "cut_over"
    SOAK = "soak"
    CONTRACTING = "contracting"
    DONE = "done"
    ABORTING = "aborting"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


ORDER = (
    Phase.BACKFILL, Phase.CATCH_UP, Phase.VERIFY, Phase.READY, Phase.CUT_OVER, Phase.SOAK, Phase.CONTRACTING, Phase.DONE,
)  # fmt: skip
ENDED = frozenset({Phase.DONE, Phase.ABORTED, Phase.ROLLED_BACK})
ABORTABLE = frozenset({Phase.BACKFILL, Phase.CATCH_UP, Phase.VERIFY, Phase.READY, Phase.CUT_OVER, Phase.ABORTING})


class FenceKind(enum.StrEnum):
    """How writers are refused during the cut-over. See docs/online.md for what each needs."""

    USER_WRITE_BLOCK = "user_write_block"
    ROLE = "role"
    VIEW = "view"
    GATE = "gate"


@dataclass(frozen=True)
class Limits:
    """How gently the work goes on; the start values of the control document.

    Attributes:
        chunk: documents per backfill transaction, at most.
        chunk_seconds: how long a chunk should take; it shrinks and grows with that.
        nice: seconds of rest for each second of backfill.
        max_lag: seconds of replication lag up to which work goes on.
        max_load: metric -> value up to which work goes on.
        critical_load: metric -> value beyond which the migration gives itself up.
    """

    chunk: int = 1000
    chunk_seconds: float = 0.05
    nice: float = 4.0
    max_lag: float = 10.0
    max_load: Mapping[str, float] = field(default_factory=dict)
    critical_load: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TargetOptions:
    """How the ghost collection differs from the source. None means: as the source is.

    Attributes:
        validator: the target's validator; {} for none.
        level: its validation level.
        indexes: all indexes besides ``_id``, as ``createIndexes`` takes them.
        collation: the default collation; {"locale": "simple"} for none.
        shard_key: the target's shard key; needs a sharded cluster.
        shard_unique: whether that key is unique.
    """

    validator: Mapping[str, Any] | None = None
    level: str | None = None
    indexes: Sequence[Mapping[str, Any]] | None = None
    collation: Mapping[str, Any] | None = None
    shard_key: Mapping[str, Any] | None = None
    shard_unique: bool = False


@dataclass(frozen=True)
class Contract:
    """The end of an in-place migration: the strict validator (None: leave it), and the old fields to drop."""

    validator: Mapping[str, Any] | None = None
    drop: Sequence[str] = ()


@dataclass(frozen=True)
class Fence:
    """Which fence to use.

    Attributes:
        kind: one kind, or ``auto`` for the first that the deployment allows (never the gate by itself).
        roles: the writers' roles as ``name`` or ``name@database``, for the role fence.
        settle_seconds: how long a write may be under way that passed the gate before it closed.
        longest_seconds: the drain must be over by then, or the fence is lifted again.
    """

    kind: FenceKind | Literal["auto"] = "auto"
    roles: Sequence[str] = ()
    settle_seconds: float = 5.0
    longest_seconds: float = 10.0


@dataclass(frozen=True)
class Views:
    """Names of versioned read views. ``new`` shows the new shape from the start, ``old`` the old one until the contract."""

    new: str | None = None
    old: str | None = None


@dataclass(frozen=True)
class OnlineMigration:
    """What a spec file declares as its one ``migration`` value.

    Attributes:
        collection: the source, which keeps its name.
        transform: what makes the new document of the old: pipeline stages that keep one document one, or a pure function.
            In place it must be idempotent: applied to its own result it changes nothing.
        mode: ``in_place`` changes the documents where they are; ``ghost`` fills a second collection and swaps the two.
        inverse: the way back; a ghost migration's reverse sync and the view of the old shape need it.
        fields: in place: the top-level fields that the transform makes; an abort removes them.
        changes_id: the transform of a ghost migration gives documents another ``_id``.
        validator: in place: the loose validator while both shapes are there; None leaves the collection's own.
        target: how the ghost differs.
        contract: what ends an in-place migration.
        views: versioned read views.
        limits: how gently.
        fence: how writers are refused at the cut-over.
        soak_hours: how long after the cut-over a rollback is possible.
        allow: lint codes that are accepted here, each with the reason.
    """

    collection: str
    transform: Transform = ()
    mode: Literal["in_place", "ghost"] = "in_place"
    inverse: Transform | None = None
    fields: Sequence[str] = ()
    changes_id: bool = False
    validator: Mapping[str, Any] | None = None
    target: TargetOptions = field(default_factory=TargetOptions)
    contract: Contract = field(default_factory=Contract)
    views: Views = field(default_factory=Views)
    limits: Limits = field(default_factory=Limits)
    fence: Fence = field(default_factory=Fence)
    soak_hours: float = 24.0
    allow: Mapping[str, str] = field(default_factory=dict)

    @property
    def ghost(self) -> bool:
        """Whether a second collection is filled."""
        return self.mode == "ghost"


@dataclass(frozen=True)
class SpecFile:
    """A spec found on disk. ``checksum`` covers the program and the local modules it imports, not comments or layout."""

    name: str
    path: Path
    docstring: str
    source: str
    checksum: str
    migration: OnlineMigration

    @property
    def title(self) -> str:
        """The docstring's first line."""
        return self.docstring.strip().splitlines()[0] if self.docstring.strip() else ""


@dataclass(frozen=True)
class SliceResult:
    """What one bounded slice came to.

    Attributes:
        phase: what was worked on.
        done: whether that phase is over.
        waiting: why nothing more is done just now, for people; None when the slice simply ended.
        progress: counts by name.
        next: the phase that the migration is in now.
    """

    phase: Phase
    done: bool
    waiting: str | None
    progress: Mapping[str, int | float]
    next: Phase

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {value:,}" for name, value in self.progress.items())
        ending = f"; waiting: {self.waiting}" if self.waiting else "; done" if self.done else ""
        return f"{self.phase}: {counts or 'nothing to do'}{ending}"


@dataclass(frozen=True)
class CutOver:
    """What a cut-over, or a rollback, came to. Milliseconds as this process measured them.

    ``refused_ms``: from before the fence closed until after it was lifted; ``reads_gap_ms``: how long readers may have found no
    collection (0 where the swap is one step); ``drained``: changes that were replayed behind the fence.
    """

    refused_ms: float
    reads_gap_ms: float
    drained: int
    fence: FenceKind

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Verification:
    """The last complete verification. ``digest`` is what a person approves: it binds spec, database and what was compared.

    ``differing`` counts documents that differ although nobody is changing them; ``ids`` shows up to 20. ``moving`` counts those
    that changed during the comparison; the verification behind the fence looks at them.
    """

    number: int
    documents: int
    bytes: int
    moving: int
    differing: int
    ids: tuple[str, ...]
    sums: str
    digest: str

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return self.differing == 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {**dataclasses.asdict(self), "clean": self.clean}
