"""A person's own data, as JSON (Art. 15 and 20 GDPR): all that the data map reaches, by the same identifiers and rules as an erasure.

What is the person's own is written whole; of somebody else's document only the parts that concern the person, since an export must
not give away others (Art. 15(4)). Streams: memory does not grow with what the person has. Reads only, but for one audit entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import bson
from bson.raw_bson import RawBSONDocument

from mongo_ops import audit
from mongo_ops.erasure import closure, consent, references, survey
from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.json_writer import Sink, Writer
from mongo_ops.erasure.model import CollectionEntry, DataMap, Rule, Subject
from mongo_ops.erasure.paths import ELEMENTS, steps
from mongo_ops.erasure.plan import NobodyError
from mongo_ops.erasure.selectors import ANYWHERE, branches, conditions, filter_for, identifier_of, is_anywhere, owners
from mongo_ops.erasure.survey import anywhere_names, means
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.erasure.model import Actor
    from mongo_ops.mongo.connection import Target

OTHER = "(somebody else)"
FORMAT, VERSION = "mongo-ops subject export", 1
RAW = CODEC.with_options(document_class=RawBSONDocument)


@dataclass(frozen=True)
class Exported:
    """What an export holds: documents by rule, and the rules that the map does not export although they select something.

    ``reference`` is the person's keyed reference. Nothing here names the person.
    """

    reference: str
    documents: Mapping[str, int]
    withheld: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All documents, or parts of documents."""
        return sum(self.documents.values())

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"reference": self.reference, "documents": dict(self.documents), "withheld": dict(self.withheld)}


def export(
    target: Target,
    data_map: DataMap,
    keyring: Keyring,
    value: Any,
    sink: Sink,
    *,
    actor: Actor,
    now: datetime | None = None,
) -> Exported:
    """Write everything about one person as one JSON document (Extended JSON, relaxed) and return what it holds.

    Args:
        target: the environment.
        data_map: what leads to documents.
        keyring: needs `subject`.
        value: the subject identifier's typed value (``identifiers.parse_subject``).
        sink: gets the bytes as they come.
        actor: who asked for it, for the audit log.
        now: the moment; the present by default.

    Raises:
        NobodyError: nothing was written.
    """
    work = _work(target, data_map, keyring, value)
    moment = now or datetime.now(UTC)
    writer = Writer(sink)
    parts = {rule.id: _Part(work, rule) for rule in data_map.rules if rule.exported}
    if not _leads_anywhere(parts.values()):
        raise NobodyError(
            "The identifier matches nobody here: no rule of the data map selects anything. Mind its type."
        )
    documents: Counter[str] = Counter()
    withheld = _withheld(work)
    with writer.object():
        _head(writer, work, data_map, moment, withheld)
        writer.key("collections")
        with writer.array():
            for rule in data_map.rules:
                if rule.exported:
                    documents[rule.id] += _write_rule(writer, data_map, parts[rule.id], list(parts.values()))
        _tail(writer, work, data_map, value, moment)
    done = Exported(
        work.subjects[0].reference, {name: number for name, number in documents.items() if number}, withheld
    )
    _audit(target, done, actor)
    return done


def _work(target: Target, data_map: DataMap, keyring: Keyring, value: Any) -> Work:
    reference = references.subject_reference(keyring, data_map.subject, value)
    person = Subject("export", reference, {data_map.subject: (value,)})
    resolved = closure.resolve(target.db, data_map, [person])
    return Work(target, data_map, keyring, resolved.subjects, "export")


# Rules --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What one rule of the map contributes."""

    work: Work
    rule: Rule

    def is_own(self, document: Document) -> bool:
        """Whether a document is the person's own: it goes with them, or their identifier stands in it once, not in a list of several."""
        if self.rule.action == "delete":
            return True
        return any(
            owners(document, branch, self.work.index) for branch in branches(self.rule.select) if _is_single(branch)
        )

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Yield the documents that the rule selects for the person, with their collection."""
        for info in sorted(self.work.db.list_collections(), key=lambda one: str(one["name"])):
            name = str(info["name"])
            if means(self.rule, name) and info["type"] != "view":
                for document in self._of(name):
                    yield name, document

    def _of(self, name: str) -> Iterator[Document]:
        rule, work = self.rule, self.work
        if is_anywhere(rule.select):
            names = anywhere_names(rule)
            raws = work.db.get_collection(name, codec_options=RAW).find(conditions(rule.select))
            for raw in raws:
                if any(one.identifier in names for one in work.haystack.owners_in(bytes(raw.raw))):
                    yield bson.decode(raw.raw, CODEC)
            return
        query = filter_for(rule.select, work.subjects[0].closure, work.data_map.identifiers)
        for document in work.db[name].find(query) if query is not None else ():
            if work.owners(document, rule):
                yield document

    def shows(self, name: str, document: Document) -> bool:
        """Say whether the rule writes this document whole."""
        if is_anywhere(self.rule.select) or not means(self.rule, name):
            return False
        return bool(self.work.owners(document, self.rule)) and self.is_own(document)

    def shown(self, name: str, document: Document) -> Any:
        """Return what the person gets to see of a document."""
        if self.is_own(document):
            return _without_others(self.work, name, document)
        parts = differences(document, _changed(self.work, document, self.rule))
        return {"_id": document.get("_id"), **parts} if isinstance(parts, Mapping) else {"_id": document.get("_id")}


def _is_single(branch: Mapping[str, Any]) -> bool:
    asked = [
        path for path, condition in branch.items() if path != ANYWHERE and identifier_of(path, condition) is not None
    ]
    return bool(asked) and ANYWHERE not in branch and not any(ELEMENTS in path for path in asked)


def _without_others(work: Work, name: str, document: Document) -> Document:
    """Return a document of the person's with the identifiers of others in its lists replaced."""
    subject = work.data_map.subject
    for rule in (one for one in work.data_map.rules if means(one, name)):
        for path in (
            path for branch in branches(rule.select) for path, asked in branch.items() if asked == f"${subject}"
        ):
            if ELEMENTS in path:
                document = _masked(document, steps(path), lambda value: (subject, key_of(value)) in work.index)
    return document


