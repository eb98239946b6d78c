"""The certificate of one person's erasure: what was done by which rule, what was kept and why, what was looked at, what is not proven.

It names a keyed reference, never the person. Its digest stands in the erasure ledger. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from mongo_ops import __version__
from mongo_ops.erasure.model import DataMap, Plan, Request, Rule, State, Tally
from mongo_ops.erasure.verify import Verification
from mongo_ops.mongo.documents import digest

FORMAT, VERSION = "mongo-ops erasure certificate", 1
TEMPLATES = Path(__file__).parent / "templates"


def certificate(
    request: Request,
    outcome: State,
    plan: Plan,
    data_map: DataMap,
    tallies: Sequence[Tally],
    verification: Verification,
    traces: int,
    run_id: str,
    at: datetime,
    backups_until: datetime,
) -> dict[str, Any]:
    """Return a request's certificate, with its digest.

    Args:
        request: as it was received.
        outcome: what it comes to.
        plan: what was approved.
        data_map: by which it was done.
        tallies: what each rule did, for all requests of the run.
        verification: what was seen afterwards.
        traces: how many traces of this person the scan had seen before.
        run_id: which run did it.
        at: when it was complete.
        backups_until: when the last backup that may hold the person is gone.
    """
    made = {
        "format": FORMAT,
        "version": VERSION,
        "request_id": request.id,
        "subject_ref": request.subject_ref,
        "environment": plan.environment,
        "database": plan.database,
        "received_at": _time(request.received_at),
        "due_at": _time(request.due_at),
        "completed_at": _time(at),
        "in_time": at <= request.due_at,
        "outcome": str(outcome),
        "run_id": run_id,
        "plan_digest": plan.digest,
        "data_map": {"version": data_map.version, "digest": data_map.digest},
        "rules": [
            _rule(data_map.rule(one.rule), one.by_request[request.id])
            for one in tallies
            if request.id in one.by_request
        ],
        "retained": _retained(request.id, data_map, tallies, verification),
        "verification": {
            "traces_before": traces,
            "traces_after": verification.offenders.get(request.id, 0),
            "traces_that_may_stay": verification.allowed.get(request.id, 0),
            "collections_scanned": verification.collections,
            "rules_checked": len(verification.left),
        },
        "not_proven": _not_proven(data_map, backups_until),
        "backups_until": _time(backups_until),
        "software": f"mongo-ops {__version__}",
    }
    return {**made, "digest": digest(made)}


def is_genuine(document: Mapping[str, Any]) -> bool:
    """Say whether a certificate's content fits its digest. Whether the digest is the issued one, the ledger says."""
    return document.get("digest") == digest({name: value for name, value in document.items() if name != "digest"})


def as_page(document: Mapping[str, Any]) -> str:
    """Return the certificate as a page to read and to print: one HTML file, nothing loaded from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - only who prints one needs it

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("certificate.html").render(c=document)


def _rule(rule: Rule, documents: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "rule": rule.id,
        "collection": rule.collection,
        "action": rule.action,
        "documents": documents,
    }
    return said | {"why": rule.why}


def _retained(
    request_id: str, data_map: DataMap, tallies: Sequence[Tally], verification: Verification
) -> list[dict[str, Any]]:
    """Name what stays, with its legal ground: kept as it is, or under the reference."""
    kept = {one.rule: one.retained_by_request.get(request_id, 0) for one in verification.left}
    done = {one.rule: one.by_request.get(request_id, 0) for one in tallies}
    found = []
    for rule in data_map.rules:
        documents = kept.get(rule.id, 0) if rule.action == "retain" else done.get(rule.id, 0)
        if rule.ground is not None and documents:
            form = "as it is" if rule.action == "retain" else "under the subject reference"
            found.append(
                {
                    "rule": rule.id,
                    "collection": rule.collection,
                    "documents": documents,
                    "form": form,
                    **asdict(rule.ground),
                }
            )
    return found


def retains(request_id: str, data_map: DataMap, tallies: Sequence[Tally], verification: Verification) -> bool:
    """Say whether something of this person's stays on a legal ground."""
    return bool(_retained(request_id, data_map, tallies, verification))


def _not_proven(data_map: DataMap, backups_until: datetime) -> list[str]:
    return [
        f"Backups made before may hold the data until {backups_until:%Y-%m-%d}; what is restored from them is erased again (`mongo-ops erase replay`).",
        "The server's oplog holds the former documents until its window has passed, and the disk until its blocks are used again.",
        "The server's records of sessions hold the last document that each session changed by findAndModify, for 30 minutes.",
        f"Recipients were told; what they did is theirs to prove: {', '.join(sorted(data_map.recipients)) or 'none'}.",
        "Numeric identifiers were looked for where the data map says, not everywhere: a small number stands for many things.",
    ]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
