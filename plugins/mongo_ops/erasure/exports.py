"""Take people out of exports: of those in the environment's storage, and of those that were written elsewhere.

What an export is, another feature knows; here are the questions that it is asked (``Exports``, ``Export``). A part with somebody's documents
is written anew without them, the manifest is pointed to the new file at one stroke, and then the old one goes with all its versions. So at
every instant the export is whole, and a retry finishes. What cannot be read stays; ``export_inspection`` says so of everybody.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Protocol

from bson.errors import BSONError

from mongo_ops.erasure.cleaning import Cleaner
from mongo_ops.erasure.copies import not_held
from mongo_ops.erasure.model import Finding
from mongo_ops.erasure.references import references_of
from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, show, versions

if TYPE_CHECKING:
    from mongo_ops.erasure.holds import Holds
    from mongo_ops.erasure.work import Work
    from mongo_ops.storage.versions import Version

Clean = Callable[[str, Sequence[bytes]], Sequence[bytes | None]]
"""Says what becomes of some documents (BSON) of a collection: each as it is, changed, or None when it goes."""

log = logging.getLogger(__name__)


class Export(Protocol):
    """A finished export. What is asked of it raises a ``PlanError`` where it is not what was written."""

    @property
    def folder(self) -> Folder:
        """Where it is."""

    @property
    def database(self) -> str:
        """The database that it was made of."""

    @property
    def is_whole(self) -> bool:
        """Whether its documents are whole, or only some fields of them."""

    @property
    def parts(self) -> Mapping[str, str]:
        """The files below the folder, each with its collection."""

    @property
    def subjects(self) -> frozenset[str]:
        """The references of people whom it names."""

    @property
    def told(self) -> str:
        """All that is said of it besides the documents: filter, bounds of parts."""

    def documents(self, file: str) -> Iterator[Sequence[bytes]]:
        """Yield the documents of a part as BSON, some at a time, whatever its format."""

    def text(self, file: str) -> Iterator[bytes]:
        """Yield the decompressed text of a part; nothing where there is none but its documents."""

    def anew(
        self, files: Collection[str], clean: Clean, redact: Callable[[str], str], forget: Collection[str]
    ) -> Callable[[], Export]:
        """Write parts anew, beside the old ones; return what puts them into the old ones' place and forgets references."""


class Exports(Protocol):
    """The exports of an environment."""

    def known(self) -> tuple[list[Folder], list[str]]:
        """Return the folders of all exports that were ever begun, and sentences about those that cannot be seen from here."""

    def being(self, folder: Folder) -> Literal["finished", "unfinished", "none"]:
        """Say whether there is an export, and whether it is finished."""

    def read(self, folder: Folder) -> Export:
        """Return a finished export."""

    def leftovers(self, folder: Folder) -> Sequence[Version]:
        """Return the versions of an export's own files that no reader needs."""

    def is_part(self, name: str) -> bool:
        """Say whether a file's name is one of those that parts of exports have."""


@dataclass
class Taken:
    """What was taken out of one export: documents that went or changed, and for whom. ``before`` tells the export's former state."""

    before: str
    documents: int = 0
    by_request: Counter[str] = field(default_factory=Counter)


def folders(exports: Exports, there: Iterable[Folder]) -> tuple[list[Folder], list[str]]:
    """Return the folders of exports, each once, and sentences about those that cannot be seen.

    Args:
        exports: the environment's.
        there: the folders of exports below the environment's storage.
    """
    known, faults = exports.known()
    found = {(one.fs, one.path.strip("/")): one for one in (*known, *there)}
    return sorted(found.values(), key=lambda one: one.path), faults


def findings(exports: Exports, there: Iterable[Folder]) -> Iterator[Finding]:
    """Yield what may keep people from being taken out of exports, unless somebody mends it before the run. Reads manifests only."""
    some, faults = folders(exports, there)
    for sentence in (*faults, *(found for one in some if (found := fault(exports, one)))):
        yield Finding("exports", f"{sentence} The result is partial as long as that is so.")


def fault(exports: Exports, folder: Folder) -> str:
    """Return why an export cannot be looked into; nothing when it can, or when there is none."""
    try:
        being = exports.being(folder)
        if being == "finished":
            exports.read(folder)
    except PlanError as error:
        return f"The export at {show(folder)} cannot be looked into: {error}"
    if being == "unfinished":
        return f"The export at {show(folder)} is not finished and may hold these people. Finish it, or discard it (`mongo-ops export --discard`)."
    return ""


def clean(work: Work, held: Holds, exports: Exports, folder: Folder, note: Callable[[Taken], None]) -> None:
    """Take the people of a run out of an export, and remove the files and versions that no reader of it needs.

    Args:
        work: the people.
        held: the legal holds in force.
        exports: the environment's.
        folder: of the export; nothing is done where none is finished.
        note: keeps what was taken, before it is.

    Raises:
        StorageFailedError: run again.
    """
    try:
        if exports.being(folder) == "finished":
            _rewrite(work, held, exports.read(folder), note)
        versions.remove(folder, exports.leftovers(folder))
    except (PlanError, BSONError, ValueError) as error:  # it stays as it is, and the inspection says so
        what = str(error) if isinstance(error, PlanError) else type(error).__name__
        log.warning("The export at %s was not cleaned: %s", show(folder), what)


def _rewrite(work: Work, held: Holds, export: Export, note: Callable[[Taken], None]) -> None:
    cleaners = {name: cleaner(work, held, export, name) for name in set(export.parts.values())}
    files = [file for file, name in export.parts.items() if _concerns(cleaners[name], export.documents(file))]
    told = frozenset(one for one in whose(work, export.told.encode()) if not held.of(work.references[one]))
    gone = _references(work, held)
    if not files and not told and gone.isdisjoint(export.subjects):
        return
    taken = Taken(sha256(export.told.encode()).hexdigest())

    def clean(collection: str, batch: Sequence[bytes]) -> Sequence[bytes | None]:
        instead: dict[bytes, bytes | None] = {}
        for one in cleaners[collection].clean(batch):
            instead[one.before] = one.after
            taken.documents += 1
            taken.by_request.update(one.whose)
        return [instead.get(one, one) for one in batch]

    show_anew = export.anew(files, clean, work.redactor(told) if told else str, gone)
    note(taken)
    show_anew()
    log.info("%s was written anew without %s documents.", show(export.folder), f"{taken.documents:,}")


def cleaner(work: Work, held: Holds, export: Export, collection: str) -> Cleaner:
    """Return what cleans the documents of one collection of an export."""
    own = export.database == work.db.name
    free = partial(not_held, work, held, export.database, collection)
    return Cleaner(work, collection, held, free, own and export.is_whole)


def whose(work: Work, text: bytes) -> frozenset[str]:
    """Return the requests of which a text holds a trace."""
    return frozenset(owner.request_id for owner in work.haystack.owners_in(text))


def _references(work: Work, held: Holds) -> frozenset[str]:
    """Return the references of the people who are not held, of all epochs of the key."""
    kind = work.data_map.subject
    free = [one for one in work.subjects if not held.of(one.reference)]
    return frozenset(
        reference
        for one in free
        for reference in (
            one.reference,
            *(known for value in one.closure.get(kind, ()) for known in references_of(work.keyring, kind, value)),
        )
    )


def _concerns(one: Cleaner, batches: Iterable[Sequence[bytes]]) -> bool:
    """Say whether anything in a part concerns the people. Reads it to its end, so that a damaged one is known before it is written."""
    return sum(1 for batch in batches for _ in one.clean(batch)) > 0
