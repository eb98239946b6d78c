"""Take over a database from another migration tool: read its history, match it with our files, record those as a baseline.

Reads the other tool's collection and never writes to it. Names are matched by slug: without folder, extension, leading numbers
and case, with ``-`` as ``_``. What the other tool does not count as applied is never adopted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mongo_ops.errors import PlanError
from mongo_ops.migrations import history, resolve
from mongo_ops.migrations.model import MigrationFile, State
from mongo_ops.migrations.peers import PEERS, Entry, Source, is_history, slug
from mongo_ops.migrations.resolve import Resolution

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.migrations.run import Run
    from mongo_ops.mongo.documents import Document


class NothingToAdoptError(PlanError):
    """No history of another tool is here, or several are and none was chosen."""


class UnmatchedError(PlanError):
    """The other tool applied migrations that have no file here."""

    def __init__(self, peer: str, names: Sequence[str]) -> None:
        super().__init__(peer, tuple(names))
        self.peer, self.names = peer, tuple(names)

    def __str__(self) -> str:
        return (
            f"{self.peer} applied {', '.join(self.names)}, which match none of the files here. Name their files alike, pair them by "
            "name, or ignore them (ignore_unmatched) if what they did needs no file."
        )


class AdoptionChangedError(PlanError):
    """The other tool's history, or the files, changed since the preview."""


