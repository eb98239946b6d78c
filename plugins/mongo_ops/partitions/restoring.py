"""The way back: documents of an archive into the database again, exactly once. What is there by its ``_id`` stays as it is.

Who was erased meanwhile does not come back. A collection that is gone is made again with the manifest's options and indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongo_ops.partitions import raw
from mongo_ops.partitions.errors import NothingToRestoreError
from mongo_ops.partitions.files import FileWalk
from mongo_ops.partitions.model import PartitionPlan, PartitionRequest, PartitionStep, Phase, insist_on_name
from mongo_ops.partitions.months import RETIRED
from mongo_ops.storage import show
from mongo_ops.transfer import catalogue, engine, manifest
from mongo_ops.transfer.engine import ImportRequest

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.work import Work

COUNTS = ("inserted", "present", "erased")


def steps(work: Work, request: PartitionRequest) -> tuple[tuple[PartitionStep, ...], tuple[str, ...]]:
    """Return what a restore will do, and notes.

    Raises:
        NothingToRestoreError: the archive does not hold one collection as documents byte for byte.
        ExportMissingError, ExportCorruptError: the archive is not usable.
    """
    found = manifest.read(work.folder)
    if len(found.collections) != 1 or found.file_format != "bson" or found.projection is not None:
        raise NothingToRestoreError(
            f"{show(work.folder)} is no archive of one collection, byte for byte. Load it with `mongo-ops import`."
        )
    name = found.collections[0].name
    here = request.into or name.removesuffix(RETIRED)
    insist_on_name(here)
    there = next(iter(work.db.list_collections(filter={"name": here})), None)
    if there is not None and (there["type"] != "collection" or there.get("options", {}).get("capped")):
        raise NothingToRestoreError(f"{here} is a {there['type']} of its own kind. Restore into another collection.")
    count = found.total.count
    data = {"name": name, "into": here, "manifest_sha256": found.manifest_sha256}
    sentence = f"bring {count:,} documents back into {here}" + ("" if there else ", which is made again")
    notes = ["Documents whose _id is in the database stay as they are there, and who was erased does not come back."]
    if name.endswith(RETIRED) and request.into is None:
        notes.append("A run of by_time with keep_months archives the month again when it is beyond those.")
    return (PartitionStep(phase=Phase.RESTORE, subject=here, sentence=sentence, data=data),), tuple(notes)


def restore(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Bring an archive back; return {inserted, present, erased}, all tries together.

    Raises:
        NothingToRestoreError: the archive is not the one of the plan any more.
        ExportCorruptError: a file is not what was written; nothing of it was loaded.
    """
    name, here, run_id = step.data["name"], step.subject, work.occasion.run_id
    key, prefix = f"{here}/restored/{run_id}", f"partition/{run_id}/restore/{here}"
    known = work.noted(key, "restored")
    if known is not None:
        return {one: int(known[one]) for one in COUNTS}
    found = manifest.read(work.folder)
    if found.manifest_sha256 != step.data["manifest_sha256"]:
        raise NothingToRestoreError(
            f"{show(work.folder)} holds another archive than the plan was made of. Make a new plan."
        )
    loading = engine.plan_import(work.target, work.folder, ImportRequest(collections={name: here}))
    lease.check()
    catalogue.create(work.db, loading.target(here))
    done = FileWalk(work, lease, work.folder, prefix).run(
        found, name, _Return(work.db, here, _refusals(work, name, here)).treat
    )
    with lease.renewing():
        catalogue.build_indexes(work.db, loading.target(here))
    counts = {one: int(done.get(one, 0)) for one in COUNTS}
    facts = {"collection": here, "source": show(work.folder), **counts}
    work.note(lease, key, "restored", facts, plan_digest=plan.digest, forget=f"{prefix}/")
    return counts


def _refusals(work: Work, name: str, here: str) -> tuple[Callable[[bytes], bool], ...]:
    """Return what says who was erased, by the rules for the collection that it was as well as for the one that it becomes."""
    if work.refusal is None:
        return ()
    found = (work.refusal(one) for one in dict.fromkeys((name.removesuffix(RETIRED), here)))
    return tuple(one for one in found if one is not None)


@dataclass(frozen=True)
class _Return:
    """The transactions that bring documents back."""

    db: Database[Document]
    collection: str
    refusals: tuple[Callable[[bytes], bool], ...]

    def treat(self, session: ClientSession, documents: Sequence[bytes]) -> dict[str, int]:
        """Insert the documents that are not there and that nobody was erased from."""
        wanted = raw.documents([one for one in documents if not any(refuses(one) for refuses in self.refusals)])
        there = raw.namesakes(self.db, self.collection, wanted, session)
        fresh = [one for one in wanted if raw.key_of(one) not in there]
        if fresh:
            collection = raw.collection_of(self.db, self.collection)
            collection.insert_many(fresh, bypass_document_validation=True, session=session)
        return {
            "inserted": len(fresh),
            "present": len(wanted) - len(fresh),
            "erased": len(documents) - len(wanted),
        }
