"""Whose a value of a document is, and whether an element meets the condition of a change. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mongo_ops.erasure.forms import Index, Key, key_in, key_of
from mongo_ops.erasure.paths import ANY, named, reached
from mongo_ops.erasure.selectors import holds, identifier_of


@dataclass(frozen=True, slots=True)
class Whose:
    """Answers whose a value is, among the requests concerned (all of ``index`` when ``owners`` is None)."""

    index: Index
    owners: Collection[str] | None

    def request(self, name: str, value: Any) -> str | None:
        """Return the request of the person whose value of this identifier it is; the first of several."""
        return self._request(name, key_of(value))

    def of_key(self, name: str, key: str) -> str | None:
        """Return the request of the person whose value of this identifier a key of a document is."""
        return self._request(name, key_in(key))

    def _request(self, name: str, key: Key | None) -> str | None:
        requests = self.index.get((name, key), set()) if key is not None else set()
        return min((one for one in requests if self.owners is None or one in self.owners), default=None)

    def anybody(self, value: Any) -> str | None:
        """Return the request of the person to whom a value belongs by any identifier."""
        return next((request for name in self.index.names if (request := self.request(name, value)) is not None), None)

    def keys(self, step: str, value: Mapping[str, Any]) -> list[str]:
        """Return the keys of a document that a step of a path means."""
        name = named(step)
        if name is not None:
            return [key for key in value if self.of_key(name, key) is not None]
        return list(value) if step == ANY else [step] if step in value else []

    def named(self, name: str) -> Callable[[str], bool]:
        """Return the question whether a text is somebody's value of an identifier."""
        return lambda text: self.request(name, text) is not None


def is_theirs(element: Any, where: Any, whose: Whose) -> bool:
    """Say whether an element meets a condition: ``$name``, or conditions by field."""
    if isinstance(where, str):
        return whose.request(where[1:], element) is not None
    for path, condition in where.items():
        name = identifier_of(path, condition)
        if name is None:
            if not holds(element, path, condition):
                return False
        elif not any(whose.request(name, value) is not None for value in reached(element, path)):
            return False
    return True
