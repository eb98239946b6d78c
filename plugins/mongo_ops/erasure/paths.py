"""Paths of a data map: how they are read, what they lead to in a document, and which fields of the map cover them. Pure.

``credits[].user_id`` names a field of each element of an array, ``likes.{user_id}`` a key that is an identifier's value,
``meta.*`` any key. Nothing here changes a document.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bson.dbref import DBRef

ELEMENTS = "[]"
ANY = "*"
_PART = re.compile(r"(?:[^\s.\[\]{}*$\x00][^.\[\]{}*\x00]*|\{\w+\}|\*|\$(?:id|ref|db))(?:\[\])*\Z")


def is_path(text: str) -> bool:
    """Say whether a text is a path of a data map."""
    return bool(text) and all(_PART.match(part) for part in text.split("."))


def steps(path: str) -> tuple[str, ...]:
    """Cut a path: ``credits[].user_id`` becomes ``("credits", "[]", "user_id")``."""
    found: list[str] = []
    for part in path.split("."):
        name = part.rstrip("[]")
        found += [name, *[ELEMENTS] * ((len(part) - len(name)) // 2)]
    return tuple(found)


def joined(parts: Collection[str]) -> str:
    """Put steps together again."""
    return ".".join(parts).replace(f".{ELEMENTS}", ELEMENTS)


def named(step: str) -> str | None:
    """Return the identifier of a ``{identifier}`` step, or None."""
    return step[1:-1] if step.startswith("{") else None


def plain(path: str) -> str:
    """Return the path as MongoDB's queries write it, where arrays are gone through without a mark."""
    return path.replace(ELEMENTS, "")


def opened(value: Any) -> Any:
    """Return a reference between collections (DBRef) as the document it is stored as; everything else as it is."""
    return value.as_doc() if isinstance(value, DBRef) else value


def reached(value: Any, path: str) -> Iterator[Any]:
    """Yield the values that MongoDB compares for a path: through arrays, and both an array and its elements at the end."""
    yield from _reached(value, tuple(step for step in steps(path) if step != ELEMENTS))


def _reached(value: Any, rest: tuple[str, ...]) -> Iterator[Any]:
    value = opened(value)
    if not rest:
        yield value
        if isinstance(value, list):
            yield from value
    elif isinstance(value, Mapping):
        if rest[0] in value:
            yield from _reached(value[rest[0]], rest[1:])
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping | DBRef):
                yield from _reached(item, rest)


def covers(fields: Collection[str], path: str) -> bool:
    """Say whether the fields classify a path: by its own name, or by one above that ends in ``.*``.

    ``embedding.*`` covers ``embedding`` itself, ``embedding[]`` and everything below.
    """
    parts = tuple(ANY if named(step) else step for step in steps(path))
    if joined(parts) in fields:
        return True
    return any(f"{joined(parts[:length])}.{ANY}" in fields for length in range(1, len(parts) + 1))


def knows(fields: Collection[str], path: str) -> bool:
    """Say whether the fields classify a path, or something below it (``address`` of ``address.city``)."""
    parts = tuple(ANY if named(step) else step for step in steps(path))
    return covers(fields, path) or any(steps(one)[: len(parts)] == parts for one in fields)
