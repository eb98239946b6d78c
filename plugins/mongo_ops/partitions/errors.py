"""What can go wrong with partitions. Sentences hold names of collections and counts, never a value of a document."""

from __future__ import annotations

from collections.abc import Sequence

from mongo_ops.errors import PlanError, RunError


class RequestError(PlanError):
    """What is asked for is not well-formed."""


class RefusedError(PlanError):
    """The plan names reasons for which nothing may be done. Nothing was written."""

    def __init__(self, blockers: Sequence[str]) -> None:
        super().__init__(tuple(blockers))
        self.blockers = tuple(blockers)

    def __str__(self) -> str:
        return " ".join(self.blockers)


class HeldError(PlanError):
    """Documents are under a legal hold, or belong to somebody who is, and would be dropped."""


class HoldsChangedError(RunError):
    """A legal hold was placed or released meanwhile; what is protected must be looked up again."""


class MoveIncompleteError(PlanError):
    """Documents of closed months are still in the source collection."""


class ArchiveDiffersError(PlanError):
    """An archive does not hold what is in the database, so nothing of it may be dropped."""


class NothingToRestoreError(PlanError):
    """The archive holds no collection that can be brought back as asked."""
