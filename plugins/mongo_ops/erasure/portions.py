"""What of a document a person gets to see: their own ones whole, of somebody else's only what concerns them. Reads only.

An export must not give away others (Art. 15(4) GDPR). The measure is the erasure: what it would take out of somebody else's document is
this person's, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.model import Rule
from mongo_ops.erasure.paths import ELEMENTS, steps
from mongo_ops.erasure.redaction import redacted
from mongo_ops.erasure.selectors import (
    ANYWHERE,
    applies,
    branches,
    conditions,
    filter_for,
    identifier_of,
    is_anywhere,
    owners,
)
from mongo_ops.erasure.survey import anywhere_names, means
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import CODEC, Document

_REFERENCE = re.compile(r"sr\d+_[a-z2-7]{26}")
BATCH = 500  # documents read at a time
OTHER = "(somebody else)"
RAW: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)


@dataclass(frozen=True)
class Part:
    """What one rule of the map contributes."""

    work: Work
    rule: Rule

    def is_own(self, document: Document) -> bool:
        """Whether a document is the person's own: it goes with them, or their identifier stands in it once, not in a list of several."""
        index, key = self.work.index, key_of(document.get("_id"))
        if self.rule.action == "delete" and not is_anywhere(self.rule.select):
            return True
        if key is not None and any((name, key) in index for name in index.names):
            return True
        return any(owners(document, branch, index) for branch in branches(self.rule.select) if _is_single(branch))

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
            raws = work.db[name].with_options(codec_options=RAW).find(conditions(rule.select)).batch_size(BATCH)
            for raw in raws:
                if any(one.identifier in names for one in work.haystack.owners_in(bytes(raw.raw))):
                    yield bson.decode(raw.raw, CODEC)
            return
        query = filter_for(rule.select, work.subjects[0].closure, work.data_map.identifiers)
        for document in work.db[name].find(query).batch_size(BATCH) if query is not None else ():
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
        if is_anywhere(self.rule.select):  # not even its key: that may be somebody's
            redact = self.work.redactor(frozenset({self.work.subjects[0].request_id}))
            return differences(document, redacted(document, redact)) or {}
        parts = differences(document, _changed(self.work, document, self.rule))
        return {"_id": document.get("_id"), **(parts or {})}


def _is_single(branch: Mapping[str, Any]) -> bool:
    asked = [
        path for path, condition in branch.items() if path != ANYWHERE and identifier_of(path, condition) is not None
    ]
    return bool(asked) and ANYWHERE not in branch and not any(ELEMENTS in path for path in asked)


def _without_others(work: Work, name: str, document: Document) -> Document:
    """Return a document of the person's with the identifiers of other people in it replaced, wherever the map says that they stand."""
    subject = work.data_map.subject
    for branch in (branch for rule in work.data_map.rules if means(rule, name) for branch in branches(rule.select)):
        for path in (path for path, asked in branch.items() if asked == f"${subject}" and applies(document, branch)):
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
    if before is after or (type(before) is type(after) and before == after):
        return None
    return _said(before, after) if isinstance(before, str) and isinstance(after, str) else before


def _said(before: str, after: str) -> str:
    """Return what was replaced in a text: the person's mentions, without what is said of others around them."""
    kept, found, at = _REFERENCE.split(after), [], 0
    for number, part in enumerate(kept):
        start = before.find(part, at) if part or number < len(kept) - 1 else len(before)
        if start < 0:  # replaced by other words than a reference
            return _between(before, after)
        found.append(before[at:start])
        at = start + len(part)
    return " … ".join(one for one in found if one) or _between(before, after)


def _between(before: str, after: str) -> str:
    """Return what differs between the texts' common beginning and end."""
    start = next(
        (n for n, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
        min(len(before), len(after)),
    )
    most = min(len(before), len(after)) - start
    same = next((n for n in range(most) if before[-1 - n] != after[-1 - n]), most)
    return before[start : len(before) - same]


def _taken(left: list[Any], one: Any) -> bool:
    if one not in left:
        return False
    left.remove(one)
    return True