@dataclass(frozen=True)
class Adoption:
    """The preview: what would be recorded, and what does not fit.

    Attributes:
        source: whose history it is.
        matched: (theirs, our migration's name), in our order; these would be recorded as applied.
        already: our migrations that match and are applied here already.
        theirs: applied there, no file here.
        ours: files here that the other tool did not apply; the next ``migrate`` runs them.
        late: those of ``ours`` that sort before a matched one; ``migrate`` needs ``allow_out_of_order`` for them.
        unapplied: entries that the tool does not count as applied; never adopted.
    """

    source: Source
    matched: tuple[tuple[Entry, str], ...]
    already: tuple[str, ...]
    theirs: tuple[Entry, ...]
    ours: tuple[str, ...]
    late: tuple[str, ...]
    unapplied: tuple[Entry, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the preview as JSON-able values."""
        return {
            "peer": self.source.peer,
            "collection": self.source.collection,
            "matched": [{"theirs": str(e), "ours": name, "applied_at": _iso(e.applied_at)} for e, name in self.matched],
            "already": list(self.already),
            "unmatched_theirs": [str(entry) for entry in self.theirs],
            "unmatched_ours": list(self.ours),
            "out_of_order": list(self.late),
            "not_applied": [{"name": str(entry), "state": entry.state} for entry in self.unapplied],
        }

    def as_text(self) -> str:
        """Return the preview for a terminal."""
        lines = [f"{self.source.peer} ({self.source.collection}): {len(self.matched)} migrations to record as applied"]
        lines += [
            f"  {entry.name}  ->  {name}  ({_iso(entry.applied_at) or 'no date'})" for entry, name in self.matched
        ]
        lines += [f"  already applied here: {name}" for name in self.already]
        lines += [f"  no file here for: {entry}" for entry in self.theirs]
        lines += [f"  {entry.state} there, not adopted: {entry}" for entry in self.unapplied]
        late = set(self.late)
        return "\n".join(lines + [f"  stays pending: {n}{' (out of order)' if n in late else ''}" for n in self.ours])


def detect(db: Database[Document]) -> tuple[Source, ...]:
    """Return the histories of other tools that this database holds, recognised by collection and shape of their documents."""
    there = set(db.list_collection_names(filter={"name": {"$in": [peer.collection for peer in PEERS.values()]}}))
    found = (peer for peer in PEERS.values() if peer.collection in there)
    return tuple(Source(peer.name, peer.collection) for peer in found if is_history(db, peer))


def preview(
    db: Database[Document],
    files: Sequence[MigrationFile],
    peer: str | None = None,
    *,
    collection: str | None = None,
    folder: Path | None = None,
    pairs: Mapping[str, str] | None = None,
) -> Adoption:
    """Match the other tool's history with our files. Reads only.

    Args:
        db: the database.
        files: ours.
        peer: the tool's name; None when only one left its history.
        collection: where its history is, unless in the tool's usual place.
        folder: its migrations' folder (mongodb-migrations).
        pairs: their name -> our name, where the slugs differ.

    Raises:
        NothingToAdoptError: there is no such history, or it must be chosen.
    """
    source = _choose(db, peer, collection)
    return _match(db, files, Source(source.peer, source.collection, folder, dict(pairs or {})))


def adopt(
    run: Run, files: Sequence[MigrationFile], seen: Adoption, reason: str, *, ignore_unmatched: bool = False
) -> tuple[Resolution, ...]:
    """Record what the preview matched as a baseline; their time of application goes into the history event.

    Raises:
        UnmatchedError: they applied what has no file here, and that is not to be ignored.
        AdoptionChangedError: the preview is no longer what would be done.
        NothingToAdoptError: the other tool is at work (it holds its lock).
        NotResolvableError: a migration stopped half-way here.
    """
    db = run.target.db
    if _match(db, files, seen.source) != seen:
        raise AdoptionChangedError("The history or the files changed since the preview. Look at it again.")
    if seen.theirs and not ignore_unmatched:
        raise UnmatchedError(seen.source.peer, [str(entry) for entry in seen.theirs])
    lock = PEERS[seen.source.peer].lock
    if lock and db[lock].find_one() is not None:
        raise NothingToAdoptError(
            f"{seen.source.peer} holds its lock ({lock}). Let it finish, or remove a lock left behind."
        )
    by_name = {file.name: file for file in files}
    told = {"adopted_from": seen.source.peer, "ignored": [str(entry) for entry in seen.theirs]}
    chosen = [
        (by_name[name], {**told, "their_name": str(entry), "their_applied_at": entry.applied_at})
        for entry, name in seen.matched
    ]
    return resolve.record_all(run, chosen, reason)


def _choose(db: Database[Document], peer: str | None, collection: str | None) -> Source:
    if peer is not None and peer not in PEERS:
        raise NothingToAdoptError(f"{peer} is unknown; histories of {', '.join(PEERS)} can be read.")
    if peer is not None and collection is not None:
        return Source(peer, collection)
    found = [source for source in detect(db) if peer in (None, source.peer)]
    if len(found) == 1:
        return found[0]
    if not found:
        where = f"{peer} left no history" if peer else f"None of {', '.join(PEERS)} left a history"
        raise NothingToAdoptError(f"{where} in {db.name}. Name its collection if it is in another place.")
    raise NothingToAdoptError(f"{db.name} holds the histories of {', '.join(s.peer for s in found)}; choose one.")


def _match(db: Database[Document], files: Sequence[MigrationFile], source: Source) -> Adoption:
    entries = _latest(PEERS[source.peer].read(db, source))
    applied = [entry for entry in entries if entry.state == "applied"]
    records = {record.name for record in history.load_all(db) if record.state is State.APPLIED}
    pairs = dict(_pairs(applied, files, source.pairs))
    ours = [file.name for file in files if file.name not in pairs and file.name not in records]
    last = max((int(file.version) for file in files if file.name in pairs), default=0)
    matched = {entry.name for entry in pairs.values()}
    return Adoption(
        source=source,
        matched=tuple(
            (pairs[file.name], file.name) for file in files if file.name in pairs and file.name not in records
        ),
        already=tuple(file.name for file in files if file.name in pairs and file.name in records),
        theirs=tuple(entry for entry in applied if entry.name not in matched),
        ours=tuple(ours),
        late=tuple(name for name in ours if int(name.partition("_")[0]) < last),
        unapplied=tuple(entry for entry in entries if entry.state != "applied"),
    )


def _pairs(
    entries: Sequence[Entry], files: Sequence[MigrationFile], given: Mapping[str, str]
) -> Iterator[tuple[str, Entry]]:
    """Yield (our name, their entry): as given, else by a slug that only one of theirs and one of ours has."""
    names = {file.name for file in files}
    yield from ((given[entry.name], entry) for entry in entries if given.get(entry.name) in names)
    taken = set(given.values())
    rest = [entry for entry in entries if entry.name not in given]
    free = [file.name for file in files if file.name not in taken]
    theirs, ours = Counter(entry.slug for entry in rest), Counter(map(slug, free))
    by_slug = {slug(name): name for name in free}
    for entry in rest:
        if entry.slug and theirs[entry.slug] == ours[entry.slug] == 1:
            yield by_slug[entry.slug], entry


def _latest(entries: Iterable[Entry]) -> list[Entry]:
    """Keep the last entry of each name: migrate-mongo with file hashes adds one each time that a file was edited."""
    return list({entry.name: entry for entry in entries}.values())


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
