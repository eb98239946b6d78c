"""The linter's rules about whole migration files. Rules about one operation live with the operation (``Operation.lint``)."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mongo_ops.migrations.model import MigrationFile
from mongo_ops.migrations.operations.base import Fault, Mode, Operation

SHORTEST_DOCSTRING = 20
CREDENTIAL = re.compile(r"mongodb(?:\+srv)?://[^\s/@:]+:[^\s/@]+@|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
FORBIDDEN_IMPORTS = frozenset({"airflow", "pymongo", "motor", "os", "subprocess", "socket", "requests"})
BULK_WRITES = frozenset({"update_many", "delete_many", "insert_many", "bulk_write"})
PERSONAL_WORDS = re.compile(
    r"(^|_)(e_?mail|phone|mobile|(first|last|full|display|given|family|sur|user)_?name|address|street|birth\w*|ip(_address)?|ssn|iban|"
    r"passport|location|device_id|user_?agent|company|composer|prompt)($|_)"
)


def about_file(file: MigrationFile, environments: Collection[str]) -> Iterator[Fault]:
    """Check docstring, tags, environments, reversibility and what the source says."""
    migration = file.migration
    if len(file.docstring.strip()) < SHORTEST_DOCSTRING:
        yield Fault("MO002", "say in the docstring what it does, what readers may see meanwhile, and how it is undone")
    if not migration.operations:
        yield Fault("MO104", "has no operations")
    if not {"core", "advanced"} & set(migration.tags):
        yield Fault("MO115", "must be tagged core or advanced; that decides its task group")
    for name in migration.environments or ():
        if name not in environments:
            yield Fault("MO111", f"applies to {name!r}, which environments.yaml does not name")
    yield from _reversibility(file)
    if migration.transaction == "always":
        for op in migration.operations:
            if op.mode is not Mode.TRANSACTION:
                yield Fault("MO103", f"asks for one transaction, but {op.kind} cannot be part of one")
    yield from _source(file.source)


def _reversibility(file: MigrationFile) -> Iterator[Fault]:
    for op in file.migration.operations:
        explained = file.migration.irreversible or op.irreversible
        reason = op.why_irreversible()
        if reason and not (explained and explained.strip()):
            yield Fault("MO101", f"cannot be undone ({reason}); give a way back or irreversible='why'")
        for loss in op.forward_destroys():
            what = f"{loss.collection}.{', '.join(loss.fields)}" if loss.fields else loss.collection
            yield Fault("MO102", f"{op.kind} removes {what}; it is snapshotted first, accept it with a reason")


def _source(source: str) -> Iterator[Fault]:
    """Check imports, bulk writes outside batches, and credentials in the text."""
    if CREDENTIAL.search(source):
        yield Fault("MO116", "holds something that looks like a credential; name a connection instead")
    for node in ast.walk(ast.parse(source)):
        for module in _imported(node):
            if module.partition(".")[0] in FORBIDDEN_IMPORTS:
                yield Fault("MO114", f"imports {module}; a migration uses mongo_ops.migrations, bson and plain Python")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _unbounded(node, node.func.attr):
            text = f"line {node.lineno}: {node.func.attr} outside ctx.in_batches is unbounded and not resumable"
            yield Fault("MO108", text)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


def _unbounded(call: ast.Call, method: str) -> bool:
    """Say whether a bulk write passes no session, as the work of a batch or a transaction does."""
    return method in BULK_WRITES and not any(keyword.arg == "session" for keyword in call.keywords)


def about_order(file: MigrationFile) -> Iterator[Fault]:
    """Check the order of operations on one collection: unique indexes and validators come after the backfill they rely on."""
    operations = list(file.migration.operations)
    for index, op in enumerate(operations):
        later = [o for o in operations[index + 1 :] if o.mode is Mode.BATCHES and set(o.writes()) & set(op.writes())]
        if not later:
            continue
        if op.kind == "SetValidator" and getattr(op, "validator", None):
            yield Fault(
                "MO107", f"tightens the validator of {op.writes()[0]} before {later[0].kind} has filled it; swap them"
            )
        if op.kind == "CreateIndex" and getattr(op, "unique", False):
            yield Fault(
                "MO106", f"builds a unique index on {op.writes()[0]} before {later[0].kind} has filled it; swap them"
            )


def about_personal_data(file: MigrationFile, personal: Mapping[str, Collection[str]]) -> Iterator[Fault]:
    """Check that fields which look personal are known to the data map, so that erasure finds them."""
    for op in file.migration.operations:
        for collection, field in _fields(op):
            name = field.rpartition(".")[2]
            if PERSONAL_WORDS.search(name) and field not in personal.get(collection, ()):
                yield Fault("MO110", f"{collection}.{field} looks personal and data_map.yaml does not name it")


def _fields(op: Operation) -> Iterator[tuple[str, str]]:
    collection = op.writes()[0] if op.writes() else ""
    for attribute in ("field", "new"):
        value = getattr(op, attribute, None)
        if isinstance(value, str) and op.mode is Mode.BATCHES:
            yield collection, value
    validator = getattr(op, "validator", None)
    if isinstance(validator, Mapping):
        yield from ((collection, field) for field in _schema_fields(validator.get("$jsonSchema", {})))


def _schema_fields(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a JSON schema's properties."""
    if not isinstance(schema, Mapping):
        return
    for name, inner in (schema.get("properties") or {}).items():
        yield f"{prefix}{name}"
        yield from _schema_fields(inner, f"{prefix}{name}.")
        if isinstance(inner, Mapping):
            yield from _schema_fields(inner.get("items"), f"{prefix}{name}.")
