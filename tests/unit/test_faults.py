"""Errors for people: what, where and whether a retry helps, and never a value of a document."""

from __future__ import annotations

import traceback

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WriteError,
)

from mongo_ops.errors import PlanError, RunError
from mongo_ops.migrations.faults import MigrationFailedError, MigrationRefusedError, explain
from mongo_ops.mongo.lease import LeaseLostError

MARKER = "ana.secret@example.org"
DUPLICATE = {"code": 11000, "keyPattern": {"email": 1, "tenant": 1}, "keyValue": {"email": MARKER}, "errmsg": MARKER}
RULES = [
    {
        "operatorName": "properties",
        "propertiesNotSatisfied": [{"propertyName": "email", "details": [{"consideredValue": MARKER}]}],
    },
    {"operatorName": "required", "missingProperties": ["status"]},
]
INVALID = {
    "code": 121,
    "errInfo": {"failingDocumentId": MARKER, "details": {"schemaRulesNotSatisfied": RULES}},
    "errmsg": MARKER,
}
TEMPORARY = OperationFailure(MARKER, 20, {"codeName": "X", "errorLabels": ["TransientTransactionError"]})
CASES = [
    (DuplicateKeyError(MARKER, 11000, DUPLICATE), MigrationRefusedError, "same email and tenant exists already (code 11000)"),
    (WriteError(MARKER, 121, INVALID), MigrationRefusedError, "properties email; required status (code 121)"),
    (WriteError(MARKER, 121, {}), MigrationRefusedError, "see its rules (code 121)"),
    (BulkWriteError({"writeErrors": [DUPLICATE, INVALID]}), MigrationRefusedError, "2 writes failed; the first: a document with"),
    (BulkWriteError({}), MigrationRefusedError, "0 writes failed"),
    (OperationFailure(MARKER, 13, {"codeName": "Unauthorized"}), MigrationRefusedError, "with code 13 Unauthorized"),
    (OperationFailure(MARKER, 9), MigrationRefusedError, "refused the command with code 9"),
    (OperationFailure(MARKER, 112, {"codeName": "WriteConflict"}), MigrationFailedError, "code 112 WriteConflict"),
    (TEMPORARY, MigrationFailedError, "code 20 X"),
    (AutoReconnect(MARKER), MigrationFailedError, "AutoReconnect while talking to the server"),
    (NetworkTimeout(MARKER), MigrationFailedError, "NetworkTimeout while talking"),
    (ServerSelectionTimeoutError(MARKER), MigrationFailedError, "ServerSelectionTimeoutError while talking"),
    (NotPrimaryError(MARKER), MigrationFailedError, "NotPrimaryError while talking"),
    (ExecutionTimeout(MARKER, 50), MigrationFailedError, "code 50"),
    (ConfigurationError(MARKER), MigrationRefusedError, "ConfigurationError while talking"),
    (ValueError(MARKER), MigrationRefusedError, "ValueError at an unknown place"),
    (KeyError(MARKER), MigrationRefusedError, "its text is withheld"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "said"), CASES)
def test_what_happened_without_a_value(error, kind, said):
    found = explain(error, "003_x, operation 2 of 3 (Backfill)")

    assert type(found) is kind
    assert str(found).startswith("003_x, operation 2 of 3 (Backfill): ")
    assert said in str(found)
    assert MARKER not in "".join(traceback.format_exception(found)) + repr(found)
    assert isinstance(found, RunError if kind is MigrationFailedError else PlanError)


def test_the_place_in_the_file_is_named():
    def fail():
        return {}[MARKER]

    with pytest.raises(KeyError) as caught:
        fail()

    line = caught.value.__traceback__.tb_next.tb_lineno
    assert f"KeyError at test_faults.py:{line} (" in str(explain(caught.value, "003_x"))


def test_our_own_errors_are_as_they_are():
    error = LeaseLostError("migrations", 3)
    assert explain(error, "003_x") is error
