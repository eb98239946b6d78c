"""Take month collections out of use: first out of the readers' view and the writers' reach, then to object storage, then away.

The rename to ``..._retired`` fences writers: what still addresses the month makes a new collection of that name, which is met by a later
run. So nobody writes to what is being archived, and its content must equal the archive's before it is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mongo_ops.partitions import archiving, catalogue, privileges
from mongo_ops.partitions.errors import ArchiveDiffersError
from mongo_ops.partitions.months import RETIRED
from mongo_ops.partitions.protecting import insist_on_free
from mongo_ops.partitions.work import PARTITIONS
from mongo_ops.storage import Folder, show
from mongo_ops.transfer import content, manifest, reading
from mongo_ops.transfer.content import Content

if TYPE_CHECKING:
    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.model import PartitionPlan, PartitionStep
    from mongo_ops.partitions.work import Work

AVERAGE = 512.0
DROPPING = "dropping"


def archive_month(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Retire a month and write it to object storage, verified. Return {archived}.

    Raises:
        HeldError: a document in it must stay; the month is as it was.
    """
    name = step.subject
    settle(work, plan, lease)
    if (known := _dropped(work, name)) is not None:
        return {"archived": int(known["documents"])}
    _retire(work, plan, name, lease)
    uuid = _uuid(work, name)
    folder = month_folder(work, name, uuid)
    made = archiving.export(work, folder, f"{name}{RETIRED}", {}, f"partition {name} {uuid}")
    facts = {"collection": name, "documents": made.total.count, "destination": show(folder)}
    facts |= {"manifest_sha256": made.manifest_sha256}
    work.note(lease, _key(name, uuid), "archived", facts, plan_digest=plan.digest)
    return {"archived": made.total.count}


def drop_month(work: Work, plan: PartitionPlan, step: PartitionStep, lease: Lease) -> dict[str, int]:
    """Drop a retired month whose archive holds exactly its documents (or that shall go without one). Return {dropped, documents}.

    Raises:
        ArchiveDiffersError, HeldError: the month stays, retired.
    """
    name, retired = step.subject, f"{step.subject}{RETIRED}"
    settle(work, plan, lease)
    if (known := _dropped(work, name)) is not None:
        return {"dropped": 1, "documents": int(known["documents"])}
    if not plan.request.archive:
        _retire(work, plan, name, lease)
    uuid = _uuid(work, name)
    here = _content(work, retired)
    if plan.request.archive:
        _insist_on_same(month_folder(work, name, uuid), retired, here)
    insist_on_free(work.db, work.protected(plan.request), retired)
    facts = {
        "collection": name,
        "of": plan.request.collection,
        "uuid": uuid,
        "documents": here.count,
        "digest": here.digest,
    }
    work.note(lease, _key(name, uuid), DROPPING, facts, plan_digest=plan.digest)
    lease.check()
    work.db.drop_collection(retired)
    settle(work, plan, lease)
    return {"dropped": 1, "documents": here.count}


def settle(work: Work, plan: PartitionPlan, lease: Lease) -> None:
    """Write down the drops that a killed run came to carry out but not to write down; take the privileges on what is gone."""
    uuids = set(catalogue.holdings(work.db, plan.request.collection).uuids.values())
    for one in list(work.db[PARTITIONS].find({"of": plan.request.collection, "state": DROPPING})):
        if one["uuid"] not in uuids:
            privileges.revoke(work.db, one["collection"])
            facts = {name: one[name] for name in ("collection", "uuid", "documents", "digest")}
            work.note(lease, one["_id"], "dropped", facts, plan_digest=one["plan_digest"])


def month_folder(work: Work, name: str, uuid: str) -> Folder:
    """Return a month's archive: one per incarnation of its collection, so that any later run goes on with it."""
    return work.folder / f"{name}-{uuid[:8]}"


def _retire(work: Work, plan: PartitionPlan, name: str, lease: Lease) -> None:
    """Rename the month, unless an earlier try has; what came under its name since is left to a later run."""
    there = catalogue.holdings(work.db, plan.request.collection)
    if there.is_collection(f"{name}{RETIRED}"):
        return
    insist_on_free(work.db, work.protected(plan.request), name)
    lease.check()
    work.db[name].rename(f"{name}{RETIRED}")


def _dropped(work: Work, name: str) -> Mapping[str, Any] | None:
    """Return what this very run wrote down about a month that it has dropped, or None."""
    return work.db[PARTITIONS].find_one({"collection": name, "run_id": work.occasion.run_id, "state": "dropped"})


def _uuid(work: Work, name: str) -> str:
    """Return what tells a retired month from a later one of the same name."""
    uuid = catalogue.holdings(work.db, name).uuids.get(f"{name}{RETIRED}")
    if uuid is None:
        raise ArchiveDiffersError(f"{name} is gone: somebody else has dropped or renamed it. Make a new plan.")
    return uuid


def _key(name: str, uuid: str) -> str:
    return f"{name}/{uuid[:8]}"


def _insist_on_same(folder: Folder, retired: str, here: Content) -> None:
    there = manifest.content_of(manifest.read(folder).collection(retired).content)
    if there != here:
        raise ArchiveDiffersError(
            f"{show(folder)} holds {there.count:,} documents and {retired} holds {here.count:,}, or other ones: somebody wrote to it "
            "since. Nothing was dropped. Move the archive aside and run again."
        )


def _content(work: Work, name: str) -> Content:
    """Return the content digest of a whole collection."""
    find = {"find": name, "filter": {}, "hint": {"$natural": 1}, "readConcern": {"level": "majority"}}
    total = Content()
    for batch in reading.streams(work.db, find, AVERAGE):
        total += content.of_stream(batch)
    return total
