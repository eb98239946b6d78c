"""Ask whether the changes of a rule were carried out on a document, for the verification. Pure.

Shares no way with what carries them out: it walks through all that the document holds, where ``changes`` follows paths.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mongo_ops.erasure.forms import Index
from mongo_ops.erasure.model import Change
from mongo_ops.erasure.paths import ANY, ELEMENTS, named, opened, steps
from mongo_ops.erasure.redaction import has_names
from mongo_ops.erasure.selectors import ANYWHERE
from mongo_ops.erasure.whose import Whose, is_theirs

Place = tuple[str | int, ...]


def settled(
    document: Mapping[str, Any],
    changes: Sequence[Change],
    index: Index,
    *,
    owners: Collection[str] | None = None,
    traced: Collection[str] | None = None,
) -> bool:
    """Say whether nothing is left to change. Walks through all the document holds instead of following paths.

    Args:
        document: as it is stored.
        changes: the rule's.
        index: whose a value is.
        owners: as for ``transform``.
        traced: the identifiers of which no trace may be left where a change redacts; None for all.
    """
    whose = Whose(index, owners)
    nodes = list(_nodes(document))
    wanted = {steps(change.path): change for change in changes}
    if len(wanted) < len(changes):  # several changes of one path: each on its own
        return all(settled(document, [change], index, owners=owners, traced=traced) for change in changes)
    kept = set(index.names if traced is None else traced)
    for trail, value, ends in nodes:
        for pattern, change in wanted.items():
            if change.op == "reference" and change.of is not None:
                pattern = steps(change.of)  # noqa: PLW2901 - what must be gone is the value it refers to
            if _fits(trail, pattern, whose) and _left(
                value, _element(document, trail, pattern, ends), change, whose, kept
            ):
                return False
    return True


def _nodes(value: Any, trail: Place = (), ends: tuple[int, ...] = ()) -> Iterator[tuple[Place, Any, tuple[int, ...]]]:
    """Yield everything in a document: its trail, itself, and at which lengths of the trail an element of an array ends."""
    value = opened(value)
    if trail:
        yield trail, value, ends
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _nodes(inner, (*trail, key), ends)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nodes(inner, (*trail, number), (*ends, len(trail) + 1))


def _fits(trail: Place, pattern: tuple[str, ...], whose: Whose) -> bool:
    """Say whether a trail is one that a path means. Arrays may be there without ``[]``, and ``[]`` without an array."""
    if not trail:
        return all(step == ELEMENTS for step in pattern)
    if not pattern:
        return False
    here, step = trail[0], pattern[0]
    if isinstance(here, int):
        return _fits(trail[1:], pattern[1:] if step == ELEMENTS else pattern, whose)
    if step == ELEMENTS:
        return _fits(trail, pattern[1:], whose)
    name = named(step)
    same = whose.of_key(name, here) is not None if name is not None else step in {ANY, here}
    return same and _fits(trail[1:], pattern[1:], whose)


def _element(document: Any, trail: Place, pattern: tuple[str, ...], ends: tuple[int, ...]) -> Any:
    """Return the innermost element, or value of any key, on the way of a trail."""
    keys = [place for place, step in enumerate(trail, 1) if not isinstance(step, int)]
    wild = [
        keys[number]
        for number, step in enumerate(step for step in pattern if step != ELEMENTS)
        if (step == ANY or named(step)) and number < len(keys)
    ]
    if ELEMENTS in pattern and not ends and not wild:
        last = len([step for step in pattern[: len(pattern) - pattern[::-1].index(ELEMENTS)] if step != ELEMENTS])
        wild = [keys[last - 1]]
    found = document
    for step in trail[: max((*ends, *wild), default=0)]:
        found = opened(found)[step]
    return found


def _left(value: Any, element: Any, change: Change, whose: Whose, traced: Collection[str]) -> bool:
    """Say whether a value that a change is about still has to be changed."""
    if change.where == ANYWHERE:
        if not _mentions(element, whose, traced):
            return False
    elif change.where is not None and not is_theirs(element, change.where, whose):
        return False
    if change.op in {"unset", "pull"}:
        return True
    if change.op == "set":
        return not (type(value) is type(change.value) and value == change.value)
    if change.op == "reference":
        return whose.anybody(value) is not None
    return _mentions(value, whose, traced) or (
        change.of is not None and isinstance(value, str) and has_names(value, whose.named(change.of))
    )


def _mentions(value: Any, whose: Whose, traced: Collection[str]) -> bool:
    """Say whether a subtree has a traced identifier as a value or a key, or as a word of a text.

    Ids in binary inside of longer bytes are left to the residual scan, which looks at bytes.
    """
    value = opened(value)
    if isinstance(value, bytes) and _mentions(value.decode("utf-8", "replace"), whose, traced):
        return True
    if isinstance(value, Mapping):
        return any(
            _mentions(key, whose, traced)
            or any(whose.of_key(one, key) is not None for one in traced)
            or _mentions(inner, whose, traced)
            for key, inner in value.items()
        )
    if isinstance(value, list):
        return any(_mentions(item, whose, traced) for item in value)
    if isinstance(value, str) and has_names(value, lambda text: any(whose.request(one, text) for one in traced)):
        return True
    return any(whose.request(one, value) is not None for one in traced)
