"""Word what the driver raises: without its text, which may hold values of documents. Knows no feature's errors; they are handed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
"""Codes of servers that went away, stepped down or were interrupted, and of conflicts: a retry may succeed."""

_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


@contextmanager
def worded(what: str, failed: type[RunError], refused: type[PlanError]) -> Iterator[None]:
    """Turn the driver's errors into ours; see ``explain``."""
    try:
        yield
    except PyMongoError as error:
        raise explain(error, what, failed, refused) from None


def explain(error: PyMongoError, what: str, failed: type[RunError], refused: type[PlanError]) -> MongoOpsError:
    """Return our error for the driver's.

    Args:
        error: the driver's.
        what: begins the sentence.
        failed: the kind of error that a retry may mend.
        refused: the kind that no retry mends.
    """
    if may_pass(error):
        return failed(f"{what}: {describe(error)}. Run it again to go on.")
    return refused(f"{what}: {describe(error)}. See the server's log for the document.")


def may_pass(error: PyMongoError) -> bool:
    """Whether a retry may succeed."""
    if isinstance(error, ConnectionFailure | NetworkTimeout | ExecutionTimeout):
        return True
    return any(map(error.has_error_label, _LABELS)) or getattr(error, "code", None) in PASSING


def describe(error: PyMongoError) -> str:
    """Return the failure in words that hold no value."""
    if isinstance(error, BulkWriteError):
        faults = (error.details or {}).get("writeErrors", [])
        first = faults[0] if faults else {}
        return f"{len(faults):,} writes failed; the first: {reason(first)}"
    if isinstance(error, OperationFailure):
        return reason({**(error.details or {}), "code": error.code})
    return f"{type(error).__name__} while talking to the server"


def reason(fault: Mapping[str, Any]) -> str:
    """Return why the server refused a document or a command, from the fields of a write error or of a reply."""
    code = fault.get("code")
    if code == DUPLICATE_KEY:
        keys = " and ".join(map(str, fault.get("keyPattern", {"key": 1})))
        return f"a document with the same {keys} exists already (code {code})"
    if code == VALIDATION:
        rules = fault.get("errInfo", {}).get("details", {}).get("schemaRulesNotSatisfied", [])
        return f"a document breaks the collection's validator: {_names(rules) or 'see its rules'} (code {code})"
    return f"the server refused the command with code {code} {fault.get('codeName', '')}".rstrip()


def _names(rules: Sequence[Mapping[str, Any]]) -> str:
    named: list[str] = []
    for rule in rules:
        fields = [str(prop.get("propertyName")) for prop in rule.get("propertiesNotSatisfied", [])]
        fields += [str(name) for name in rule.get("missingProperties", [])]
        named.append(f"{rule.get('operatorName')} {', '.join(fields)}".strip())
    return "; ".join(named)
