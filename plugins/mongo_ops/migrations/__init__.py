"""Versioned migrations: what migration files import, and nothing that needs a database.

A migration file (``include/migrations/007_what_it_does.py``) holds a docstring and one value::

    from mongo_ops.migrations import AddField, Migration

    migration = Migration(operations=[AddField("users", "status", value="active")])

docs/operations.md describes every operation.
"""

from mongo_ops.migrations.conditions import CollectionExists, Condition, CountIs, IndexExists, NoneMatch
from mongo_ops.migrations.model import Migration
from mongo_ops.migrations.operations.add_field import AddField
from mongo_ops.migrations.operations.backfill import Backfill
from mongo_ops.migrations.operations.convert_field import ConvertField
from mongo_ops.migrations.operations.copy_documents import CopyDocuments
from mongo_ops.migrations.operations.create_collection import CreateCollection
from mongo_ops.migrations.operations.create_index import CreateIndex
from mongo_ops.migrations.operations.drop_collection import DropCollection
from mongo_ops.migrations.operations.drop_index import DropIndex
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.operations.move_documents import MoveDocuments
from mongo_ops.migrations.operations.remove_field import RemoveField
from mongo_ops.migrations.operations.rename_collection import RenameCollection
from mongo_ops.migrations.operations.rename_field import RenameField
from mongo_ops.migrations.operations.run_command import RunCommand
from mongo_ops.migrations.operations.run_python import PythonContext, RunPython
from mongo_ops.migrations.operations.set_validator import SetValidator

__all__ = [
    "AddField",
    "Backfill",
    "CollectionExists",
    "Condition",
    "ConvertField",
    "CopyDocuments",
    "CountIs",
    "CreateCollection",
    "CreateIndex",
    "DropCollection",
    "DropIndex",
    "IndexExists",
    "InsertDocuments",
    "Migration",
    "MoveDocuments",
    "NoneMatch",
    "PythonContext",
    "RemoveField",
    "RenameCollection",
    "RenameField",
    "RunCommand",
    "RunPython",
    "SetValidator",
]
