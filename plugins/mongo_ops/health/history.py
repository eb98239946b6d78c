"""What earlier runs found: ``ops_health``, one document per run, check and scope, and which of it is new.

Keeps numbers, states and sentences; no ids of documents, so that a person who is erased is not left here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo import ReplaceOne

from mongo_ops.health.model import Earlier, Judged, Result, Run, Status
from mongo_ops.health.sight import Point
from mongo_ops.health.verdict import UNABLE

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

HEALTH = "ops_health"
RUN, FINDING, SUMMARY = "run", "finding", "check"
KEPT_PER_CHECK = 200
POINTS = 400


def prepare(db: Database[Document]) -> None:
    """Make the indexes; does nothing when they are there."""
    db[HEALTH].create_index([("kind", 1), ("check", 1), ("scope", 1), ("at", 1)], name="kind_check_scope_time")
    db[HEALTH].create_index([("run", 1)], name="run")
    db[HEALTH].create_index([("at", 1)], name="time")


def earlier(db: Database[Document], checks: Iterable[str], before: datetime) -> dict[str, Earlier]:
    """Return what finished runs before a moment knew of each check, with two commands."""
    mine = {"$in": list(checks)}
    looked = {"$and": [{"$not": ["$off"]}, {"$or": [{"$ne": ["$status", str(Status.UNKNOWN)]}, "$findings"]}]}
    last: dict[str, Document] = {
        row["_id"]: row
        for row in db[HEALTH].aggregate([
            {"$match": {"kind": SUMMARY, "check": mine, "scope": "", "at": {"$lt": before}}},
            {"$group": {"_id": "$check", "last": {"$max": {"at": "$at", "unable_since": "$unable_since"}},
                        "looked": {"$max": {"$cond": [looked, {"at": "$at", "run": "$run"}, None]}}}},
        ])
    }  # fmt: skip
    runs = {name: row["looked"]["run"] for name, row in last.items() if row["looked"]}
    problems: dict[str, dict[str, tuple[Status, datetime]]] = {name: {} for name in last}
    for row in db[HEALTH].find({"kind": FINDING, "run": {"$in": sorted(set(runs.values()))}, "check": mine}):
        if runs.get(row["check"]) == row["run"] and Status(row["status"]).rank:
            problems[row["check"]][row["scope"]] = (Status(row["status"]), row["since"])
    return {name: Earlier(problems[name], row["last"].get("unable_since")) for name, row in last.items()}


def past(db: Database[Document], check: str, scope: str) -> list[Point]:
    """Return the last values of a finding, the oldest first."""
    query = {"kind": FINDING, "check": check, "scope": scope, "value": {"$ne": None}}
    rows = db[HEALTH].find(query, {"at": 1, "value": 1}).sort("at", -1).limit(POINTS)
    return [Point(row["at"], float(row["value"])) for row in rows][::-1]


def record(db: Database[Document], run: Run, keep_days: int) -> int:
    """Store a run, once however often it is called, and remove what is too old; return how many documents the run has."""
    prepare(db)
    unable = {one.check: one.since for one in run.judged if one.finding.scope == UNABLE and one.finding.status.rank}
    summaries = (_summary(run, result, unable.get(result.check)) for result in run.results)
    documents = [*_findings(run), *summaries, _run(run)]
    db[HEALTH].bulk_write([ReplaceOne({"_id": one["_id"]}, one, upsert=True) for one in documents], ordered=True)
    db[HEALTH].delete_many({"at": {"$lt": run.at - timedelta(days=keep_days)}})
    return len(documents)


def frame_rows(db: Database[Document], runs: int) -> tuple[list[Document], list[Document]]:
    """Return the last runs' summaries (for the heat map) and numeric findings (for trends), the oldest first."""
    ids = [row["run"] for row in db[HEALTH].find({"kind": RUN}, {"run": 1}).sort("at", -1).limit(runs)]
    mine = {"run": {"$in": ids}}
    summaries = list(
        db[HEALTH].find({**mine, "kind": SUMMARY}, {"run": 1, "at": 1, "check": 1, "status": 1}).sort("at", 1)
    )
    values = {"run": 1, "at": 1, "check": 1, "scope": 1, "value": 1, "unit": 1}
    return summaries, list(db[HEALTH].find({**mine, "kind": FINDING, "value": {"$ne": None}}, values).sort("at", 1))


def _base(run: Run, kind: str, check: str, scope: str) -> Document:
    return {
        "_id": f"{run.id}/{kind}/{check}/{scope}", "run": run.id, "kind": kind, "at": run.at, "environment": run.environment,
        "check": check, "scope": scope,
    }  # fmt: skip


def _findings(run: Run) -> list[Document]:
    judged: dict[tuple[str, str], Judged] = {(one.check, one.finding.scope): one for one in run.judged}
    made: list[Document] = []
    for result in run.results:
        kept = sorted(result.findings, key=lambda one: -one.status.rank)[:KEPT_PER_CHECK]
        for one in {finding.scope: finding for finding in reversed(kept)}.values():
            if not one.status.rank and one.value is None:
                continue
            place = judged.get((result.check, one.scope))
            facts: dict[str, Any] = {
                "status": str(one.status), "sentence": one.sentence, "value": one.value, "unit": one.unit,
                "transition": str(place.transition) if place and place.transition else None,
                "muted": place.muted if place else None, "since": place.since if place and place.since else run.at,
            }  # fmt: skip
            made.append(_base(run, FINDING, result.check, one.scope) | facts)
    return made


def _summary(run: Run, result: Result, unable_since: datetime | None) -> Document:
    facts = {
        "status": str(result.status),
        "findings": len(result.findings),
        "reason": result.reason,
        "error": result.error,
        "unable_since": unable_since,
    }
    return _base(run, SUMMARY, result.check, "") | facts | {"seconds": result.seconds, "off": result.off}


def _run(run: Run) -> Document:
    counts = count(run.results)
    return _base(run, RUN, "", "") | {
        "status": str(run.status),
        "counts": counts,
        "commands": run.commands,
        "seconds": run.seconds,
    }


def count(results: Sequence[Result]) -> dict[str, int]:
    """Return how many checks came to which status."""
    return {str(status): sum(1 for result in results if result.status is status) for status in Status}
