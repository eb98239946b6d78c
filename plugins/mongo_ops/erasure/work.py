"""What one run of erasure works with: the target, the data map, the keys, and the people with their closures, opened.

Lives in one process's memory and is never printed or serialised; what passes between processes is the request id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure.changes import transform
from mongo_ops.erasure.forms import Forms, Index, forms, index_of, texts
from mongo_ops.erasure.identifiers import patterns
from mongo_ops.erasure.model import DataMap, Rule, Subject
from mongo_ops.erasure.needles import LETTER, LOCAL, is_address, is_id
from mongo_ops.erasure.scan import Haystack
from mongo_ops.erasure.selectors import ANYWHERE, owners

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document

FEW = 20
"""People up to whom a share of a collection is judged; a large batch is expected to be a large part of it."""

REDACTORS_KEPT = 1_000
SPACE = 0x20
_WORD = f"(?<![{LETTER}])(?{{}}:{{}})(?![{LETTER}])"
_ADDRESS = f"(?<![{LOCAL}])(?{{}}:{{}})(?![{LETTER}]|[.-][{LETTER}])"  # ann@x.org inside joann@x.org is somebody else
_ID = "(?{}:{})"


class Work:
    """The people of one run, and what the rules need to know of them."""

    def __init__(
        self, target: Target, data_map: DataMap, keyring: Keyring, subjects: Sequence[Subject], run: str
    ) -> None:
        """Gather.

        Args:
            target: the environment's database.
            data_map: as it is now; its digest must be the plan's.
            keyring: needs `vault` and `subject`.
            subjects: the people, closures opened.
            run: the id of the request or of the batch.
        """
        self.target, self.data_map, self.keyring = target, data_map, keyring
        self.subjects, self.run = tuple(subjects), run
        self.redactor = lru_cache(REDACTORS_KEPT)(self._redactor)

    @property
    def db(self) -> Database[Document]:
        """The environment's database."""
        return self.target.db

    @property
    def is_small(self) -> bool:
        """Whether only a few people are concerned."""
        return len(self.subjects) <= FEW

    @cached_property
    def index(self) -> Index:
        """To which requests a value leads."""
        return index_of(self.subjects, self.data_map.identifiers.values())

    @cached_property
    def references(self) -> Mapping[str, str]:
        """Each request's subject reference."""
        return {one.request_id: one.reference for one in self.subjects}

    @cached_property
    def haystack(self) -> Haystack:
        """What the residual scan looks for."""
        return Haystack(self.data_map, self.subjects)

    @cached_property
    def by_request(self) -> Mapping[str, Subject]:
        """The people by request."""
        return {one.request_id: one for one in self.subjects}

    def prepare(self, *, whole_documents: bool) -> None:
        """Make what takes long for many people: whose each value is, and what the scan looks for."""
        _ = self.index, self.haystack if whole_documents else None

    def closures(self, size: int) -> Iterator[Mapping[str, Forms]]:
        """Yield the closures of ``size`` people at a time, put together by identifier."""
        for start in range(0, len(self.subjects), size):
            yield self.closure_of(start, size)

    def closure_of(self, start: int, size: int) -> Mapping[str, Forms]:
        """Return the closures of some people, put together by identifier, each value in all its forms."""
        found: dict[str, Forms] = {}
        for one in self._forms[start : start + size]:
            for name, values in one.items():
                found.setdefault(name, Forms()).extend(values)
        return found

    @cached_property
    def _forms(self) -> list[dict[str, list[Any]]]:
        known = self.data_map.identifiers
        return [
            {
                name: [form for value in values for form in forms(known[name], value)]
                for name, values in one.closure.items()
            }
            for one in self.subjects
        ]

    def owners(self, document: Mapping[str, Any], rule: Rule) -> frozenset[str]:
        """Return the requests whose person a document belongs to by a rule's selection."""
        return frozenset(owners(document, rule.select, self.index))

    def update(
        self, document: Mapping[str, Any], rule: Rule, whose: frozenset[str]
    ) -> dict[str, dict[str, Any]] | None:
        """Return the update that a rule's changes come to for these people; None when nothing is left to change."""
        redacts = any(change.op == "redact" or change.where == ANYWHERE for change in rule.changes)
        redact = self.redactor(whose) if redacts else str  # making one takes longer than most changes
        return transform(document, rule.changes, self.index, self.references, redact, owners=whose)

    def changed(self, document: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
        """Return what a rule would leave of a document."""
        update = self.update(document, rule, self.owners(document, rule)) or {}
        gone = update.get("$unset", {})
        return {name: value for name, value in (dict(document) | update.get("$set", {})).items() if name not in gone}

    def _redactor(self, whose: frozenset[str]) -> Callable[[str], str]:
        """Return what puts a person's reference in the place of each of their traced identifiers.

        The case of letters counts only where it does to the scan: base64 of an id is somebody else's in another case.
        """
        any_case: dict[str, str] = {}
        exact: dict[str, str] = {}
        for request in sorted(whose):
            subject = self.by_request[request]
            for identifier in self.data_map.traced:
                for value in subject.closure.get(identifier.name, ()):
                    for text in texts(identifier, value):
                        any_case.setdefault(_lower(text), subject.reference)
                    for pattern, spelled in patterns(identifier, value).items():
                        into, some = (exact, spelled) if spelled else (any_case, {pattern})
                        into |= dict.fromkeys(_printable(some), subject.reference)
        if not any_case and not exact:
            return str
        wanted = re.compile("|".join((*_shapes(any_case, "ai"), *_shapes(exact, "a"))))
        return lambda text: wanted.sub(lambda match: exact.get(match[0]) or any_case[_lower(match[0])], text)


def _lower(text: str) -> str:
    """Lower the case of ASCII letters only, as the scan does; other letters are looked for in each of their cases."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _shapes(some: Iterable[str], flags: str) -> Iterator[str]:
    """Yield expressions that find the texts where they stand for themselves, as the scan does, the longest first."""
    kinds: dict[str, list[str]] = {}
    for one in sorted(some, key=len, reverse=True):
        shape = _ID if is_id(one) else _ADDRESS if is_address(one) else _WORD
        kinds.setdefault(shape, []).append(re.escape(one))
    return (shape.format(flags, "|".join(texts)) for shape, texts in kinds.items())


def _printable(some: Iterable[bytes]) -> Iterator[str]:
    for pattern in some:
        if min(pattern) > SPACE:
            try:
                yield pattern.decode()
            except UnicodeDecodeError:
                continue
