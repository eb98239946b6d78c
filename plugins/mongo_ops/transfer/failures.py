"""Word what the driver raises: without its text, which may hold values of documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

DUPLICATE_KEY, VALIDATION, UNAUTHORIZED = 11000, 121, 13
PASSING = frozenset({6, 7, 43, 89, 91, 112, 189, 216, 251, 262, 9001, 10107, 11600, 11602, 13435, 13436})
SNAPSHOT_GONE = frozenset({239, 246})
"""SnapshotTooOld and SnapshotUnavailable."""
_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


class TransferFailedError(RunError):
    """The server went away or refused for a reason that may pass; a retry goes on where it stopped."""


class TransferRefusedError(PlanError):
    """The server refused for a reason that no retry mends."""


@contextmanager
def worded(what: str) -> Iterator[None]:
    """Turn the driver's errors into ours. ``what`` begins the sentence."""
    try:
        yield
    except PyMongoError as error:
        raise explain(error, what) from None


def explain(error: PyMongoError, what: str) -> MongoOpsError:
    """Return our error for the driver's."""
    kind = TransferFailedError if may_pass(error) else TransferRefusedError
    advice = "Run it again to go on." if kind is TransferFailedError else "See the server's log for the document."
    return kind(f"{what}: {describe(error)}. {advice}")


def may_pass(error: PyMongoError) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, ConnectionFailure | NetworkTimeout | ExecutionTimeout):
        return True
    return any(map(error.has_error_label, _LABELS)) or getattr(error, "code", None) in PASSING


def describe(error: PyMongoError) -> str:
    """Return the failure in words that hold no value."""
    if isinstance(error, BulkWriteError):
        faults = (error.details or {}).get("writeErrors", [])
        return reason(faults[0]) if faults else "the server could not confirm a write"
    if isinstance(error, OperationFailure):
        return reason({**(error.details or {}), "code": error.code})
    return f"{type(error).__name__} while talking to the server"


def reason(fault: Mapping[str, Any]) -> str:
    """Return why the server refused a document or a command, from a write error's fields."""
    code = fault.get("code")
    if code == DUPLICATE_KEY:
        keys = " and ".join(map(str, fault.get("keyPattern", {"key": 1})))
        return f"a document with the same {keys} is there already (code {code})"
    if code == VALIDATION:
        rules = fault.get("errInfo", {}).get("details", {})
        names = _names(rules.get("schemaRulesNotSatisfied", []))
        return f"the validator refuses it{f': {names}' if names else ''} (code {code})"
    return f"the server refused it (code {code} {fault.get('codeName', '')}".rstrip() + ")"


def _names(rules: list[Any]) -> str:
    named: list[str] = []
    for rule in rules:
        fields = [str(prop.get("propertyName")) for prop in rule.get("propertiesNotSatisfied", [])]
        fields += [str(name) for name in rule.get("missingProperties", [])]
        named.append(f"{rule.get('operatorName')} {', '.join(fields)}".strip())
    return "; ".join(named)
