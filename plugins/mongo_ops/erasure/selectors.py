"""Selections of a data map: as MongoDB filters for many people at once, and as the question whose a document is. Pure.

A selection is a mapping of conditions that must all hold, by path: ``$name`` (a value of that identifier), a constant or a list of
constants, ``{"exists": bool}``, ``{"not": constant or list}``. The path ``likes.{name}`` with ``exists`` asks for a key that is an
identifier's value. ``any`` is a list of selections of which one must hold. ``anywhere`` names identifiers that may stand at any place
of a document; such a selection has no filter and is matched by a walk through whole documents.

A value of a closure is data: it is only ever compared, so a text like ``{"$ne": null}`` selects the documents that hold this text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mongo_ops.erasure.forms import Forms, Key, forms, key_in, key_of, texts
from mongo_ops.erasure.model import Identifier
from mongo_ops.erasure.paths import ELEMENTS, joined, named, opened, plain, reached, steps

__all__ = ["applies", "branches", "conditions", "filter_for", "forms", "indexed", "is_anywhere", "lead", "owners"]

Select = Mapping[str, Any]
Pairs = tuple[tuple[tuple[str, ...], Any], ...]
Whose = Mapping[tuple[str, Key], Collection[str]]
ANYWHERE = "anywhere"
OR = "any"
EXISTS = "exists"
NOT = "not"


def is_anywhere(select: Select) -> bool:
    """Say whether whole documents must be walked through. ``conditions`` says which documents at all."""
    return any(ANYWHERE in branch for branch in branches(select))


def branches(select: Select) -> tuple[Select, ...]:
    """Return the selections without ``any`` of which one must hold: each alternative with what stands beside it."""
    base = {path: condition for path, condition in select.items() if path != OR}
    if OR not in select:
        return (base,)
    return tuple({**base, **branch} for one in select[OR] for branch in branches(one))


def identifier_of(path: str, condition: Any) -> str | None:
    """Return the identifier that a condition asks for, in a value or in a key; None for a constant."""
    if isinstance(condition, str) and condition.startswith("$"):
        return condition[1:]
    return named(steps(path)[-1]) if path not in {ANYWHERE, OR} else None


def filter_for(
    select: Select, closures: Mapping[str, Sequence[Any]], identifiers: Mapping[str, Identifier]
) -> dict[str, Any] | None:
    """Return the filter of every document that the selection names for any of the values.

    Args:
        select: the selection.
        closures: identifier -> values, of one person or of many.
        identifiers: the data map's.

    Returns:
        None when nothing can match: no value, or a selection that needs a walk (``is_anywhere``). With several people and a selection
        by two identifiers it also matches documents that mix them: ``owners`` says whose a document really is.
    """
    found = []
    for branch in branches(select):
        query = _filter(branch, closures, identifiers)
        if query is not None and query not in found:
            found.append(query)
    if not found:
        return None
    return found[0] if len(found) == 1 else {"$or": found}


def conditions(select: Select) -> dict[str, Any]:
    """Return the filter of what a selection demands whoever the person is; empty when it demands nothing. For ``anywhere``."""
    alternatives = [
        _query(
            _pairs((path, c) for path, c in branch.items() if path != ANYWHERE and identifier_of(path, c) is None), {}
        )
        for branch in branches(select)
    ]
    if {} in alternatives:
        return {}
    return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}


def applies(document: Any, select: Select) -> bool:
    """Say whether a document meets what a selection demands whoever the person is (``conditions``, without a server)."""
    return any(
        all(
            holds(document, path, condition)
            for path, condition in branch.items()
            if path != ANYWHERE and identifier_of(path, condition) is None
        )
        for branch in branches(select)
    )


def holds(document: Any, path: str, condition: Any) -> bool:
    """Say whether a condition without an identifier holds."""
    found = list(reached(document, path))
    if isinstance(condition, Mapping):
        if EXISTS in condition:
            return bool(found) is condition[EXISTS]
        return not _equal_to_any(found, condition[NOT])
    return _equal_to_any(found, condition)


def lead(select: Select, identifiers: Mapping[str, Identifier]) -> tuple[str, str] | None:
    """Return the path, as an index names it, and the identifier that lead to the documents.

    None where no single one does: give the ``branches`` of a selection with alternatives one by one; a key that is an identifier's
    value, and ``anywhere``, no index can lead to.
    """
    if OR in select or ANYWHERE in select:
        return None
    for path, condition in select.items():
        name = identifier_of(path, condition)
        if name is not None and name in identifiers and named(steps(path)[-1]) is None:
            return plain(path), name
    return None


def indexed(select: Select, keys: Iterable[Sequence[str]], identifiers: Mapping[str, Identifier]) -> bool:
    """Say whether an index leads to the documents of every alternative: only constants may stand before the leading path.

    Args:
        select: the selection.
        keys: the fields of each index that holds every document with a value (so: no partial ones, none with a collation).
        identifiers: the data map's.
    """
    known = [tuple(one) for one in keys]
    return all(_served(branch, known, identifiers) for branch in branches(select))


def owners(document: Any, select: Select, index: Whose) -> set[str]:
    """Return the requests that a document belongs to by a selection; several when several people's values lead to it.

    Every condition must hold for the same person. ``index`` is what ``forms.index_of`` returns. ``anywhere`` is not looked at: a
    walk answers that.
    """
    found: set[str] = set()
    for branch in branches(select):
        if ANYWHERE not in branch:
            found |= _owners(document, _pairs(branch.items()), index) or set()
    return found


def _served(branch: Select, keys: Iterable[tuple[str, ...]], identifiers: Mapping[str, Identifier]) -> bool:
    leading = lead(branch, identifiers)
    if leading is None:
        return False
    constant = {
        plain(path)
        for path, condition in branch.items()
        if identifier_of(path, condition) is None and not isinstance(condition, Mapping)
    }
    for fields in keys:
        before = next((place for place, field in enumerate(fields) if field not in constant), len(fields))
        if leading[0] in fields[: before + 1]:
            return True
    return False


def _pairs(items: Iterable[tuple[str, Any]]) -> Pairs:
    return tuple((steps(path), condition) for path, condition in items)


def _filter(
    branch: Select, closures: Mapping[str, Sequence[Any]], identifiers: Mapping[str, Identifier]
) -> dict[str, Any] | None:
    if ANYWHERE in branch:
        return None
    asked = {name for path, c in branch.items() if (name := identifier_of(path, c)) is not None}
    values: dict[str, tuple[list[Any], list[str]]] = {}
    if not asked:  # a selection of nobody must never become one of everybody
        return None
    for name in asked:
        identifier = identifiers[name]
        known = closures.get(name, ())
        some = known if isinstance(known, Forms) else [form for value in known for form in forms(identifier, value)]
        if not some:
            return None
        in_keys = known if any(named(steps(path)[-1]) == name for path in branch) else ()
        keys = dict.fromkeys(text for value in in_keys for text in texts(identifier, value))
        values[name] = (list({key_of(form): form for form in some}.values()), list(keys))
    return _query(_pairs(branch.items()), values)


def _query(pairs: Pairs, values: Mapping[str, tuple[list[Any], list[str]]]) -> dict[str, Any]:
    """Put conditions together; those on elements of the same array must hold for the same element."""
    parts: list[dict[str, Any]] = []
    for prefix, group in _grouped(pairs):
        if len(group) > 1:
            inner = _query(tuple((path[len(prefix) :], condition) for path, condition in group), values)
            parts.append({plain(joined(prefix)): {"$elemMatch": inner}})
        else:
            parts.append(_single(*group[0], values))
    merged: dict[str, Any] = {}
    for part in parts:
        if merged.keys() & part.keys():
            return {"$and": parts}
        merged |= part
    return merged


def _grouped(pairs: Pairs) -> Iterator[tuple[tuple[str, ...], Pairs]]:
    """Yield conditions by the array whose elements they are about (its path up to ``[]``), others alone."""
    groups: dict[Any, list[tuple[tuple[str, ...], Any]]] = {}
    for number, (path, condition) in enumerate(pairs):
        inside = ELEMENTS in path[:-1]
        groups.setdefault(path[: path.index(ELEMENTS) + 1] if inside else (number,), []).append((path, condition))
    for prefix, group in groups.items():
        yield prefix, tuple(group)


def _single(path: tuple[str, ...], condition: Any, values: Mapping[str, tuple[list[Any], list[str]]]) -> dict[str, Any]:
    field = plain(joined(path))
    in_key = named(path[-1])
    if in_key is not None:
        return _with_key(plain(joined(path[:-1])), values[in_key][1])
    if isinstance(condition, str) and condition.startswith("$"):
        return {field: {"$in": values[condition[1:]][0]}}
    if isinstance(condition, Mapping):
        if EXISTS in condition:
            return {field: {"$exists": condition[EXISTS]}}
        return {field: {"$nin": _listed(condition[NOT])}}
    return {field: {"$in": list(condition)} if isinstance(condition, list | tuple) else {"$eq": condition}}


def _with_key(field: str, keys: list[str]) -> dict[str, Any]:
    """Return the filter of documents with one of the keys. As an expression: a key may hold dots and dollars (an e-mail address)."""
    holder = {"$cond": [{"$eq": [{"$type": f"${field}"}, "object"]}, {"$objectToArray": f"${field}"}, []]}
    there = {"$map": {"input": holder, "in": "$$this.k"}}
    return {"$expr": {"$gt": [{"$size": {"$setIntersection": [there, {"$literal": keys}]}}, 0]}}


def _owners(value: Any, pairs: Pairs, index: Whose) -> set[str] | None:
    """Return whose a value is; None when nothing asked for anybody and all constants hold."""
    found: set[str] | None = None
    for prefix, group in _grouped(pairs):
        some = _owners_of_group(value, prefix, group, index)
        if some is not None:
            found = some if found is None else found & some
            if not found:
                return set()
    return found


def _owners_of_group(value: Any, prefix: tuple[str, ...], group: Pairs, index: Whose) -> set[str] | None:
    if len(group) == 1:
        return _owners_of_one(value, *group[0], index)
    inner = tuple((path[len(prefix) :], condition) for path, condition in group)
    found: set[str] = set()
    anybody = False
    arrays = (one for one in reached(value, joined(prefix)) if isinstance(one, list))
    for element in (opened(element) for array in arrays for element in array):
        if isinstance(element, Mapping):
            some = _owners(element, inner, index)
            found |= some or set()
            anybody = anybody or some is None
    return None if anybody and not found else found


def _owners_of_one(value: Any, path: tuple[str, ...], condition: Any, index: Whose) -> set[str] | None:
    in_key = named(path[-1])
    if in_key is not None:
        holders = reached(value, joined(path[:-1]))
        keys = [key_in(key) for holder in holders if isinstance(one := opened(holder), Mapping) for key in one]
        return _of(in_key, keys, index)
    if isinstance(condition, str) and condition.startswith("$"):
        return _of(condition[1:], map(key_of, reached(value, joined(path))), index)
    return None if holds(value, joined(path), condition) else set()


def _of(name: str, keys: Iterable[Key | None], index: Whose) -> set[str]:
    return {request for key in keys if key is not None for request in index.get((name, key), ())}


def _equal_to_any(found: Iterable[Any], constants: Any) -> bool:
    wanted = {key_of(constant) for constant in _listed(constants)}
    return any(key in wanted for value in found if (key := key_of(value)) is not None)


def _listed(constant: Any) -> list[Any]:
    return list(constant) if isinstance(constant, list | tuple) else [constant]
