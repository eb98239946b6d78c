"""Check a data map as a whole before anything runs, and put its identifiers in the order in which they can be looked up. Pure.

From the subject's identifier every other one must be reachable (addresses -> graph -> traversal, as Fides does); a map with a cycle, a
dead end or a rule that leaves behind what it promises to remove is refused, with all of its faults at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from mongo_ops.erasure.model import STAGES, Change, CollectionEntry, DataMap, Identifier, Retention, Rule, names_of
from mongo_ops.erasure.paths import ANY, ELEMENTS, knows, named, plain, steps
from mongo_ops.erasure.selectors import ANYWHERE, branches, identifier_of
from mongo_ops.errors import PlanError

NEED_GROUND = frozenset({"retain", "pseudonymize"})
COPIES = "ops_before_"
NEED_CHANGES = frozenset({"anonymize", "pseudonymize", "pull"})


class DataMapError(PlanError):
    """The data map is missing or wrong. Says everything that is wrong, and where."""


def order(identifiers: Mapping[str, Identifier], subject: str) -> tuple[Identifier, ...]:
    """Return the identifiers so that each comes after those that it is looked up by, the subject's first.

    Raises:
        DataMapError: an identifier is unknown, cannot be reached from the subject, or needs itself.
    """
    found, wrong = _traverse(identifiers, subject)
    if wrong:
        raise DataMapError("The identifiers lead nowhere:\n  " + "\n  ".join(wrong))
    return found


def check(data_map: DataMap) -> None:
    """Refuse a map that cannot be followed.

    Raises:
        DataMapError: with all faults.
    """
    wrong = faults(data_map)
    if wrong:
        raise DataMapError("The data map cannot be followed:\n  " + "\n  ".join(wrong))


def faults(data_map: DataMap) -> list[str]:
    """Return everything that is wrong with a map, a sentence each."""
    found = list(_traverse(data_map.identifiers, data_map.subject)[1])
    found += [fault for one in data_map.identifiers.values() for fault in _of_identifier(data_map, one)]
    found += [fault for entry in data_map.collections.values() for fault in _of_entry(data_map, entry)]
    found += [fault for rule in data_map.rules for fault in _of_rule(data_map, rule)]
    found += _of_ids(data_map)
    found += _of_stages(data_map)
    found += _of_copies(data_map)
    found += [
        f"waiver {one.path}: `until` must be a day like 2027-01-31"
        for one in data_map.waivers
        if not _is_day(one.until)
    ]
    return found


# Identifiers ------------------------------------------------------------------------------------------------------------


def _traverse(identifiers: Mapping[str, Identifier], subject: str) -> tuple[tuple[Identifier, ...], list[str]]:
    if subject not in identifiers:
        return (), [f"subject {subject} is not among the identifiers"]
    root = identifiers[subject]
    wrong = [f"identifier {subject}: the subject's own identifier needs no `where`"] if root.where else []
    done, rest = {subject: root}, {name: one for name, one in identifiers.items() if name != subject}
    for name, one in list(rest.items()):
        unknown = [needed for needed in names_of(one.where) if needed not in identifiers]
        alone = [branch for branch in branches(one.where) if not _asks(branch)]
        if unknown:
            wrong.append(f"identifier {name}: {', '.join(f'${one}' for one in unknown)} is no identifier")
        elif alone or any(ANYWHERE in branch for branch in branches(one.where)):
            wrong.append(f"identifier {name}: `where` must lead from another $identifier, in each alternative of `any`")
        else:
            continue
        del rest[name]
    while ready := [name for name, one in rest.items() if all(needed in done for needed in names_of(one.where))]:
        done |= {name: rest.pop(name) for name in ready}
    wrong += [
        f"identifier {name}: cannot be reached from ${subject}; it waits for {_waits(one, done)}"
        for name, one in rest.items()
    ]
    return tuple(done.values()), wrong


def _asks(branch: Mapping[str, Any]) -> bool:
    return any(identifier_of(path, condition) is not None for path, condition in branch.items() if path != ANYWHERE)


def _waits(one: Identifier, done: Mapping[str, Identifier]) -> str:
    return " and ".join(f"${name}" for name in names_of(one.where) if name not in done) + " (a circle, or a dead end)"


def _of_identifier(data_map: DataMap, one: Identifier) -> Iterator[str]:
    entry = data_map.collections.get(one.collection)
    if entry is None:
        yield f"identifier {one.name}: the map has no collection {one.collection}"
        return
    yield from _unknown(f"identifier {one.name}", entry, [one.path, *_asked_paths(one.where)])
    if (one.remains or not one.trace) and not one.why.strip():
        yield f"identifier {one.name}: is not traced everywhere, so `why` must say why its value may stay"
    for place in one.remains:
        if not _is_place(data_map, place):
            yield f"identifier {one.name}: remains in {place}, which is no field of the map"
    if one.trace and set(one.types) == {"int"}:
        yield f"identifier {one.name}: an int leaves no trace that can be told from other numbers; set `trace: false` and say why"


# Collections and rules --------------------------------------------------------------------------------------------------


def _of_entry(data_map: DataMap, entry: CollectionEntry) -> Iterator[str]:
    personal = [path for path, note in entry.fields.items() if note.category.startswith("user")]
    waived = any(fnmatchcase(entry.name, one.path) for one in data_map.waivers)
    if personal and not entry.rules and not waived:
        yield f"{entry.name}: classifies {personal[0]} as personal and has no rule; give it one, or a waiver"
    for one in entry.retention:
        yield from _of_retention(entry, one)
    for name in (*entry.recipients, *(name for note in entry.fields.values() for name in note.recipients)):
        if name not in data_map.recipients:
            yield f"{entry.name}: recipient {name} is not among `recipients`"


def _of_retention(entry: CollectionEntry, one: Retention) -> Iterator[str]:
    yield from _unknown(
        f"retention {one.id}", entry, [one.start, *_asked_paths(one.where), *(c.path for c in one.changes)]
    )
    if names_of(one.where) or any(
        names_of(change.where) or change.op in {"reference", "redact"} for change in one.changes
    ):
        yield f"retention {one.id}: goes by age, not by person, so it cannot use $identifiers, reference or redact"
    if (one.action == "delete") is bool(one.changes):
        yield f"retention {one.id}: `anonymize` needs changes, and `delete` has none"


def _of_rule(data_map: DataMap, rule: Rule) -> Iterator[str]:
    entry, where = data_map.collections[rule.collection], f"rule {rule.id}"
    unknown = [name for name in _names(rule) if name not in data_map.identifiers]
    if unknown:
        yield f"{where}: {', '.join(f'${name}' for name in unknown)} is no identifier"
        return
    yield from _of_select(where, rule.select)
    yield from _unknown(where, entry, [*_asked_paths(rule.select), *(change.path for change in rule.changes)])
    yield from _unknown(where, entry, [change.of for change in rule.changes if change.op == "reference" and change.of])
    if rule.action != "delete" and not rule.why.strip():
        yield f"{where}: does not delete, so `why` must say why not"
    if rule.action in NEED_GROUND and rule.ground is None:
        yield f"{where}: keeps something about a person, so it needs a `ground` (basis, purpose, owner)"
    if bool(rule.changes) is not (rule.action in NEED_CHANGES):
        yield f"{where}: {rule.action} {'needs changes' if rule.action in NEED_CHANGES else 'takes no changes'}"
    if rule.action == "pull" and not any(change.op == "pull" for change in rule.changes):
        yield f"{where}: pull needs a change with `op: pull`"
    for change in rule.changes:
        yield from _of_change(f"{where}, change of {change.path}", data_map, change)
    yield from _left_behind(data_map, rule)


def _of_select(where: str, select: Mapping[str, Any]) -> Iterator[str]:
    for branch in branches(select):
        if ANYWHERE in branch:
            if _asks(branch) or len(branches(select)) > 1:
                yield f"{where}: `anywhere` stands with constants only, not with $identifiers or `any`"
        elif not _asks(branch):
            yield f"{where}: selects by no $identifier, so everybody's documents; each alternative of `any` needs one"
        for path in _asked_paths(branch):
            parts = steps(path)
            if (ELEMENTS, ELEMENTS) in pairwise(parts) or ANY in parts:
                yield f"{where}: {path} cannot be asked for; queries reach neither arrays in arrays nor any key. Use `anywhere`"
            if any(named(step) for step in parts[:-1]) or (named(parts[-1]) and ELEMENTS in parts):
                yield f"{where}: {path}: a key that is an identifier must come last, and not below an array. Use `anywhere`"


def _of_change(where: str, data_map: DataMap, change: Change) -> Iterator[str]:
    parts = steps(change.path)
    if parts[0] == "_id":
        yield f"{where}: an _id cannot be changed; delete the document"
    if change.where is not None and ELEMENTS not in parts and ANY not in parts and not any(map(named, parts)):
        yield f"{where}: `where` is about elements, and the path goes through no array"
    if change.op == "pull" and parts[-1] != ELEMENTS:
        yield f"{where}: pull needs a path that ends in []"
    if change.op == "unset" and parts[-1] == ELEMENTS:
        yield f"{where}: an element cannot be unset without a hole; use pull"
    if change.op == "redact" and change.of is not None and change.of not in data_map.identifiers:
        yield f"{where}: redact takes the name of an identifier as `of`"
    if change.op == "reference" and change.of is not None and steps(change.of)[:-1] != parts[:-1]:
        yield f"{where}: `of` must stand beside the path that gets the reference"
    if change.of is not None and change.op not in {"reference", "redact"}:
        yield f"{where}: `of` is for reference and redact"
    if change.value is not None and change.op not in {"set", "redact"}:
        yield f"{where}: `value` is for set and redact"


def _left_behind(data_map: DataMap, rule: Rule) -> Iterator[str]:
    """Name traced identifiers, and the subject's own, that lead to the document and would still stand in it afterwards."""
    if rule.action in {"delete", "retain"}:
        return
    for branch in branches(rule.select):
        for path, condition in branch.items():
            name = None if path == ANYWHERE else identifier_of(path, condition)
            identifier = None if name is None else data_map.identifiers[name]
            if identifier is None or f"{rule.collection}.{path}" in identifier.remains:
                continue
            if not identifier.trace and identifier.name != data_map.subject:
                continue
            if not any(_removes(change, path) for change in rule.changes):
                yield f"rule {rule.id}: selects by {path}, and no change takes ${name} out of it"
        if ANYWHERE in branch and not any(change.op == "redact" or change.where == ANYWHERE for change in rule.changes):
            yield f"rule {rule.id}: selects by anywhere, and no change redacts"


