"""What becomes of a document: the changes of a rule as one update of its top-level fields. Pure.

Only what belongs to the given people is touched: the elements and keys of others stay as they are, byte for byte and in their order.
Conditions on elements look at the document as it was, so the order of changes does not matter to them. Doing it twice changes
nothing the second time. ``settled`` asks the same question by other code, for the verification.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mongo_ops.erasure.forms import Index
from mongo_ops.erasure.model import Change
from mongo_ops.erasure.paths import ANY, ELEMENTS, named, opened, steps
from mongo_ops.erasure.redaction import REMOVED, Redactor, redacted, without_names
from mongo_ops.erasure.selectors import ANYWHERE
from mongo_ops.erasure.settled import settled
from mongo_ops.erasure.whose import Whose, is_theirs
from mongo_ops.errors import PlanError

__all__ = ["UnaddressableFieldError", "Update", "settled", "transform"]

Update = dict[str, dict[str, Any]]
Place = tuple[str | int, ...]
_GONE = object()


class UnaddressableFieldError(PlanError):
    """A top-level field has a name that no update operator can say."""


def transform(
    document: Mapping[str, Any],
    changes: Sequence[Change],
    index: Index,
    references: Mapping[str, str],
    redactor: Redactor,
    *,
    owners: Collection[str] | None = None,
) -> Update | None:
    """Return the update that carries the changes out, or None when nothing is left to change.

    Args:
        document: as it is stored, read with ``mongo.documents.CODEC``.
        changes: the rule's.
        index: whose a value is (``forms.index_of``).
        references: request id -> subject reference.
        redactor: replaces traced identifiers in a text.
        owners: the requests that the document belongs to (``selectors.owners``); values of others are then left alone, so that a run
            for many people does to each document what runs for each of them would do. None for everybody in ``index``.

    Returns:
        ``{"$set": {...}, "$unset": {...}}`` with top-level fields only, either of them left out when empty.

    Raises:
        UnaddressableFieldError: a field to change has a dot or a dollar in its name.
    """
    whose, draft = Whose(index, owners), _Draft(document)
    pulled: set[Place] = set()
    for change in changes:
        for place in _places(document, change, whose, redactor):
            if change.op == "pull":
                pulled.add(place)
            elif change.op == "unset":
                draft.remove(place)
            elif change.op == "set":
                draft.put(place, change.value)
            elif change.op == "redact":
                draft.put(place, _redacted(draft.value(place), change, whose, redactor))
            else:
                _refer(document, change, place, draft, references, whose)
    for place in sorted(pulled, reverse=True):  # from the end, so that places keep their meaning
        draft.remove(place)
    return draft.update()


class _Draft:
    """The document with changes, copied only where it is changed."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._before = document
        self._copies: dict[Place, Any] = {(): dict(document)}

    def value(self, place: Place) -> Any:
        found: Any = self._copies[()]
        for step in place:
            found = opened(found)
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return _GONE
        return found

    def put(self, place: Place, value: Any) -> None:
        current = self.value(place)
        if value is _GONE or current is value or (type(current) is type(value) and current == value):
            return
        holder = self._writable(place[:-1])
        if holder is not None:
            holder[place[-1]] = copy.deepcopy(value)

    def remove(self, place: Place) -> None:
        if self.value(place) is not _GONE:
            del self._writable(place[:-1])[place[-1]]

    def _writable(self, place: Place) -> Any:
        if place not in self._copies:
            holder = self._writable(place[:-1])
            current = self.value(place)
            if current is _GONE:
                return None
            self._copies[place] = holder[place[-1]] = copy.copy(opened(current))
        return self._copies[place]

    def update(self) -> Update | None:
        after = self._copies[()]
        changed = {name: value for name, value in after.items() if value is not self._before.get(name, _GONE)}
        gone = {name: "" for name in self._before if name not in after}
        if any("." in name or name.startswith("$") for name in (*changed, *gone)):
            raise UnaddressableFieldError(
                "A document has a top-level field with a dot or a dollar in its name that must change. Rename the field with a "
                "migration, or let the rule delete the document."
            )
        found = {"$set": changed, "$unset": gone}
        return {name: fields for name, fields in found.items() if fields} or None


def _places(document: Mapping[str, Any], change: Change, whose: Whose, redactor: Redactor) -> Iterator[Place]:
    path = steps(change.of if change.op == "reference" and change.of is not None else change.path)
    for place, element in _resolve(document, path, (), document, whose):
        if _meets(element, change.where, whose, redactor):
            yield place


def _resolve(value: Any, rest: tuple[str, ...], at: Place, element: Any, whose: Whose) -> Iterator[tuple[Place, Any]]:
    """Yield the places that a path means, each with the innermost element (or value of any key) it is in."""
    if not rest:
        yield at, element
        return
    value, step = opened(value), rest[0]
    if isinstance(value, list):
        inner = rest[1:] if step == ELEMENTS else rest
        for number, item in enumerate(value):
            yield from _resolve(item, inner, (*at, number), item, whose)
    elif step == ELEMENTS:  # one value where a list is usual: MongoDB's queries make no difference either
        yield from _resolve(value, rest[1:], at, value, whose)
    elif isinstance(value, Mapping):
        for key in whose.keys(step, value):
            inner_element = value[key] if step == ANY or named(step) else element
            yield from _resolve(value[key], rest[1:], (*at, key), inner_element, whose)


def _meets(element: Any, where: Any, whose: Whose, redactor: Redactor) -> bool:
    if where == ANYWHERE:
        return redacted(element, redactor) is not element
    return where is None or is_theirs(element, where, whose)


def _redacted(value: Any, change: Change, whose: Whose, redactor: Redactor) -> Any:
    clean = redacted(value, redactor)
    if change.of is None or not isinstance(clean, str):
        return clean
    instead = REMOVED if change.value is None else change.value
    new = without_names(clean, whose.named(change.of), instead)
    return clean if new == clean else new


def _refer(
    document: Any, change: Change, place: Place, draft: _Draft, references: Mapping[str, str], whose: Whose
) -> None:
    """Put the reference of whoever the value at ``place`` belongs to; nobody of ours, nothing done."""
    for step in place:
        document = opened(document)[step]
    request = whose.anybody(document)
    if request is not None:
        last = place if change.of is None else (*place[:-1], steps(change.path)[-1])
        draft.put(last, references[request])
