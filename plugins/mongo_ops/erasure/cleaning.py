"""What the rules of the data map leave of a document in a copy: a rollback snapshot, an export. Reads no database, writes nothing.

A copy gets what the collection gets: what a rule deletes goes, what a rule changes is changed. A trace that is left after that goes with
its document, since nobody can say of a copy what it would be needed for. Documents of others stay byte for byte.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import bson

from mongo_ops.erasure.forms import forms
from mongo_ops.erasure.model import Rule, names_of
from mongo_ops.erasure.needles import WINDOW, Needles
from mongo_ops.erasure.scan import paths_of
from mongo_ops.erasure.selectors import applies, is_anywhere
from mongo_ops.erasure.survey import anywhere_names, means
from mongo_ops.erasure.work import Work
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from mongo_ops.erasure.holds import Holds

Free = Callable[[Sequence[Document]], Sequence[bool]]
"""Says of documents whether no legal hold on a set of documents covers them."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one document: ``after`` is None when it goes as a whole; ``whose`` are the requests it was done for."""

    before: bytes
    after: bytes | None
    whose: frozenset[str]


@dataclass(frozen=True)
class Cleaner:
    """Cleans the documents of one collection of the people of a run who are not under a legal hold.

    ``ruled`` is False for documents that are not of the environment's own database, or that are only parts of documents: then only
    traces count.
    """

    work: Work
    collection: str
    held: Holds
    free: Free
    ruled: bool = True

    def clean(self, batch: Sequence[bytes]) -> Iterator[Cleaned]:
        """Yield what becomes of each document that concerns the people, out of a batch of raw documents; leave out all others."""
        chosen = [batch[number] for number in self._concerned(batch)]
        opened = [bson.decode(one, CODEC) for one in chosen]
        for raw, document, free in zip(chosen, opened, self.free(opened) if opened else (), strict=True):
            if free:
                after, whose = self._clean(raw, document)
                if after != raw:
                    yield Cleaned(raw, after, whose)

    def _clean(self, raw: bytes, document: Document) -> tuple[bytes | None, frozenset[str]]:
        before, concerned = document, frozenset[str]()
        for rule in self._rules:
            whose = self._free(self._owners(raw, before, rule))
            if not whose:
                continue
            if rule.action == "delete":
                return None, whose
            update = self.work.update(document, rule, whose)
            if update is not None:
                concerned |= whose
                document = applied(document, update)
        after = raw if document is before else bson.encode(document, codec_options=CODEC)
        left = self._left(after, document)
        return (None, concerned | left) if left else (after, concerned)

    def _owners(self, raw: bytes, document: Document, rule: Rule) -> frozenset[str]:
        if not is_anywhere(rule.select):
            return self.work.owners(document, rule)
        if not applies(document, rule.select):
            return frozenset()
        names = anywhere_names(rule)
        return frozenset(one.request_id for one in self.work.haystack.owners_in(raw) if one.identifier in names)

    def _left(self, raw: bytes, document: Document) -> frozenset[str]:
        """Return the requests of which a trace is left where none may stay."""
        found: set[str] = set()
        for spot in self.work.haystack.find(raw):
            for owner in self.work.haystack.owners(spot):
                remains = self.work.data_map.identifiers[owner.identifier].remains
                paths = (f"{self.collection}.{path}" for path in paths_of(document, spot.exact))
                if not all(self.ruled and path in remains for path in paths):
                    found.add(owner.request_id)
        kept = {request for rule in self._retaining for request in self.work.owners(document, rule)}
        return self._free(frozenset(found - kept))

    def _free(self, requests: frozenset[str]) -> frozenset[str]:
        return frozenset(one for one in requests if not self.held.of(self.work.references[one]))

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        rules = self.work.data_map.rules if self.ruled else ()
        return tuple(one for one in rules if means(one, self.collection))

    @cached_property
    def _retaining(self) -> tuple[Rule, ...]:
        return tuple(one for one in self._rules if one.action == "retain" and not is_anywhere(one.select))

    def _concerned(self, batch: Sequence[bytes]) -> Sequence[int]:
        """Return the numbers of the documents that may concern anybody, without opening the others."""
        if self._needles is None:
            return range(len(batch))
        starts = [0]
        for one in batch:
            starts.append(starts[-1] + len(one))
        joined = b"".join(batch)
        traced = self.work.haystack.find(joined)
        hits = {found.start for found in (*traced, *self._needles.find(joined))}
        return sorted({bisect_right(starts, start) - 1 for start in hits})

    @cached_property
    def _needles(self) -> Needles | None:
        """What any document that a rule selects must hold; None when a value is too short to be looked for."""
        names = {name for rule in self._rules for name in names_of(rule.select)}
        patterns = set()
        for subject in self.work.subjects:
            for name in names:
                identifier = self.work.data_map.identifiers[name]
                for value in subject.closure.get(name, ()):
                    for form in forms(identifier, value):
                        pattern = stored(form).lower()
                        if len(pattern) < WINDOW:
                            return None
                        patterns.add(pattern)
        return Needles(patterns)


def stored(value: Any) -> bytes:
    """Return the bytes by which a value stands in a BSON document, and also as a key of one."""
    if isinstance(value, str):
        return value.encode()
    encoded = bson.encode({"": value}, codec_options=CODEC)[6:-1]
    return encoded[5:] if isinstance(value, bytes) else encoded


def applied(document: Document, update: Mapping[str, Mapping[str, Any]]) -> Document:
    """Return a document after an update of top-level fields."""
    gone = update.get("$unset", {})
    return {name: value for name, value in (document | dict(update.get("$set", {}))).items() if name not in gone}
