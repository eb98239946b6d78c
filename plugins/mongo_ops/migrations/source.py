"""What a program says, whatever its comments and layout: the normal form that checksums are made of."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def normal_form(source: str) -> str:
    """Return a text that is equal for two sources exactly when their programs are: no comments, layout or docstrings.

    Empty and absent parts of the syntax tree are left out, so that Python versions with more node fields agree.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _drop_docstring(node)
    return _dump(tree)


def _drop_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:]


def _dump(value: Any) -> str:
    if isinstance(value, ast.AST):
        parts = (f"{name}={_dump(item)}" for name, item in ast.iter_fields(value) if _says_something(name, item))
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, list):
        return f"[{','.join(_dump(item) for item in value)}]"
    return repr(value)


def _says_something(name: str, item: Any) -> bool:
    return item is not None and item != [] and name not in ("ctx", "kind", "type_comment")


def code_of(function: Callable[..., Any]) -> str:
    """Return the normal form of a function's source; its qualified name when the source cannot be read."""
    if isinstance(function, functools.partial):
        return f"{code_of(function.func)}{function.args!r}{function.keywords!r}"
    try:
        return normal_form(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return f"{function.__module__}.{function.__qualname__}"


def local_imports(source: str, folder: Path, here: Path) -> Iterator[Path]:
    """Yield the files below ``folder`` that a module imports relatively (``from .genres import NAMES``)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            base = here.parent
            for _ in range(node.level - 1):
                base = base.parent
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                stem = base.joinpath(*name.split("."))
                candidates = (stem.with_suffix(".py"), stem / "__init__.py")
                yield from (path for path in candidates if path.is_file() and path.is_relative_to(folder))


def helpers(path: Path, folder: Path) -> dict[str, str]:
    """Return the source of every local module that a migration imports, directly or not, by its path in the folder."""
    seen: dict[Path, str] = {}
    todo = [path]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        source = current.read_text(encoding="utf-8-sig")
        seen[current] = source
        todo.extend(local_imports(source, folder, current))
    return {str(found.relative_to(folder)): text for found, text in sorted(seen.items()) if found != path}


def checksum(source: str, local_modules: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of a migration's program and of the local modules it imports; comments do not count."""
    parts = sorted((name, normal_form(text)) for name, text in local_modules.items())
    return hashlib.sha256(repr((normal_form(source), parts)).encode()).hexdigest()


def load_module(path: Path, folder: Path, family: str) -> types.ModuleType:
    """Run a file as a module of a package of its own, so that it may import the folder's modules relatively; ``family`` names the package."""
    package = f"mongo_ops_{family}_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        del sys.modules[name]  # a helper edited since must be read again
    parent = types.ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules[package] = parent
    module = types.ModuleType(f"{package}.{path.stem}")
    module.__file__, module.__package__ = str(path), package
    sys.modules[module.__name__] = module
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:  # compiled from the text itself: a cached module goes by size and second, and an edit can keep both
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - that is what loading is
    finally:
        sys.dont_write_bytecode = written
    return module
