"""Turn any exception into one of ours whose text holds no value of a document and no credential."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)

from mongo_ops.errors import MongoOpsError, PlanError, RunError

PACKAGE = Path(__file__).resolve().parents[1]
DUPLICATE_KEY, VALIDATION = 11000, 121
TRANSIENT_CODES = frozenset({6, 7, 89, 91, 112, 189, 216, 251, 262, 9001, 10107, 11600, 11602, 13435, 13436})


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
        text = f"{where}: {_driver(error)}"
        return MigrationFailedError(text) if _may_pass(error) else MigrationRefusedError(text)
    kind = MigrationFailedError if isinstance(error, OSError | TimeoutError) else MigrationRefusedError
    return kind(
        f"{where}: {type(error).__name__} at {_origin(error)} (its text is withheld, it may hold personal values)"
    )


def _is_ours(error: BaseException) -> bool:
    """Say whether this package raised it. A migration's own code may raise our classes with a text of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or Path(frames[-1].filename).resolve().is_relative_to(PACKAGE)


def _may_pass(error: PyMongoError) -> bool:
    if isinstance(error, ConnectionFailure | NetworkTimeout | ExecutionTimeout):
        return True
    labels = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
    return any(error.has_error_label(label) for label in labels) or getattr(error, "code", None) in TRANSIENT_CODES


def _driver(error: PyMongoError) -> str:
    if isinstance(error, BulkWriteError):
        failures = (error.details or {}).get("writeErrors", [])
        first = failures[0] if failures else {}
        return f"{len(failures)} writes failed; the first: {_server(first.get('code'), first)}"
    if isinstance(error, OperationFailure):
        return _server(error.code, error.details or {})
    return f"{type(error).__name__} while talking to the server"


def _server(code: int | None, details: Any) -> str:
    if code == DUPLICATE_KEY:
        return f"a document with the same {' and '.join(details.get('keyPattern', {'key': 1}))} exists already (code 11000)"
    if code == VALIDATION:
        rules = details.get("errInfo", {}).get("details", {}).get("schemaRulesNotSatisfied", [])
        return f"a document breaks the collection's validator: {_rules(rules) or 'see its rules'} (code 121)"
    name = details.get("codeName", "")
    return f"the server refused the command with code {code} {name}".rstrip()


def _rules(rules: list[Any]) -> str:
    named: list[str] = []
    for rule in rules:
        fields = [str(prop.get("propertyName")) for prop in rule.get("propertiesNotSatisfied", [])]
        fields += [str(name) for name in rule.get("missingProperties", [])]
        named.append(f"{rule.get('operatorName')} {', '.join(fields)}".strip())
    return "; ".join(named)


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
