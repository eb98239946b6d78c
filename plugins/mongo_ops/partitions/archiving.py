"""Archive to object storage, verified, before anything is deleted. Whole months and cold documents go the same way out.

A cold document is deleted only when what is in the database is, byte for byte, what is in the archive. One that was changed since stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mongo_ops.partitions import raw
from mongo_ops.partitions.errors import ArchiveDiffersError
from mongo_ops.partitions.files import FileWalk
from mongo_ops.partitions.moving import dated
from mongo_ops.storage import Folder, show
from mongo_ops.transfer import engine, manifest
from mongo_ops.transfer.manifest import ManifestModel

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.model import PartitionPlan, PartitionStep
    from mongo_ops.partitions.protecting import Protected
    from mongo_ops.partitions.work import Work

FORMAT = "bson.zst"


def export(work: Work, folder: Folder, name: str, where: Mapping[str, Any], run_id: str) -> ManifestModel:
    """Export a collection, or what a filter selects of it, and read every file again. A retry goes on; a finished one is kept.

    Raises:
        ArchiveDiffersError: what was written cannot be read back.
        DestinationBusyError: another run left an unfinished archive there.
    """
    if not manifest.finished(folder):
        request = engine.ExportRequest(collections=(name,), format=FORMAT, where=where, consistency="prefer_snapshot")
        made = engine.plan_export(work.target, folder, request)
        for part in made.parts:
            engine.export_part(work.target, folder, made, part.number, run_id=run_id, report=work.report)
        engine.finish_export(work.target, folder, made, run_id=run_id, actor=work.occasion.actor.name)
    seen = engine.verify_export(folder, (name,))
    if not seen.ok:
        raise ArchiveDiffersError(
            f"{show(folder)} was read back and is not what was written ({seen}). Nothing was dropped."
        )
    return manifest.read(folder)


def archive_cold(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Write the cold documents to object storage with a manifest, and verify it. Return {archived}."""
    collection = plan.request.collection
    where = dated(plan.request.key, datetime.fromisoformat(step.data["before"]))
    folder = cold_folder(work, plan, step)
    lease.check()
    made = export(work, folder, collection, where, work.occasion.run_id)
    facts = {"collection": collection, "before": step.data["before"], "documents": made.total.count}
    facts |= {"destination": show(folder), "manifest_sha256": made.manifest_sha256}
    work.note(lease, cold_key(work, plan), "archived", facts, plan_digest=plan.digest)
    return {"archived": made.total.count}


def delete_cold(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Delete what the archive holds and nothing protects; return {deleted, changed, gone, held}, all tries together."""
    key, collection = cold_key(work, plan), plan.request.collection
    known = work.noted(key, "deleted")
    if known is not None:
        return _tally(known)
    folder = cold_folder(work, plan, step)
    found = manifest.read(folder)
    treat = _Deletion(work.db, collection, work.protected(plan.request)).treat
    prefix = f"partition/{work.occasion.run_id}/delete/{collection}"
    done = FileWalk(work, lease, folder, prefix).run(found, collection, treat)
    work.note(lease, key, "deleted", _tally(done), plan_digest=plan.digest, forget=f"{prefix}/")
    return _tally(done)


def cold_folder(work: Work, plan: PartitionPlan, step: PartitionStep) -> Folder:
    """Return where a run's cold documents go: a folder of its own, since later runs find others before the same day."""
    name = f"{plan.request.collection}-before-{step.data['before'][:10]}-{_short(work.occasion.run_id)}"
    return work.folder / name


def cold_key(work: Work, plan: PartitionPlan) -> str:
    """Return under which key a run's archive is written down."""
    return f"{plan.request.collection}/cold/{work.occasion.run_id}"


def _tally(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(counts.get(name, 0)) for name in ("deleted", "changed", "gone", "held")}


def _short(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Deletion:
    """The transactions that delete what was archived."""

    db: Database[Document]
    collection: str
    protected: Protected

    def treat(self, session: ClientSession, documents: Sequence[bytes]) -> dict[str, int]:
        """Delete those that are in the database as they are in the archive, and that nothing protects."""
        archived = {raw.key_of(one): one for one in raw.documents(list(documents))}
        there = raw.namesakes(self.db, self.collection, list(archived.values()), session)
        same = [one["_id"] for key, one in archived.items() if there.get(key) == one]
        free = self.protected.free(self.db, self.collection, {"_id": {"$in": same}}, session) if same else []
        if free:
            self.db[self.collection].delete_many({"_id": {"$in": free}}, session=session)
        gone = len(archived) - len(there)
        return {"deleted": len(free), "held": len(same) - len(free), "gone": gone, "changed": len(there) - len(same)}
