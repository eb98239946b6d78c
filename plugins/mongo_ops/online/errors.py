"""What goes wrong in an online migration, each with what to do next. Never holds a document's value."""

from __future__ import annotations

from collections.abc import Sequence

from mongo_ops.errors import PlanError, RunError


class SpecError(PlanError):
    """A spec file cannot be used, or not on this deployment."""


class NotStartedError(PlanError):
    """The migration was not started on this database."""


class WrongPhaseError(PlanError):
    """The action does not belong to the phase that the migration is in."""


class ChecksumChangedError(PlanError):
    """The spec file was edited while its migration is under way."""


class NotApprovedError(PlanError):
    """What was approved is not what is to be done now."""


class NoFenceError(PlanError):
    """Nothing on this deployment can refuse the writers for the moment of the cut-over."""


class TokenExpiredError(PlanError):
    """The oplog no longer holds what the change stream has to go on from."""


class PausedTooLongError(PlanError):
    """The migration is paused and the oplog will soon no longer hold what it has to read."""


class CriticalLoadError(PlanError):
    """The server is loaded beyond the critical limit; the migration gave itself up."""


class SourceChangedError(PlanError):
    """Somebody dropped, renamed or redefined a collection that the migration works on."""


class WindowOpenError(PlanError):
    """The rollback window is still open; the old collection stays until it is over."""


class CollisionError(PlanError):
    """Different source documents want the same place in the target."""


class NotDrainedError(RunError):
    """The stream did not come to its end in time while writes were refused; the fence was lifted again."""


class DifferencesError(PlanError):
    """The target is not what the transform makes of the source.

    Attributes:
        ids: how up to 20 of the documents are shown; a key that may be personal is shortened to a digest.
        count: how many differ.
    """

    def __init__(self, what: str, ids: Sequence[str], count: int) -> None:
        super().__init__(what, tuple(ids), count)
        self.what, self.ids, self.count = what, tuple(ids), count

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.count:,} documents differ: {', '.join(self.ids)}. Nothing was swapped or dropped. Find out who wrote "
            "there, then verify again, or abort."
        )
