"""The first stage of an erasure: people's objects in storage, and their documents in what this package itself has written there.

Objects go before the documents that name them, so that a failure can be retried. Each goes with every version that the store keeps.
What cannot be reached (no folder configured, a store that says no, a key that leads elsewhere) is said in the plan and makes the
result partial. The room ``inspection`` looks at all of it again.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from mongo_ops.erasure import copies, exports, holds, periods
from mongo_ops.erasure.assets import CHUNK, Asset, assets_of, held_keys, place_of
from mongo_ops.erasure.exports import Exports, Taken
from mongo_ops.erasure.forms import key_of
from mongo_ops.erasure.model import Finding
from mongo_ops.erasure.run import EXECUTING, RESULTS, RUNS, RunChangedError
from mongo_ops.erasure.work import Work
from mongo_ops.errors import RunError
from mongo_ops.storage import (
    Folder,
    SnapshotCorruptError,
    StorageDeniedError,
    StorageFailedError,
    manifest,
    show,
    versions,
)

if TYPE_CHECKING:
    from mongo_ops.mongo.lease import Lease

OBJECTS, COPIES = "objects", "copies"
"""What the results of this stage are called, beside the rules' ids (which have a dot)."""

AT_ONCE = 8
"""Objects listed or removed at the same time: a store answers slowly, and each answer is waited for."""

log = logging.getLogger(__name__)


class MigrationsBusyError(RunError):
    """A migration is writing snapshots, which must not be touched meanwhile."""


@dataclass(frozen=True)
class Stores:
    """Where files of people may be: the environment's own storage, the product's objects if they are configured, and exports.

    Without ``exports`` nobody looks into any: they count as backups.
    """

    storage: Folder
    assets: Folder | None = None
    exports: Exports | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What the stage did in this run, all tries together.

    ``objects`` and their ``versions``; ``files`` of this package's that were written anew or removed, and ``documents`` taken out of them.
    """

    objects: int = 0
    versions: int = 0
    files: int = 0
    documents: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {
            "objects": self.objects,
            "versions": self.versions,
            "files": self.files,
            "documents": self.documents,
        }


# Plan ---------------------------------------------------------------------------------------------------------------------


def findings(work: Work, stores: Stores) -> tuple[Finding, ...]:
    """Return what keeps some people's objects from being erased; their results are partial, those of others are not. Reads only."""
    known = list(assets_of(work.data_map, work.subjects))
    people = len({one.request_id for one in known})
    found = [
        Finding("assets", f"{sentence} The result of requests with objects ({people:,}) can be partial at best.")
        for sentence in (_of_assets(known, stores.assets) if known else ())
    ]
    if stores.exports is not None:
        there = (one.folder for one in copies.places(stores.storage) if one.is_export)
        found += exports.findings(stores.exports, there)
    return tuple(found)


def gaps(work: Work, stores: Stores) -> tuple[Finding, ...]:
    """Return what keeps anybody's documents from being taken out of files; everybody's result is partial with one. Reads only."""
    period = work.data_map.backups_period
    horizon = periods.before(datetime.now(UTC), period)
    try:
        made = [one for one in copies.places(stores.storage) if one.kind == "export" and manifest.FILE in one.current]
        old = sum(1 for one in made if (moment := copies.finished_at(one)) is None or moment < horizon)
    except StorageDeniedError as error:
        return (Finding("storage", f"Snapshots cannot be looked through: {error}"),)
    return (Finding("storage", _outdated(old, period)),) if old and stores.exports is None else ()


def _outdated(number: int, period: str) -> str:
    return (
        f"{number:,} exports below the environment's storage are older than any backup may be (data_map.yaml, backups: {period}) and may "
        "hold these people. Remove them."
    )


def _of_assets(known: Sequence[Asset], assets: Folder | None) -> Iterator[str]:
    if assets is None:
        yield f"{len(known):,} objects are named, and the environment has no `assets` (include/environments.yaml): they stay."
        return
    if not versions.is_known(assets):
        yield f"{show(assets)}: how this store keeps versions is not known, so nobody can say that all of them go."
    placed = [place_of(assets, one.key) for one in known]
    astray = placed.count(None)
    if astray:
        yield f"{astray:,} keys of objects lead out of {show(assets)} or are none, and are not followed. Look at these documents by hand."
    try:
        next((versions.of_file(place) for place in placed if place is not None), None)
    except (StorageDeniedError, StorageFailedError) as error:
        yield f"Objects cannot be looked at: {error}"


# Run ----------------------------------------------------------------------------------------------------------------------


