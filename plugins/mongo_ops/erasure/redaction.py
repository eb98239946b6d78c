"""Take identifiers and names out of texts and subtrees; what has none of them comes back as the very same object. Pure.

Which identifiers are looked for is the redactor's business: a function from text to text that puts a reference in their place and
leaves a text without them alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from bson import Binary, Code, ObjectId, Regex
from bson.dbref import DBRef

Redactor = Callable[[str], str]
REMOVED = "[removed]"
LONGEST_NAME = 8
"""Words of a name that are looked at together."""

_WORD = re.compile(r"\w+")
_RUN = re.compile(r"[^\s,;/|&]+")


def redacted(value: Any, redactor: Redactor) -> Any:
    """Return a value without identifiers: texts, keys, ids and bytes, however deep.

    An ObjectId or UUID that is an identifier becomes its reference, as a text. Bytes that hold one lose it, or become empty when
    it stands there in binary.
    """
    if isinstance(value, DBRef):
        value = value.as_doc()
    if isinstance(value, Mapping):
        return _mapping(value, redactor)
    if isinstance(value, list):
        items = [redacted(item, redactor) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, str):
        return _text(value, redactor)
    if isinstance(value, Regex):
        pattern = redactor(value.pattern) if isinstance(value.pattern, str) else value.pattern
        return value if pattern == value.pattern else Regex(pattern, value.flags)
    if isinstance(value, ObjectId | UUID):
        text = redactor(str(value))
        return value if text == str(value) else text
    return _bytes(value, redactor) if isinstance(value, bytes) else value


def without_names(text: str, is_name: Callable[[str], bool], instead: str) -> str:
    """Replace every name that stands for itself, ignoring case: ``Ana`` in ``Ana, Bo`` but not in ``Anatomy``."""
    for start, end in reversed(list(_names(text, is_name))):
        text = text[:start] + instead + text[end:]
    return text


def has_names(text: str, is_name: Callable[[str], bool]) -> bool:
    """Say whether a text has a name in it."""
    return next(_names(text, is_name), None) is not None


def _names(text: str, is_name: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield where names begin and end, the longest first at each place, none inside another."""
    spans = [match.span() for pattern in (_WORD, _RUN) for match in pattern.finditer(text)]
    starts = sorted({start for start, _ in spans})
    ends = sorted({end for _, end in spans})
    behind = 0
    for start in starts:
        if start < behind:
            continue
        following = [end for end in ends if end > start][: 2 * LONGEST_NAME]
        for end in reversed(following):
            if is_name(text[start:end].lower()):
                yield start, end
                behind = end
                break


def _text(value: str, redactor: Redactor) -> str:
    text = redactor(str(value))
    if text == str(value):
        return value
    return Code(text, value.scope) if isinstance(value, Code) else text


def _mapping(value: Mapping[str, Any], redactor: Redactor) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    same = True
    for key, inner in value.items():
        new, changed = redactor(key), redacted(inner, redactor)
        same = same and new == key and changed is inner
        found[_free(new, found)] = changed
    return value if same else found


def _free(key: str, taken: Mapping[str, Any]) -> str:
    """Return the key, numbered when two keys came to the same reference: neither value may be lost."""
    return next(name for number in range(len(taken) + 1) if (name := f"{key}_{number}" if number else key) not in taken)


def _bytes(value: bytes, redactor: Redactor) -> bytes:
    subtype = value.subtype if isinstance(value, Binary) else 0
    if redactor(value.hex()) != value.hex():
        return Binary(b"", 0)
    text = value.decode("latin-1")
    new = redactor(text)
    return value if new == text else Binary(new.encode("latin-1", "replace"), subtype)
