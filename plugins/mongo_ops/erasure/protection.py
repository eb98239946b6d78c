"""Whose documents the retention must leave alone: people under a legal hold, and people whose own erasure request is open. Reads only.

A hold knows a person by keyed references only. Who that is, their request says as long as it is sealed; else the accounts are walked
and each key's reference is compared. An open request is left to its own run, which finds a person only as long as nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from mongo_ops.erasure import closure, holds, register, requests
from mongo_ops.erasure.forms import Key, key_of
from mongo_ops.erasure.model import OPEN, Rule, Subject
from mongo_ops.erasure.paths import plain, reached
from mongo_ops.erasure.references import NoReferenceError, references_of
from mongo_ops.erasure.selectors import applies, is_anywhere
from mongo_ops.erasure.survey import anywhere_names, means
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import CODEC

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.documents import Document

RAW: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)


@dataclass(frozen=True)
class Protection:
    """Who is protected, and under which holds that was found out (their digest)."""

    work: Work
    rules: tuple[Rule, ...]
    holds: str

    def free(
        self, db: Database[Document], collection: str, query: Mapping[str, Any], session: ClientSession
    ) -> list[Any]:
        """Return the keys of the selected documents that belong to nobody who is protected."""
        if not self.work.subjects or not self.rules:
            return [one["_id"] for one in db[collection].find(query, {"_id": 1}, session=session)]
        raws = db[collection].with_options(codec_options=RAW).find(query, session=session)
        return [document["_id"] for raw, document in _opened(raws) if not self._is_theirs(raw, document)]

    def _is_theirs(self, raw: bytes, document: Document) -> bool:
        for rule in self.rules:
            if not is_anywhere(rule.select):
                if self.work.owners(document, rule):
                    return True
            elif applies(document, rule.select):
                wanted = anywhere_names(rule)
                if any(one.identifier in wanted for one in self.work.haystack.owners_in(raw)):
                    return True
        return False


def _opened(raws: Any) -> Iterator[tuple[bytes, Document]]:
    for raw in raws:
        document: Document = bson.decode(raw.raw, CODEC)
        yield bytes(raw.raw), document


def protection(engine: Engine, collection: str) -> Protection:
    """Return who is protected now, for one collection."""
    db = engine.target.db
    held = holds.active(db)
    people = list(_people(engine, held))
    resolved = closure.resolve(db, engine.data_map, people).subjects if people else ()
    work = Work(engine.target, engine.data_map, engine.keyring, resolved, "retention")
    rules = tuple(one for one in engine.data_map.rules if means(one, collection))
    return Protection(work, rules, held.digest)


def _people(engine: Engine, held: holds.Holds) -> Iterator[Subject]:
    """Yield the people who are held or whose request is open, each once, with what is known of them."""
    db, name = engine.target.db, engine.data_map.subject
    waiting = {
        "$or": [{"state": {"$in": [str(state) for state in OPEN]}}, {"references": {"$in": sorted(held.references)}}]
    }
    seen: set[Key] = set()
    for request in map(register.from_document, db[register.REQUESTS].find(waiting)):
        known = closure.load(db, engine.keyring, [request.id])
        values: Mapping[str, Any] = known[0].closure if known else {name: ()}
        if request.sealed:
            value = requests.subject_value(engine.keyring, request)
            values = {**values, name: tuple({key_of(one): one for one in (*values[name], value)}.values())}
        seen |= {key for one in values[name] if (key := key_of(one)) is not None}
        yield Subject(request.id, request.subject_ref, values)
    if held.references:
        for number, (key, value) in enumerate(_accounts(engine, held)):
            if key not in seen:
                yield Subject(f"held{number}", "", {name: (value,)})


def _accounts(engine: Engine, held: holds.Holds) -> Iterator[tuple[Key, Any]]:
    """Yield the keys of accounts whose person is held."""
    subject = engine.data_map.identifiers[engine.data_map.subject]
    path = plain(subject.path)
    for document in engine.target.db[subject.collection].find({}, {path: 1}):
        for value in reached(document, subject.path):
            key = key_of(value)
            if key is None:
                continue
            try:
                references = references_of(engine.keyring, subject.name, value)
            except NoReferenceError:
                continue
            if held.of(*references):
                yield key, value