def _masked(value: Any, rest: tuple[str, ...], is_theirs: Callable[[Any], bool]) -> Any:
    if not rest:
        return value if value is None or is_theirs(value) else OTHER
    if isinstance(value, list):
        return [_masked(one, rest[1:] if rest[0] == ELEMENTS else rest, is_theirs) for one in value]
    if isinstance(value, Mapping) and rest[0] in value:
        return {**value, rest[0]: _masked(value[rest[0]], rest[1:], is_theirs)}
    return value


def _changed(work: Work, document: Document, rule: Rule) -> Document:
    update = work.update(document, rule, frozenset({work.subjects[0].request_id})) or {}
    gone = update.get("$unset", {})
    return {name: value for name, value in (document | update.get("$set", {})).items() if name not in gone}


def differences(before: Any, after: Any) -> Any:
    """Return the parts of a value that an erasure would take or change: the person's, and nobody else's. None when there are none."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = {key: value if key not in after else differences(value, after[key]) for key, value in before.items()}
        return {key: value for key, value in found.items() if key not in after or value is not None} or None
    if isinstance(before, list) and isinstance(after, list):
        if len(before) == len(after):
            parts = [differences(one, other) for one, other in zip(before, after, strict=True)]
            return [one for one in parts if one is not None] or None
        left = list(after)
        return [one for one in before if not _taken(left, one)] or None
    return None if before is after or (type(before) is type(after) and before == after) else before


def _taken(left: list[Any], one: Any) -> bool:
    if one not in left:
        return False
    left.remove(one)
    return True


def _leads_anywhere(parts: Any) -> bool:
    return any(next(part.documents(), None) is not None for part in parts)


def _withheld(work: Work) -> dict[str, int]:
    there = survey.collections(work.db, work.data_map)
    counts = {rule.id: survey.count(work, rule, there).documents for rule in work.data_map.rules if not rule.exported}
    return {name: number for name, number in counts.items() if number}


def _write_rule(writer: Writer, data_map: DataMap, part: _Part, parts: Sequence[_Part]) -> int:
    """Write what a rule selects, but for documents that an earlier rule has written whole."""
    earlier = parts[: parts.index(part)]
    documents = (
        (name, part.shown(name, document))
        for name, document in part.documents()
        if not any(one.shows(name, document) for one in earlier)
    )
    first = next(documents, None)
    if first is None:
        return 0
    number = 0
    with writer.object():
        for name, value in _about(data_map, part).items():
            writer.pair(name, value)
        writer.key("documents")
        with writer.array():
            while first is not None:
                writer.value({"collection": first[0], "document": first[1]})
                number += 1
                first = next(documents, None)
    return number


def _about(data_map: DataMap, part: _Part) -> dict[str, Any]:
    """Say of a rule's documents what Art. 15(1) asks for: purpose, ground, categories, recipients, how long."""
    entry = next(one for one in data_map.collections.values() if part.rule in one.rules)
    return {
        "rule": part.rule.id,
        "purpose": entry.purpose,
        "legal_basis": entry.legal_basis,
        "categories": sorted({note.category for note in entry.fields.values()} - {"system"}),
        "recipients": {name: data_map.recipients.get(name, "") for name in _recipients(entry)},
        "retention": {one.id: f"{one.period} from {one.start}" for one in entry.retention},
        "extent": "the parts that concern you; what is about others is left out",
    }


def _recipients(entry: CollectionEntry) -> list[str]:
    return sorted({*entry.recipients, *(name for note in entry.fields.values() for name in note.recipients)})


# Document -----------------------------------------------------------------------------------------------------------------


def _head(writer: Writer, work: Work, data_map: DataMap, moment: datetime, withheld: Mapping[str, int]) -> None:
    person = work.subjects[0]
    writer.pair("format", FORMAT)
    writer.pair("version", VERSION)
    writer.pair("made_at", moment.isoformat(timespec="seconds"))
    writer.pair("environment", work.target.environment.name)
    writer.pair("subject_ref", person.reference)
    writer.pair("data_map", {"version": data_map.version, "digest": data_map.digest})
    writer.pair("identifiers", {name: list(values) for name, values in person.closure.items() if values})
    notes = [
        f"{name}: {number:,} documents are not part of an export. {data_map.rule(name).why}".strip()
        for name, number in sorted(withheld.items())
    ]
    objects = [one.name for one in data_map.identifiers.values() if one.is_object and person.closure.get(one.name)]
    notes += [f"{name}: keys of files, which are handed out apart from this." for name in objects]
    writer.pair("notes", notes)


def _tail(writer: Writer, work: Work, data_map: DataMap, value: Any, moment: datetime) -> None:
    proofs = consent.report(work.db, data_map, at=moment, user_id=value)
    writer.pair("consents", [{"type": one.type, "valid": one.valid, "record": one.record} for one in proofs])


def _audit(target: Target, done: Exported, actor: Actor) -> None:
    entry = audit.AuditEntry(
        action="subject.exported",
        entity_type="data_subject",
        entity_id=done.reference,
        actor=actor.name,
        actor_kind=actor.kind,
        environment=target.environment.name,
        result="done",
        details={"documents": done.total, "rules": sorted(done.documents)},
    )
    audit.prepare(target.db)
    audit.record(target.db, entry)
