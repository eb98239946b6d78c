"""Whom an export's filter names: the references that go into its manifest, so that the export is known to be about these people. Pure.

Only what a rule of the data map leads to by the subject's own identifier is known; an export of everybody names nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.model import DataMap, Rule
from mongo_ops.erasure.paths import plain
from mongo_ops.erasure.references import NoReferenceError, subject_reference
from mongo_ops.erasure.selectors import branches, identifier_of
from mongo_ops.erasure.survey import means


def subjects_named(
    data_map: DataMap, keyring: Keyring, collections: Iterable[str], where: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return, for each collection, the references of the people whom a filter names there; collections without any are left out.

    Args:
        data_map: whose rules say which paths lead to a person.
        keyring: without a key for `subject` nobody is known.
        collections: names.
        where: the filter, for all of them.
    """
    if not keyring.keys.get("subject"):
        return {}
    found = {}
    for name in collections:
        paths = {path for rule in data_map.rules if means(rule, name) for path in _paths(rule, data_map.subject)}
        values = (value for path in sorted(paths) for value in _values(where, path))
        references = {one for value in values for one in _reference(keyring, data_map.subject, value)}
        if references:
            found[name] = sorted(references)
    return found


def _paths(rule: Rule, subject: str) -> Iterator[str]:
    """Yield the paths at which a rule looks for the subject's identifier as a value."""
    for branch in branches(rule.select):
        for path, condition in branch.items():
            if isinstance(condition, str) and identifier_of(path, condition) == subject:
                yield plain(path)


def _values(where: Mapping[str, Any], path: str) -> Iterator[Any]:
    """Yield the values that a filter demands at a path."""
    for one in where.get("$and", ()):
        yield from _values(one, path)
    if path not in where:
        return
    condition = where[path]
    if not isinstance(condition, Mapping):
        yield condition
        return
    yield from condition.get("$in", ())
    if "$eq" in condition:
        yield condition["$eq"]


def _reference(keyring: Keyring, subject: str, value: Any) -> Iterator[str]:
    try:
        yield subject_reference(keyring, subject, value)
    except NoReferenceError:  # null, a pattern: it names nobody
        return
