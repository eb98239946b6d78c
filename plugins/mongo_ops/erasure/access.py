"""A person's own data, as JSON (Art. 15 and 20 GDPR): all that the data map reaches, by the same identifiers and rules as an erasure.

What is the person's own is written whole; of somebody else's document only the parts that concern the person, since an export must
not give away others (Art. 15(4)). Streams: memory does not grow with what the person has. Reads only, but for one audit entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mongo_ops import audit
from mongo_ops.erasure import closure, consent, references, survey
from mongo_ops.erasure.json_writer import Sink, Writer
from mongo_ops.erasure.model import CollectionEntry, DataMap, Subject
from mongo_ops.erasure.plan import NobodyError
from mongo_ops.erasure.portions import Part
from mongo_ops.erasure.work import Work

if TYPE_CHECKING:
    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.erasure.model import Actor
    from mongo_ops.mongo.connection import Target

FORMAT, VERSION = "mongo-ops subject export", 1


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
    parts = {rule.id: Part(work, rule) for rule in data_map.rules if rule.exported}
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


def _leads_anywhere(parts: Any) -> bool:
    return any(next(part.documents(), None) is not None for part in parts)


def _withheld(work: Work) -> dict[str, int]:
    there = survey.collections(work.db, work.data_map.rules)
    counts = {rule.id: survey.count(work, rule, there).documents for rule in work.data_map.rules if not rule.exported}
    return {name: number for name, number in counts.items() if number}


def _write_rule(writer: Writer, data_map: DataMap, part: Part, parts: Sequence[Part]) -> int:
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


def _about(data_map: DataMap, part: Part) -> dict[str, Any]:
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
