"""Find and load spec files, by path and without a database. Their checksum is made like a migration's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mongo_ops.migrations.source import checksum, helpers, load_module
from mongo_ops.online.errors import SpecError
from mongo_ops.online.model import OnlineMigration, SpecFile

NAME = re.compile(r"^\d{3,}_[a-z0-9]+(?:_[a-z0-9]+)*$")
FOLDER = "online"


def candidates(folder: Path) -> tuple[Path, ...]:
    """Return the files below ``folder`` that are meant as specs; modules that start with ``_`` are helpers."""
    return tuple(path for path in sorted((folder / FOLDER).glob("*.py")) if not path.name.startswith("_"))


def discover(folder: Path) -> tuple[SpecFile, ...]:
    """Return all specs of an include folder, in order of their names.

    Raises:
        SpecError: one cannot be loaded.
    """
    return tuple(load(path) for path in candidates(folder))


def find(folder: Path, name: str) -> SpecFile:
    """Return the spec of this name, or of this number.

    Raises:
        SpecError: there is none.
    """
    for path in candidates(folder):
        if name in (path.stem, path.stem.partition("_")[0]):
            return load(path)
    known = ", ".join(path.stem for path in candidates(folder)) or "none"
    raise SpecError(f"There is no online migration {name} in {folder / FOLDER}; there are: {known}.")


def load(path: Path) -> SpecFile:
    """Load one spec file.

    Raises:
        SpecError: says what is wrong with it.
    """
    if not NAME.match(path.stem):
        raise SpecError(f"{path.name}: is not named like 001_what_it_does.py (three digits, then lower-case words).")
    try:
        source = path.read_text(encoding="utf-8-sig")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        module = load_module(path, path.parent, "online")
    except UnicodeDecodeError:
        raise SpecError(f"{path.name}: is not text in UTF-8.") from None
    except SyntaxError as error:
        raise SpecError(f"{path.name}: line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise SpecError(f"{path.name}: cannot be imported: {type(error).__name__}: {error}") from error
    migration = getattr(module, "migration", None)
    if not isinstance(migration, OnlineMigration):
        raise SpecError(f"{path.name}: must define `migration = OnlineMigration(...)`.")
    if migration.mode not in ("in_place", "ghost"):
        raise SpecError(f"{path.name}: mode is 'in_place' or 'ghost'.")
    total = checksum(source, helpers(path, path.parent))
    return SpecFile(path.stem, path, docstring, source, total, migration)
