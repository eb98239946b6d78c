"""Look at a database the way a plan needs it: which collections a rule means, how many documents, what stands in the way. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.erasure.model import Finding, Rule, RuleCount
from mongo_ops.erasure.paths import plain
from mongo_ops.erasure.selectors import branches, conditions, filter_for, indexed, is_anywhere

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.work import Work
    from mongo_ops.mongo.documents import Document

CHUNK, PEOPLE_IN_A_WALK = 500, 10_000
"""People whose identifiers go into one filter: where an index leads to their documents, and where a collection is walked."""

SAMPLE = 20
LARGEST_BATCH, BATCH_BYTES = 5_000, 8 * 1024 * 1024
"""What one transaction may change: documents, and about how many bytes of them."""

LARGE = 1_000


@dataclass(frozen=True)
class Unique:
    """A unique index: its fields, whether it leaves out documents with none of them, and which documents it is about."""

    fields: tuple[str, ...]
    sparse: bool
    only: Mapping[str, Any]


@dataclass(frozen=True)
class Collection:
    """What a plan must know of a collection."""

    name: str
    kind: str
    documents: int
    keys: tuple[tuple[str, ...], ...]
    unique: tuple[Unique, ...]
    validator: Mapping[str, Any]
    pre_images: bool


def collections(db: Database[Document], rules: Sequence[Rule]) -> dict[str, Collection]:
    """Return the collections that these rules mean and that are there, by name."""
    found: dict[str, Collection] = {}
    for info in db.list_collections():
        name = info["name"]
        if any(means(rule, name) for rule in rules):
            found[name] = _look(db, info)
    return found


def means(rule: Rule, name: str) -> bool:
    """Say whether a rule is about a collection."""
    if rule.collection.endswith("*"):
        return name.startswith(rule.collection[:-1])
    return rule.collection == name


def _look(db: Database[Document], info: Mapping[str, Any]) -> Collection:
    name, options = info["name"], info.get("options", {})
    kind = "capped" if options.get("capped") else str(info["type"])
    specs = list(db[name].list_indexes()) if kind in {"collection", "capped"} else []
    hampered = {"partialFilterExpression", "collation", "hidden"}
    whole = [spec for spec in specs if hampered.isdisjoint(spec)]
    return Collection(
        name=name,
        kind=kind,
        documents=db[name].estimated_document_count() if kind != "view" else 0,
        keys=tuple(
            tuple(spec["key"]) for spec in whole if all(isinstance(way, int | float) for way in spec["key"].values())
        ),
        unique=tuple(
            Unique(tuple(spec["key"]), spec.get("sparse", False), spec.get("partialFilterExpression", {}))
            for spec in specs
            if spec.get("unique")
        ),
        validator=options.get("validator", {}),
        pre_images=bool(options.get("changeStreamPreAndPostImages", {}).get("enabled")),
    )


def largest_batch(db: Database[Document], name: str) -> int:
    """Return how many documents of average size one transaction may change."""
    try:
        found = list(
            db[name].aggregate(
                [{"$collStats": {"storageStats": {}}}, {"$project": {"size": "$storageStats.avgObjSize"}}]
            )
        )
    except OperationFailure:  # no right to see it
        return LARGEST_BATCH
    size = max((float(one.get("size") or 0) for one in found), default=0)
    return max(1, min(LARGEST_BATCH, int(BATCH_BYTES / max(size, 1))))


def count(work: Work, rule: Rule, there: Mapping[str, Collection]) -> RuleCount:
    """Count what a rule selects now, in all the collections that it means."""
    meant = [one for name, one in there.items() if means(rule, name)]
    documents = sum(_count(work, rule, one) for one in meant)
    served = bool(meant) and all(indexed(rule.select, one.keys, work.data_map.identifiers) for one in meant)
    return RuleCount(rule.id, rule.action, rule.stage, documents, served and not is_anywhere(rule.select))


def _count(work: Work, rule: Rule, one: Collection) -> int:
    collection = work.db[one.name]
    if is_anywhere(rule.select):
        return work.haystack.walk(collection, where=conditions(rule.select), names=anywhere_names(rule)).documents
    return sum(collection.count_documents(query) for query in queries(work, rule, one))


def queries(work: Work, rule: Rule, one: Collection) -> Iterator[dict[str, Any]]:
    """Yield the filters of what a rule selects for all people: many where an index leads there, as few as can be where it is a walk."""
    served = indexed(rule.select, one.keys, work.data_map.identifiers)
    for some in work.closures(CHUNK if served else PEOPLE_IN_A_WALK):
        query = filter_for(rule.select, some, work.data_map.identifiers)
        if query is not None:
            yield query


def met(work: Work, there: Mapping[str, Collection]) -> set[str]:
    """Return the requests for which any rule that looks for values selects anything."""
    found: set[str] = set()
    for rule in (rule for rule in work.data_map.rules if not is_anywhere(rule.select)):
        for one in (one for name, one in there.items() if means(rule, name)):
            for query in queries(work, rule, one):
                for document in work.db[one.name].find(query, shown(rule)):
                    found |= work.owners(document, rule)
    return found


def shown(rule: Rule) -> dict[str, int]:
    """Return the top-level fields by which a document is attributed to people."""
    paths = (path for branch in branches(rule.select) for path in branch)
    return {"_id": 1} | {plain(path).partition(".")[0]: 1 for path in paths}


def anywhere_names(rule: Rule) -> frozenset[str]:
    """Return the identifiers that an ``anywhere`` selection looks for."""
    return frozenset(map(str, rule.select.get("anywhere", ())))


def obstacles(work: Work, counts: Sequence[RuleCount], there: Mapping[str, Collection]) -> Iterator[Finding]:
    """Name what would stop the run half-way, and what a person should know."""
    for counted in counts:
        rule = work.data_map.rule(counted.rule)
        meant = [one for name, one in there.items() if means(rule, name)]
        if not meant and not rule.collection.endswith("*"):
            yield Finding(rule.collection, f"The collection is not there, so rule {rule.id} has nothing to do.")
        if not counted.documents or (rule.action == "retain" and not rule.changes):
            continue
        for one in meant:
            yield from _of_collection(work, rule, one)
            yield from _of_size(work, counted, one)
    for one in there.values():
        if one.pre_images:
            yield Finding(
                one.name,
                "It keeps pre-images for change streams: erased documents stay readable there until they expire.",
            )


def _of_collection(work: Work, rule: Rule, one: Collection) -> Iterator[Finding]:
    if one.kind != "collection":
        sentence = f"It is a {one.kind}: documents of it cannot be erased in a transaction. Point rule {rule.id} to its source, or move the data."
        yield Finding(one.name, sentence, stops=True)
        return
    changed = {plain(change.path).partition(".")[0] for change in rule.changes}
    for index in one.unique:
        if index.fields != ("_id",) and any(key.partition(".")[0] in changed for key in index.fields):
            yield from _of_unique(work, rule, one, index)
    if rule.changes and one.validator:
        yield from _of_validator(work, rule, one)


def _of_unique(work: Work, rule: Rule, one: Collection, index: Unique) -> Iterator[Finding]:
    """A constant can be there once only; a second erasure would collide. What an index leaves out cannot."""
    ops = {plain(change.path): change.op for change in rule.changes}
    now = {_op_at(ops, name) for name in index.fields}
    if not now <= {"set", "unset"} or (index.sparse and now == {"unset"}):
        return
    if index.only and not _matching(work, _changed_samples(work, rule, one, {}), index.only):
        return
    sentence = f"Rule {rule.id} puts the same value into every document of the unique index on {', '.join(index.fields)}; the second one would be refused. Delete instead, or make the index partial."
    yield Finding(one.name, sentence, stops=True)


def _op_at(ops: Mapping[str, str], field: str) -> str | None:
    """Return what happens to a field, or to what it is in."""
    parts = field.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((ops[path] for path in above if path in ops), None)


def _of_validator(work: Work, rule: Rule, one: Collection) -> Iterator[Finding]:
    """Try the changes on a few documents and ask the server whether its validator would have the result."""
    after = _changed_samples(work, rule, one, one.validator)
    broken = len(after) - _matching(work, after, one.validator)
    if broken:
        sentence = f"What rule {rule.id} leaves of a document breaks the validator ({broken} of {len(after)} tried). Change the rule, or relax the validator with a migration."
        yield Finding(one.name, sentence, stops=True)


def _changed_samples(work: Work, rule: Rule, one: Collection, where: Mapping[str, Any]) -> list[Document]:
    """Return what a rule would leave of a few documents."""
    query = next(queries(work, rule, one), None)
    before = work.db[one.name].find({"$and": [query, where]}).limit(SAMPLE) if query is not None else ()
    return [work.changed(document, rule) for document in before]


def _matching(work: Work, documents: Sequence[Document], query: Mapping[str, Any]) -> int:
    """Ask the server how many documents, which are not stored, a filter would match."""
    if not documents:
        return 0
    try:
        return len(
            list(
                work.db.aggregate(
                    [{"$documents": {"$literal": list(documents)}}, {"$match": query}, {"$project": {"_id": 1}}]
                )
            )
        )
    except OperationFailure:  # a server before 5.1 cannot look at documents that are not stored
        return len(documents)


def _of_size(work: Work, counted: RuleCount, one: Collection) -> Iterator[Finding]:
    limits, people = work.data_map.limits, max(1, len(work.subjects))
    if counted.documents > limits.documents_per_subject * people:
        yield Finding(
            one.name,
            f"Rule {counted.rule} selects {counted.documents:,} documents for {people:,} people, above the limit of {limits.documents_per_subject:,} each (data_map.yaml, limits).",
            stops=True,
        )
    if one.documents >= LARGE and counted.documents > limits.share * one.documents and work.is_small:
        yield Finding(
            one.name,
            f"Rule {counted.rule} selects {counted.documents:,} of {one.documents:,} documents, above the limit of {100 * limits.share:.0f} % (data_map.yaml, limits).",
            stops=True,
        )
