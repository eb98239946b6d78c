"""Find migration files and load them, by path and without a database.

The folder becomes a package of its own (``mongo_ops_migrations_<digest of its path>``), so that migrations may import local
helper modules relatively (``from ._shapes import EMAIL``) and never collide with an installed module.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import re
import shutil
import tempfile
import types
from dataclasses import replace
from pathlib import Path

from mongo_ops.errors import PlanError
from mongo_ops.migrations.model import Migration, MigrationFile, Record
from mongo_ops.migrations.operations.base import Operation
from mongo_ops.migrations.source import checksum, helpers, load_module

NAME = re.compile(r"^(?!0+_)\d{3,}_[a-z0-9]+(?:_[a-z0-9]+)*$")


class MigrationFileError(PlanError):
    """A migration file cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path.name}: {self.problem}"


def candidates(folder: Path) -> tuple[Path, ...]:
    """Return the files that are meant as migrations, in order of their names; modules that start with ``_`` are helpers."""
    if not folder.is_dir():
        raise PlanError(
            f"{folder} does not exist; migrations are looked for there. Set MONGO_OPS_INCLUDE to the folder above it."
        )
    return tuple(path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_"))


def discover(folder: Path) -> tuple[MigrationFile, ...]:
    """Return all migrations of a folder, oldest first.

    Raises:
        MigrationFileError: a file has a wrong name, cannot be imported, or declares no ``migration``; or two share a number.
    """
    found = tuple(load(path, folder) for path in candidates(folder))
    by_version: dict[int, MigrationFile] = {}
    for file in found:
        other = by_version.setdefault(int(file.version), file)
        if other is not file:
            raise MigrationFileError(file.path, f"has the same number as {other.path.name}; give it the next free one.")
    return tuple(by_version[number] for number in sorted(by_version))


def usable(folder: Path) -> tuple[MigrationFile, ...]:
    """Return the migrations that can be loaded, oldest first; what is wrong with the others is the linter's to say."""
    by_version: dict[int, MigrationFile] = {}
    for path in candidates(folder):
        with contextlib.suppress(MigrationFileError):
            file = load(path, folder)
            by_version.setdefault(int(file.version), file)
    return tuple(by_version[number] for number in sorted(by_version))


def load(path: Path, folder: Path) -> MigrationFile:
    """Load one migration file.

    Raises:
        MigrationFileError: says what is wrong with it.
    """
    if not NAME.match(path.stem):
        raise MigrationFileError(path, "is not named like 007_what_it_does.py (three digits, then lower-case words).")
    try:
        source = path.read_text(encoding="utf-8-sig")
        docstring = ast.get_docstring(ast.parse(source)) or ""
    except UnicodeDecodeError:
        raise MigrationFileError(path, "is not text in UTF-8.") from None
    except SyntaxError as error:
        raise MigrationFileError(path, f"line {error.lineno}: {error.msg}") from None
    module = types.ModuleType("unloaded")
    try:
        module = load_module(path, folder, "migrations")
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise MigrationFileError(path, f"cannot be imported: {type(error).__name__}: {error}") from error
    migration = getattr(module, "migration", None)
    if not isinstance(migration, Migration):
        raise MigrationFileError(path, "must define `migration = Migration(operations=[...])`.")
    if problem := _malformed(migration):
        raise MigrationFileError(path, problem)
    local_modules = helpers(path, folder)
    return MigrationFile(path.stem, path, docstring, source, checksum(source, local_modules), migration, local_modules)


def _malformed(migration: Migration) -> str | None:
    """Return what is wrong with the declaration's types, which the type checker of a migration's author may not have seen."""
    operations = migration.operations
    if not isinstance(operations, list | tuple) or not all(isinstance(one, Operation) for one in operations):
        return "operations must be a list of operations, such as AddField(...)."
    for name in ("tags", "environments"):
        if isinstance(getattr(migration, name), str):
            return f"{name} must be a tuple of names, not one text; mind the comma in ('development',)."
    return None


def load_source(record: Record) -> MigrationFile:
    """Load a migration from the sources kept in the database, for a rollback whose file is gone.

    They are written to a temporary folder that lives as long as the process: digests of functions read their source again.
    """
    folder = Path(tempfile.mkdtemp(prefix="mongo-ops-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, source in {f"{record.name}.py": record.source, **record.helpers}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return replace(load(folder / f"{record.name}.py", folder), checksum=record.checksum)