def erase(work: Work, stores: Stores, lease: Lease, plan_digest: str, is_migrating: Callable[[], bool]) -> Erased:
    """Erase the people's objects and take them out of copies; a retry goes on where a killed try stopped.

    Args:
        work: the people of the run.
        stores: where to look.
        lease: of this stage.
        plan_digest: the plan that was approved.
        is_migrating: says whether a migration is under way, which may just be writing a snapshot.

    Raises:
        RunChangedError: the run was stopped meanwhile.
        StorageFailedError, MigrationsBusyError: run again.
    """
    if stores.assets is not None and versions.is_known(stores.assets):
        known = list(assets_of(work.data_map, work.subjects))
        for start in range(0, len(known), CHUNK):
            _go_on(work, lease, plan_digest)
            _erase_assets(work, stores.assets, known[start : start + CHUNK])
    if is_migrating():
        raise MigrationsBusyError(
            "A migration is under way and may be writing snapshots. Run again when it is through."
        )
    there: list[Folder] = []
    try:
        for place in copies.places(stores.storage):
            _go_on(work, lease, plan_digest)
            if place.kind != "export":
                _clean(work, stores.storage, place)
            if place.is_export:
                there.append(place.folder)
    except StorageDeniedError as error:  # what stays there, the verification finds
        log.warning("Copies were not cleaned: %s", error)
    if stores.exports is not None:
        for folder in exports.folders(stores.exports, there)[0]:
            _go_on(work, lease, plan_digest)
            _clean_export(work, stores.exports, folder)
    return erased(work)


def erased(work: Work) -> Erased:
    """Add up what the stage did in a run."""
    total: Counter[str] = Counter()
    for one in work.db[RESULTS].find({"run": work.run, "rule": {"$in": [OBJECTS, COPIES]}}):
        total.update({name: int(one.get(name, 0)) for name in Erased().as_dict()})
    return Erased(**total)


def _go_on(work: Work, lease: Lease, plan_digest: str) -> None:
    lease.check()
    wanted = {"_id": work.run, "state": EXECUTING, "plan_digest": plan_digest, "map_digest": work.data_map.digest}
    if work.db[RUNS].find_one(wanted, {"_id": 1}) is None:
        raise RunChangedError(
            f"The run {work.run} was stopped, or its plan or the data map changed. Plan and approve it again."
        )


def _erase_assets(work: Work, assets: Folder, some: Sequence[Asset]) -> None:
    """Note what is there, then remove it: whatever kills this in between, the numbers are those of the first look."""
    held = holds.active(work.db)
    kept = held_keys(work.db, held, some)
    free = [one for one in some if not held.of(work.references[one.request_id]) and key_of(one.key) not in kept]
    placed = [(one, place) for one in free if (place := place_of(assets, one.key)) is not None]
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            there = list(pool.map(lambda pair: versions.of_file(pair[1]), placed))
            _note_objects(work, [(one, found) for (one, _), found in zip(placed, there, strict=True) if found])
            list(pool.map(lambda pair: versions.remove(pair[0][1], pair[1]), zip(placed, there, strict=True)))
    except StorageDeniedError as error:  # what stays there, the verification finds
        log.warning("Objects were not removed: %s", error)


def _note_objects(work: Work, found: Sequence[tuple[Asset, Sequence[versions.Version]]]) -> None:
    by_request: defaultdict[str, list[int]] = defaultdict(list)
    for one, there in found:
        by_request[one.request_id].append(sum(1 for version in there if not version.marker))
    writes = [
        _result(work, OBJECTS, request, {request: len(numbers)}, {"objects": len(numbers), "versions": sum(numbers)})
        for request, numbers in by_request.items()
    ]
    if writes:
        work.db[RESULTS].bulk_write(writes, ordered=False)


def _result(work: Work, rule: str, key: str, people: Mapping[str, int], counts: Mapping[str, int]) -> UpdateOne:
    """Return the write that keeps what was seen first; a retry that sees less changes nothing. ``counts`` are for the rules' tallies."""
    rest: dict[str, Any] = {
        "run": work.run,
        "rule": rule,
        "counts": [],
        "people": [list(pair) for pair in sorted(people.items())],
    }
    names = {"documents": 0, **counts}
    return UpdateOne({"_id": f"{work.run}/{rule}/{key}"}, {"$setOnInsert": rest, "$max": names}, upsert=True)


def _clean_export(work: Work, known: Exports, folder: Folder) -> None:
    def note(taken: Taken) -> None:
        key = f"{folder.path.strip('/')}/{taken.before[:16]}"
        counts = {"files": 1, "documents": taken.documents}
        work.db[RESULTS].bulk_write([_result(work, COPIES, key, taken.by_request, counts)])

    exports.clean(work, holds.active(work.db), known, folder, note)


def _clean(work: Work, storage: Folder, place: copies.Place) -> None:
    held = holds.active(work.db)
    try:
        if place.kind == "snapshot":
            done = copies.rewrite(work, held, place)
        else:
            done = copies.sweep(work, held, storage, place)
    except SnapshotCorruptError as error:  # nobody can restore it; the verification says whose traces it holds
        log.warning("%s", error)
        return
    if done.documents or done.by_request:
        key = f"{place.folder.path.strip('/')}/{len(place.files)}"
        counts = {"files": 1, "documents": done.documents}
        work.db[RESULTS].bulk_write([_result(work, COPIES, key, done.by_request, counts)])
