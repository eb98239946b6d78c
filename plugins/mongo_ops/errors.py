"""The two kinds of error this package raises on purpose.

Every error of a feature derives from one of them, carries its facts as attributes, and says what is wrong and what to
do next. None of them ever carries a credential or a value of a document.
"""

from __future__ import annotations

from typing import ClassVar


class MongoOpsError(Exception):
    """Base class: ``except MongoOpsError`` catches all of ours and nothing else."""

    exit_code: ClassVar[int] = 1


class PlanError(MongoOpsError):
    """A person must act; a retry cannot mend it. Raised before anything is written."""

    exit_code: ClassVar[int] = 3


class RunError(MongoOpsError):
    """Something failed on the way; a retry goes on where it stopped."""

    exit_code: ClassVar[int] = 1
