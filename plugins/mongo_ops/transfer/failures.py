"""What a transfer raises when the server fails or refuses. The words are ``mongo.faults``'."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pymongo.errors import PyMongoError

from mongo_ops.errors import MongoOpsError, PlanError, RunError
from mongo_ops.mongo import faults

SNAPSHOT_GONE = frozenset({239, 246})
"""SnapshotTooOld and SnapshotUnavailable."""


class TransferFailedError(RunError):
    """The server went away or refused for a reason that may pass; a retry goes on where it stopped."""


class TransferRefusedError(PlanError):
    """The server refused for a reason that no retry mends."""


def worded(what: str) -> AbstractContextManager[None]:
    """Turn the driver's errors into ours. ``what`` begins the sentence."""
    return faults.worded(what, TransferFailedError, TransferRefusedError)


def explain(error: PyMongoError, what: str) -> MongoOpsError:
    """Return our error for the driver's."""
    return faults.explain(error, what, TransferFailedError, TransferRefusedError)
