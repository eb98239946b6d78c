"""Count the paths that documents really have and keep a few values of those that nobody says are about a person. Pure.

Keeps paths and at most a few hundred values per path, whatever the number of documents; never a whole document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mongo_ops.erasure.forms import Key, key_of
from mongo_ops.erasure.model import FieldNote
from mongo_ops.erasure.paths import ANY, ELEMENTS, covers, knows, opened

EMAIL = re.compile(r"[^\s@<>\"',;:()]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z|\$(?:id|ref|db)\Z")
_ID = re.compile(r"[0-9a-f]{24}\Z|[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\Z", re.IGNORECASE)
VALUES_KEPT = 200
ELEMENTS_LOOKED_AT = 100
KEYS_NAMED = 40
"""More keys than this below one path are values, not names of fields: they are counted together as ``*`` and not shown."""
LONGEST_VALUE = 254


@dataclass
class Seen:
    """What a census saw of one path: documents, whether the map classifies it, values to compare, and whether one was an e-mail."""

    classified: bool
    documents: int = 0
    emails: int = 0
    values: dict[Key, Any] = field(default_factory=dict)


class Census:
    """The paths of a collection that are not classified, or classified as not about a person."""

    def __init__(self, fields: Mapping[str, FieldNote]) -> None:
        self._fields = fields
        self._personal: dict[str, bool] = {}
        self._names: dict[str, set[str]] = {}
        self._seen: dict[str, Seen] = {}

    @property
    def seen(self) -> dict[str, Seen]:
        """What was seen, by path."""
        found: dict[str, Seen] = {}
        for path, one in self._seen.items():
            folded = self._folded(path)
            if folded in found:
                found[folded].documents += one.documents
                found[folded].emails += one.emails
                found[folded].values |= one.values
            else:
                found[folded] = Seen(one.classified, one.documents, one.emails, dict(one.values))
        return found

    def add(self, document: Mapping[str, Any]) -> None:
        """Count one document."""
        met: set[str] = set()
        for path, value in self._leaves(document, ""):
            if self._is_personal(path):
                continue
            seen = self._seen.setdefault(path, Seen(self._is_classified(path, value)))
            seen.documents += path not in met
            met.add(path)
            if isinstance(value, str) and EMAIL.search(value):
                seen.emails += 1
            key = key_of(value)
            if key is not None and len(seen.values) < VALUES_KEPT and _is_comparable(value):
                seen.values[key] = value

    def _leaves(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        value = opened(value)
        if isinstance(value, Mapping) and (value or not path):
            for key, inner in value.items():
                yield from self._leaves(inner, f"{path}.{name}" if (name := self._named(path, key)) and path else name)
        elif isinstance(value, list) and value:
            half = ELEMENTS_LOOKED_AT // 2
            for inner in value if len(value) <= ELEMENTS_LOOKED_AT else [*value[:half], *value[-half:]]:
                yield from self._leaves(inner, f"{path}{ELEMENTS}")
        else:
            yield path, value

    def _named(self, path: str, key: str) -> str:
        """Return the name of a field, or ``*`` for a key that is a value."""
        if knows(self._fields, f"{path}.{key}" if path else key):
            return key
        if _ID.match(key) or not _FIELD_NAME.match(key):
            return ANY
        names = self._names.setdefault(path, set())
        if path and len(names) > KEYS_NAMED:
            return ANY
        names.add(key)
        return key

    def _folded(self, path: str) -> str:
        """Return the path with ``*`` in the place of keys that turned out to be values."""
        for parent, names in self._names.items():
            head, _, rest = path.removeprefix(f"{parent}.").partition(".")
            name = head.rstrip("[]")
            if parent and len(names) > KEYS_NAMED and path.startswith(f"{parent}.") and name in names:
                path = f"{parent}.{ANY}{head[len(name) :]}{'.' if rest else ''}{rest}"
        return path

    def _is_personal(self, path: str) -> bool:
        if path not in self._personal:
            note = _note(self._fields, path)
            self._personal[path] = note is not None and note.category.startswith("user")
        return self._personal[path]

    def _is_classified(self, path: str, value: Any) -> bool:
        """Say whether a leaf is named. Null, ``[]`` and ``{}`` hold nothing: there it is enough that something below is."""
        return covers(self._fields, path) or (value in (None, [], {}) and knows(self._fields, path))


def _is_comparable(value: Any) -> bool:
    """Say whether a value may be an identifier that can be told from others: no number, no long text."""
    return not isinstance(value, int | float) and (not isinstance(value, str | bytes) or len(value) <= LONGEST_VALUE)


def _note(fields: Mapping[str, FieldNote], path: str) -> FieldNote | None:
    """Return what the map says of a path: by its own name, or by the nearest ``.*`` above."""
    if path in fields:
        return fields[path]
    parts = path.replace(ELEMENTS, f".{ELEMENTS}").split(".")
    names = [".".join(parts[:length]).replace(f".{ELEMENTS}", ELEMENTS) for length in range(len(parts), 0, -1)]
    return next((fields[found] for name in names if (found := f"{name}.{ANY}") in fields), None)


def schema_paths(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the paths that a validator's ``$jsonSchema`` names, arrays by ``[]``; documents without named fields by themselves."""
    if not isinstance(schema, Mapping):
        return
    properties, items = schema.get("properties"), schema.get("items")
    for name, inner in (properties or {}).items():
        yield from schema_paths(inner, f"{path}.{name}" if path else name)
    for inner in items if isinstance(items, list) else [items] if items else []:
        yield from schema_paths(inner, f"{path}{ELEMENTS}")
    if path and not properties and not items:
        yield path
