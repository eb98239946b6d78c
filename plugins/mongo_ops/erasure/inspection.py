"""Look whether anything of the people of a run is left in storage: objects, snapshots, files. Reads only.

Apart from what erases: it believes nothing that the stage has noted, and looks at every file's bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bson.errors import BSONError

from mongo_ops.erasure import copies, export_inspection, holds
from mongo_ops.erasure.assets import CHUNK, Asset, assets_of, held_keys, place_of
from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.holds import Holds
from mongo_ops.erasure.objects import AT_ONCE, Stores, gaps
from mongo_ops.erasure.verify import Verification, judge
from mongo_ops.erasure.work import Work
from mongo_ops.storage import Folder, Snapshot, StorageDeniedError, bsonfile, manifest, reading, show, versions

GONE, LEFT, UNREACHABLE = "gone", "objects left", "objects not reachable"


@dataclass
class Inspection:
    """What is left in storage: (place, kind, identifier) -> traces, requests concerned, and what could not be looked at."""

    residue: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    offenders: Counter[str] = field(default_factory=Counter)
    blind: tuple[str, ...] = ()

    def added_to(self, seen: Verification) -> Verification:
        """Return what a verification of the databases saw, with this."""
        return replace(
            seen,
            residue={**seen.residue, **self.residue},
            offenders=dict(Counter(seen.offenders) + self.offenders),
            blind=tuple(dict.fromkeys((*seen.blind, *self.blind))),
        )


def inspect(work: Work, stores: Stores) -> Inspection:
    """Look whether anything of the people is left in storage; reads only, and believes nothing that the stage has noted."""
    seen, held = Inspection(), holds.active(work.db)
    blind = [one.sentence for one in gaps(work, stores)]
    known = list(assets_of(work.data_map, work.subjects))
    for start in range(0, len(known), CHUNK):
        _inspect_assets(work, stores.assets, held, known[start : start + CHUNK], seen)
    there: list[Folder] = []
    try:
        for place in copies.places(stores.storage):
            if place.kind != "export":
                _inspect_place(work, place, held, seen)
                blind += _orphans(stores, place)
            if place.is_export:
                there.append(place.folder)
    except StorageDeniedError as error:
        blind.append(f"Not everything in storage could be looked at: {error}")
    if stores.exports is not None:
        _add(work, export_inspection.inspect(work, stores.exports, there, held), held, seen, blind)
    seen.blind = tuple(dict.fromkeys(blind))
    return seen


def _add(work: Work, found: export_inspection.Seen, held: Holds, seen: Inspection, blind: list[str]) -> None:
    """Add what is left in exports of those who are not held."""
    blind += found.blind
    for where, request in found.left:
        if not held.of(work.references[request]):
            seen.residue[where, "export", "any"] += 1
            seen.offenders[request] += 1


def _orphans(stores: Stores, place: copies.Place) -> list[str]:
    """Name parts of exports that belong to none: they are compressed, so a look at their bytes says nothing."""
    known = stores.exports
    parts = [name for name in place.current if known is not None and known.is_part(name)]
    return [f"{show(place.folder)} holds {len(parts):,} parts of no export. Remove them."] if parts else []


def _inspect_assets(work: Work, assets: Folder | None, held: Holds, some: Sequence[Asset], seen: Inspection) -> None:
    """Count each object that is there, and each of which nobody can say it."""
    kept = held_keys(work.db, held, some)
    free = [one for one in some if not held.of(work.references[one.request_id]) and key_of(one.key) not in kept]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one, state in zip(free, pool.map(lambda one: _state(assets, one), free), strict=True):
            if state != GONE:
                seen.residue[show(assets) if assets else "assets", state, one.identifier.name] += 1
                seen.offenders[one.request_id] += 1


def _state(assets: Folder | None, one: Asset) -> str:
    place = place_of(assets, one.key) if assets is not None and versions.is_known(assets) else None
    if place is None:
        return UNREACHABLE
    try:
        return LEFT if versions.of_file(place) else GONE
    except StorageDeniedError:
        return UNREACHABLE


def _inspect_place(work: Work, place: copies.Place, held: Holds, seen: Inspection) -> None:
    described = manifest.read(place.folder) if place.kind == "snapshot" else None
    for name, there in place.files.items():
        path = place.folder / name
        whose: set[str] = set()
        if described is not None and any(not one.latest for one in there):
            whose = {one.request_id for one in work.subjects}  # nobody can say what an old version holds
        elif name in place.current:
            whose = copies.traces(work, path)
        if whose and described is not None and name == described.file:
            whose = _unjustified(work, path, described, held)
        for request in whose:
            if not held.of(work.references[request]):
                seen.residue[show(path), "file", "any"] += 1
                seen.offenders[request] += 1


def _unjustified(work: Work, path: Folder, described: Snapshot, held: Holds) -> set[str]:
    """Open the documents of a snapshot that hold traces and return the requests of traces that may not be there."""
    judged = judge(work, Holds(held.references, {}, held.digest))  # of documents in a file only the filter can say it
    namespace, found = f"{described.database}.{described.collection}", set[str]()
    try:
        with reading(path) as source:
            for batch in bsonfile.batches(source):
                suspicious = [one for one in batch if work.haystack.find(one)]
                opened = list(map(bsonfile.decoded, suspicious))
                free = copies.not_held(work, held, described.database, described.collection, opened)
                loose = b"".join(one for one, is_free in zip(suspicious, free, strict=True) if is_free)
                found |= set(work.haystack.look(namespace, loose, judged).offenders)
    except (BSONError, ValueError):  # damaged: whose it is, its bytes have said
        return copies.traces(work, path)
    return found
