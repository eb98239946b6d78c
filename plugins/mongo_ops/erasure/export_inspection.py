"""Look whether anything of the people of a run is left in exports. Reads only, and believes nothing that was noted of them.

Each part is read as whoever imports it reads it: decompressed, decoded, every document searched; and once more as text, for what is in no
document. Of what cannot be read, or is not finished, nobody can say anything, and so of nobody that they are erased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bson.errors import BSONError

from mongo_ops.erasure import exports
from mongo_ops.erasure.copies import not_held, owners_in
from mongo_ops.erasure.holds import Holds
from mongo_ops.erasure.scan import Owner
from mongo_ops.erasure.verify import judge
from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, bsonfile, show

if TYPE_CHECKING:
    from mongo_ops.erasure.exports import Export, Exports
    from mongo_ops.erasure.work import Work


@dataclass
class Seen:
    """What is left in exports: (file, request) pairs; and sentences about what could not be looked at."""

    left: list[tuple[str, str]] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)


def inspect(work: Work, known: Exports, there: Iterable[Folder], held: Holds) -> Seen:
    """Look through every export.

    Args:
        work: the people.
        known: the environment's exports.
        there: the folders of exports below the environment's storage.
        held: the legal holds in force.
    """
    folders, faults = exports.folders(known, there)
    seen = Seen(blind=faults)
    for folder in folders:
        sentence = exports.fault(known, folder)
        if sentence:
            seen.blind.append(sentence)
            continue
        try:
            _look(work, known, folder, held, seen)
        except (PlanError, BSONError, ValueError) as error:
            what = str(error) if isinstance(error, PlanError) else "a document in it is malformed."
            seen.blind.append(f"The export at {show(folder)} could not be read to its end: {what}")
    return seen


def _look(work: Work, known: Exports, folder: Folder, held: Holds, seen: Seen) -> None:
    if known.leftovers(folder):  # nobody can say what an old version holds
        seen.left += [(show(folder), one.request_id) for one in work.subjects]
    if known.being(folder) != "finished":
        return
    export = known.read(folder)
    seen.left += [(show(folder), one) for one in sorted(exports.whose(work, export.told.encode()))]
    for file, collection in export.parts.items():
        seen.left += [(f"{show(folder)}/{file}", one) for one in sorted(_in_part(work, export, file, collection, held))]


def _in_part(work: Work, export: Export, file: str, collection: str, held: Holds) -> set[str]:
    """Return the requests of which a part holds traces that may not be there."""
    judged = judge(work, Holds(held.references, {}, held.digest))  # of documents in a file only the filter can say it
    found, opened = set[str](), set[Owner]()
    for batch in export.documents(file):
        some = _suspicious(work, batch)
        free = not_held(work, held, export.database, collection, list(map(bsonfile.decoded, some))) if some else ()
        loose = b"".join(one for one, is_free in zip(some, free, strict=True) if is_free)
        found |= set(work.haystack.look(f"{export.database}.{collection}", loose, judged).offenders)
        opened |= work.haystack.owners_in(b"".join(some))
    besides = owners_in(work, export.text(file)) - opened
    return found | {one.request_id for one in besides}  # what is in the text and in no document of it


def _suspicious(work: Work, batch: Sequence[bytes]) -> list[bytes]:
    """Return the documents that hold traces."""
    if not work.haystack.find(b"".join(batch)):
        return []
    return [one for one in batch if work.haystack.find(one)]
