"""Turn any exception into one of ours whose text holds no value of a document and no credential."""

from __future__ import annotations

import traceback
from pathlib import Path

from pymongo.errors import PyMongoError

from mongo_ops.errors import MongoOpsError, PlanError, RunError
from mongo_ops.mongo import faults

PACKAGE = Path(__file__).resolve().parents[1]


class MigrationFailedError(RunError):
    """A migration stopped for a reason that may pass; a retry resumes it."""


class MigrationRefusedError(PlanError):
    """A migration stopped for a reason that no retry mends: the data or the file must change first."""


def explain(error: BaseException, where: str) -> MongoOpsError:
    """Return what to raise for ``error``: ours as they are, others described without their values.

    Args:
        error: what happened.
        where: the migration and operation, for the sentence's beginning.
    """
    if isinstance(error, MongoOpsError) and _is_ours(error):
        return error
    if isinstance(error, PyMongoError):
        text = f"{where}: {faults.describe(error)}"
        return MigrationFailedError(text) if faults.may_pass(error) else MigrationRefusedError(text)
    kind = MigrationFailedError if isinstance(error, OSError | TimeoutError) else MigrationRefusedError
    return kind(
        f"{where}: {type(error).__name__} at {_origin(error)} (its text is withheld, it may hold personal values)"
    )


def _is_ours(error: BaseException) -> bool:
    """Say whether this package raised it. A migration's own code may raise our classes with a text of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
