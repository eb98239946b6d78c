"""Field paths, filters and updates as data: which fields they name, what is wrong with them, whom they reach.

Operations on a path work on plain embedded documents only. Through an array one path names many values, which can be
neither counted nor put back by that path; such documents are counted and refused instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mongo_ops.migrations.operations.base import Fault

Filter = Mapping[str, Any]
Update = Mapping[str, Any] | Sequence[Mapping[str, Any]]

OPERATORS = frozenset(
    [
        "$set",
        "$unset",
        "$inc",
        "$mul",
        "$min",
        "$max",
        "$rename",
        "$currentDate",
        "$push",
        "$pull",
        "$pullAll",
        "$addToSet",
        "$pop",
        "$bit",
    ]
)
STAGES = frozenset(["$set", "$addFields", "$unset", "$project", "$replaceWith", "$replaceRoot"])
JAVASCRIPT = frozenset({"$where", "$function", "$accumulator"})


def both(*filters: Filter) -> dict[str, Any]:
    """Return a filter for the documents that match all of the filters, empty ones left out."""
    some = [dict(one) for one in filters if one]
    return {"$and": some} if len(some) > 1 else dict(*some)


def parents(path: str) -> list[str]:
    """Return the paths above ``path``, outermost first: ``a.b.c`` gives ``a`` and ``a.b``."""
    parts = path.split(".")
    return [".".join(parts[:size]) for size in range(1, len(parts))]


def is_plain(path: str) -> dict[str, Any]:
    """Select documents in which ``path`` is an embedded document, not an array of some."""
    return {path: {"$type": "object", "$not": {"$type": "array"}}}


def has(path: str) -> dict[str, Any]:
    """Select documents that have the path, reached through embedded documents only."""
    return both({path: {"$exists": True}}, *(is_plain(parent) for parent in parents(path)))


def lacks(path: str) -> dict[str, Any]:
    """Select documents that lack the path and in which it could be set."""
    open_parents = ({"$or": [{parent: {"$exists": False}}, is_plain(parent)]} for parent in parents(path))
    return both({path: {"$exists": False}}, *open_parents)


def through_array(path: str) -> dict[str, Any] | None:
    """Select documents that have the path inside an array; None when the path has no parent."""
    arrays = [{parent: {"$type": "array"}} for parent in parents(path)]
    return both({path: {"$exists": True}}, {"$or": arrays}) if arrays else None


def blocked(path: str) -> dict[str, Any] | None:
    """Select documents in which a parent of the path is there but is no embedded document; None without a parent."""
    ways = [
        way
        for parent in parents(path)
        for way in ({parent: {"$exists": True, "$not": {"$type": "object"}}}, {parent: {"$type": "array"}})
    ]
    return {"$or": ways} if ways else None


def names_in(where: Filter) -> list[str]:
    """Return the fields that a filter names, sorted, without any value."""
    found: set[str] = set()
    for key, value in where.items():
        if key in ("$and", "$or", "$nor"):
            found.update(name for part in value for name in names_in(part))
        else:
            found.add(key)
    return sorted(found)


def where_clause(where: Filter) -> str:
    """Return the filter for a description: the fields it names, never its values."""
    return f" where {', '.join(names_in(where))} match" if where else ""


def touched_fields(update: Update) -> tuple[str, ...] | None:
    """Return the top-level fields that an update can change, sorted; None when that may be any field."""
    paths = list(_paths(update))
    if any(path is None for path in paths):
        return None
    return tuple(sorted({path.partition(".")[0] for path in paths if path}))


def _paths(update: Update) -> Iterator[str | None]:
    if isinstance(update, Mapping):
        for operator, fields in update.items():
            yield from fields if operator in OPERATORS else [None]
            yield from fields.values() if operator == "$rename" else []
        return
    for stage in update:
        for name, spec in stage.items():
            yield from _stage_paths(name, spec)


def _stage_paths(name: str, spec: Any) -> Iterable[str | None]:
    if name in ("$set", "$addFields"):
        return list(spec)
    if name == "$unset":
        return [spec] if isinstance(spec, str) else list(spec)
    if name == "$project" and all(value is False or value == 0 for value in spec.values()):
        return list(spec)
    return [None]


def path_faults(path: str) -> Iterator[Fault]:
    """Yield what is wrong with a field path."""
    parts = path.split(".")
    if not all(parts) or any(part.startswith("$") or "\0" in part for part in parts):
        yield Fault("MO303", f"{path!r} is no field path: parts must not be empty or start with '$'.")
    if any(part.isdigit() for part in parts):
        yield Fault("MO303", f"{path!r} names an array element; use Backfill with revert='snapshot' for arrays.")
    if parts[0] == "_id":
        yield Fault("MO304", "_id cannot be changed; copy the documents instead.")


def update_faults(update: Update) -> Iterator[Fault]:
    """Yield what is wrong with an update, operators or pipeline."""
    if not update or (isinstance(update, Mapping) and not all(update.values())):
        yield Fault("MO302", "The update is empty.")
        return
    named = [key for part in ([update] if isinstance(update, Mapping) else update) for key in part]
    allowed = OPERATORS if isinstance(update, Mapping) else STAGES
    for name in named:
        if name not in allowed:
            yield Fault("MO308", f"{name!r} is no update {'operator' if isinstance(update, Mapping) else 'stage'}.")
    if "_id" in (touched_fields(update) or ()):
        yield Fault("MO304", "_id cannot be changed; copy the documents instead.")
    yield from javascript_faults(update)


def javascript_faults(value: Any) -> Iterator[Fault]:
    """Yield a fault when a filter, an expression or an update runs JavaScript on the server."""
    found = sorted(_keys(value) & JAVASCRIPT)
    if found:
        yield Fault(
            "MO305", f"{found[0]} runs JavaScript on the server: slow, and often switched off. Use an expression."
        )


def _keys(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {str(key) for key in value}.union(*(_keys(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return set[str]().union(*(_keys(item) for item in value))
    return set()
