"""What the database remembers of transfers: ``ops_transfers``, one document per run, and the audit log's entries.

The health check reads the age of the last backup there: ``{"kind": "export", "backup": true}``, newest ``finished_at``. Erasure reads where
exports are, so a destination is noted before the first document is written there.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from mongo_ops import audit
from mongo_ops.audit import AuditEntry

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.connection import Target
    from mongo_ops.transfer.import_model import ImportPlan
    from mongo_ops.transfer.manifest import ManifestModel
    from mongo_ops.transfer.model import ExportPlan

TRANSFERS = "ops_transfers"


def note_destination(target: Target, plan: ExportPlan, run_id: str) -> None:
    """Note where an export is written, once however often it is called.

    ``host`` is the machine whose folder it may be; None below the environment's storage, which all machines share.
    """
    is_shared = f"{_bare(plan.destination)}/".startswith(f"{_bare(target.environment.storage)}/")
    noted = {
        "kind": "export",
        "destination": plan.destination,
        "storage_connection": plan.storage_connection,
        "host": None if is_shared else socket.gethostname(),
        "run_id": run_id,
        "plan_digest": plan.digest,
    }
    fields: dict[str, Any] = {name: {"$ifNull": [f"${name}", {"$literal": value}]} for name, value in noted.items()}
    fields["begun_at"] = {"$ifNull": ["$begun_at", "$$NOW"]}
    target.db[TRANSFERS].update_one({"_id": key_of(run_id, plan.digest)}, [{"$set": fields}], upsert=True)


def _bare(uri: str) -> str:
    return uri.removeprefix("file://").rstrip("/")


def key_of(run_id: str, plan_digest: str) -> str:
    """Return the key of an export's document."""
    return f"export/{run_id}/{plan_digest[:16]}"


def record_export(target: Target, found: ManifestModel, plan: ExportPlan, actor: str | None) -> None:
    """Note a finished export, once however often it is called."""
    facts = {
        "kind": "export",
        "backup": found.everything and found.projection is None and found.file_format == "bson",
        "destination": plan.destination,
        "consistency": found.consistency,
        "cluster_time": found.moment,
        "collections": [collection.name for collection in found.collections],
        "documents": found.total.count,
        "bytes": found.total.bytes,
        "manifest_sha256": found.manifest_sha256,
    }
    record(
        target,
        key_of(found.run_id, found.plan_digest),
        facts,
        "export.finished",
        found.run_id,
        found.plan_digest,
        actor,
    )


def record_import(
    target: Target, key: str, plan: ImportPlan, report: Mapping[str, Any], run_id: str, actor: str | None
) -> None:
    """Note a finished import, once however often it is called."""
    facts = {
        "kind": "import",
        "source": plan.source,
        "mode": plan.request.mode,
        "collections": list(report["collections"]),
        "documents": report["content"]["count"],
        "rejected": report["rejected"],
        "report": dict(report),
    }
    record(target, key, facts, "import.finished", run_id, plan.digest, actor)


def record(
    target: Target,
    key: str,
    facts: Mapping[str, Any],
    action: str,
    run_id: str,
    plan_digest: str,
    actor: str | None,
) -> None:
    """Write the document and the audit entry in one transaction, unless they are there."""
    counts = {name: facts[name] for name in ("documents", "rejected") if name in facts}
    entry = AuditEntry(
        action=action,
        entity_type="transfer",
        entity_id=plan_digest[:16],
        actor=actor,
        actor_kind="os" if actor else "system",
        environment=target.environment.name,
        plan_digest=plan_digest,
        run_id=run_id,
        result="done",
        details={**counts, "collections": list(facts["collections"])},
    )
    transfers = target.db[TRANSFERS]

    def body(session: ClientSession) -> None:
        fields = {name: {"$literal": value} for name, value in facts.items()}
        fields |= {"run_id": {"$literal": run_id}, "plan_digest": {"$literal": plan_digest}}
        new = [{"$set": {**fields, "finished_at": {"$ifNull": ["$finished_at", "$$NOW"]}}}]
        before = transfers.find_one_and_update({"_id": key}, new, upsert=True, session=session)
        if before is None or "finished_at" not in before:
            audit.append(target.db, session, entry)

    if target.db[TRANSFERS].find_one({"_id": key, "finished_at": {"$exists": True}}, {"_id": 1}) is not None:
        return
    with target.client.start_session() as session:
        session.with_transaction(body, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority"))