def _removes(change: Change, path: str) -> bool:
    """Say whether a change takes out what stands at a path: it is about the path itself, or about what it is in."""
    if change.op == "reference" and change.of is not None:
        return False
    changed = tuple(step for step in steps(change.path) if step != ELEMENTS)
    asked = tuple(step for step in steps(path) if step != ELEMENTS)
    return len(changed) <= len(asked) and all(
        mine in {theirs, ANY} for mine, theirs in zip(changed, asked, strict=False)
    )


# The map as a whole -----------------------------------------------------------------------------------------------------


def _of_ids(data_map: DataMap) -> Iterator[str]:
    for kind, ids in (
        ("rule", [rule.id for rule in data_map.rules]),
        ("retention", [one.id for entry in data_map.collections.values() for one in entry.retention]),
    ):
        yield from (f"{kind} {one}: the id is there twice" for one in dict.fromkeys(ids) if ids.count(one) > 1)


def _of_stages(data_map: DataMap) -> Iterator[str]:
    """What an identifier is read from must not go before what needs the identifier."""
    root = data_map.identifiers.get(data_map.subject)
    if root is None:
        return
    own = [rule for rule in data_map.rules if rule.collection == root.collection]
    if not own:
        yield f"{root.collection}: holds the people themselves and has no rule"
    yield from (
        f"rule {rule.id}: {root.collection} holds the people themselves, so its stage is root"
        for rule in own
        if rule.stage != "root"
    )
    for source in (rule for rule in data_map.rules if rule.action == "delete"):
        read = {one.name for one in data_map.identifiers.values() if one.collection == source.collection}
        for rule in data_map.rules:
            used = sorted(read & set(_names(rule)))
            if used and STAGES.index(rule.stage) > STAGES.index(source.stage):
                yield f"rule {source.id}: deletes where ${used[0]} is read from, before rule {rule.id} has used it; give it stage {rule.stage}"


