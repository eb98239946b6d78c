"""Look at a database the way a plan needs it: which collections a rule means, how many documents, what stands in the way. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from mongo_ops.erasure.model import DataMap, Finding, Rule, RuleCount
from mongo_ops.erasure.paths import plain
from mongo_ops.erasure.selectors import conditions, filter_for, indexed, is_anywhere

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.work import Work
    from mongo_ops.mongo.documents import Document

CHUNK = 500
SAMPLE = 20
LARGE = 1_000


@dataclass(frozen=True)
class Collection:
    """What a plan must know of a collection."""

    name: str
    kind: str
    documents: int
    keys: tuple[tuple[str, ...], ...]
    unique: tuple[tuple[str, ...], ...]
    validator: Mapping[str, Any]
    pre_images: bool


def collections(db: Database[Document], data_map: DataMap) -> dict[str, Collection]:
    """Return the collections that rules mean and that are there, by name."""
    found: dict[str, Collection] = {}
    for info in db.list_collections():
        name = info["name"]
        if any(means(rule, name) for rule in data_map.rules):
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
    whole = [spec for spec in specs if "partialFilterExpression" not in spec and "collation" not in spec]
    return Collection(
        name=name,
        kind=kind,
        documents=db[name].estimated_document_count() if kind != "view" else 0,
        keys=tuple(
            tuple(spec["key"]) for spec in whole if all(isinstance(way, int | float) for way in spec["key"].values())
        ),
        unique=tuple(tuple(spec["key"]) for spec in specs if spec.get("unique")),
        validator=options.get("validator", {}),
        pre_images=bool(options.get("changeStreamPreAndPostImages", {}).get("enabled")),
    )


def count(work: Work, rule: Rule, there: Mapping[str, Collection]) -> RuleCount:
    """Count what a rule selects now, in all the collections that it means."""
    meant = [one for name, one in there.items() if means(rule, name)]
    documents = sum(_count(work, rule, one.name) for one in meant)
    served = bool(meant) and all(indexed(rule.select, one.keys, work.data_map.identifiers) for one in meant)
    return RuleCount(rule.id, rule.action, rule.stage, documents, served and not is_anywhere(rule.select))


def _count(work: Work, rule: Rule, name: str) -> int:
    collection = work.db[name]
    if is_anywhere(rule.select):
        return work.haystack.walk(collection, where=conditions(rule.select), names=anywhere_names(rule)).documents
    queries = (filter_for(rule.select, some, work.data_map.identifiers) for some in work.closures(CHUNK))
    return sum(collection.count_documents(query) for query in queries if query is not None)


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
    for keys in one.unique:
        if keys != ("_id",) and any(key.partition(".")[0] in changed for key in keys):
            yield from _of_unique(rule, one, keys)
    if rule.changes and one.validator:
        yield from _of_validator(work, rule, one)


def _of_unique(rule: Rule, one: Collection, keys: tuple[str, ...]) -> Iterator[Finding]:
    """A constant can be there once only; a second erasure would collide."""
    constant = {plain(change.path) for change in rule.changes if change.op in {"set", "unset"}}
    if set(keys) <= constant:
        sentence = f"Rule {rule.id} puts the same value into every document of the unique index on {', '.join(keys)}; the second one would be refused. Delete instead, or make the index partial."
        yield Finding(one.name, sentence, stops=True)


def _of_validator(work: Work, rule: Rule, one: Collection) -> Iterator[Finding]:
    """Try the changes on a few documents and ask the server whether its validator would have the result."""
    query = next(
        (q for some in work.closures(CHUNK) if (q := filter_for(rule.select, some, work.data_map.identifiers))), None
    )
    if query is None:
        return
    before = list(work.db[one.name].find({"$and": [query, one.validator]}).limit(SAMPLE))
    after = [work.changed(document, rule) for document in before]
    try:
        valid = list(work.db.aggregate([{"$documents": after}, {"$match": one.validator}])) if after else []
    except OperationFailure:  # a server before 5.1 cannot look at documents that are not stored
        return
    if len(valid) < len(after):
        sentence = f"What rule {rule.id} leaves of a document breaks the validator ({len(after) - len(valid)} of {len(after)} tried). Change the rule, or relax the validator with a migration."
        yield Finding(one.name, sentence, stops=True)


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