def _of_copies(data_map: DataMap) -> Iterator[str]:
    """Migrations keep copies under the documents' own keys. Where such a key is not traced, only a rule finds the copy."""
    for entry in data_map.collections.values():
        if not fnmatchcase(f"{COPIES}1", entry.name):
            continue
        asked = {name for rule in entry.rules for name in names_of(rule.select)}
        for one in data_map.identifiers.values():
            if one.path == "_id" and not one.trace and one.name not in asked:
                yield f"{entry.name}: a copy of a document of {one.collection} stands under its _id, and ${one.name} is not traced; add a rule that selects by it"


def _names(rule: Rule) -> tuple[str, ...]:
    found = [*names_of(rule.select)]
    for change in rule.changes:
        found += names_of(change.where) if change.where != ANYWHERE else ()
        found += [name for step in steps(change.path) if (name := named(step)) is not None]
    return tuple(dict.fromkeys(found))


def _asked_paths(select: Mapping[str, Any]) -> list[str]:
    return [path for branch in branches(select) for path in branch if path != ANYWHERE]


def _unknown(where: str, entry: CollectionEntry, paths: list[str]) -> Iterator[str]:
    for path in dict.fromkeys(paths):
        if not knows(entry.fields, path) and not _known_without_marks(entry, path):
            yield f"{where}: {entry.name}.{path} is not among its fields"


def _is_place(data_map: DataMap, place: str) -> bool:
    return any(
        place.startswith(f"{name}.") and knows(entry.fields, place.removeprefix(f"{name}."))
        for name, entry in data_map.collections.items()
    )


def _known_without_marks(entry: CollectionEntry, path: str) -> bool:
    """Say whether a field matches but for ``[]``: queries go through arrays without a mark."""
    return ELEMENTS not in path and any(plain(one) == path for one in entry.fields)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
