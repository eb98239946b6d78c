"""Ten thousand people in one run, in a process of its own that says how much memory it took.

``python -m tests.mongo.erasure_crowd '{"uri": ..., "address": ..., "database": ..., "storage": ..., "people": ...}'`` prints one JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Binary, ObjectId
from pymongo import monitoring
from tests.mongo.erasure_people import Course, N, oid
from tests.people import GRACE

from mongo_ops.erasure import closure, deadlines, holds, references, register, vault
from mongo_ops.erasure.conclusion import CERTIFICATES
from mongo_ops.erasure.register import REQUESTS
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment

NOBODY, HELD, SHARING = 0, 1, 2
"""The first three people of the batch: one who is not there, one under a legal hold, one whose number somebody else has too."""


class Commands(monitoring.CommandListener):
    """Counts the commands that read collections whole or in part."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in {"find", "aggregate"}:
            self.seen[event.command_name, str(event.command[event.command_name])] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to count."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to count."""


def user(number: int) -> ObjectId:
    return oid(number, "6b0a5000")


def populate(db: Any, people: int) -> None:
    """Twice as many people as will be erased, each with a few documents; without validators, which are not what is tested."""
    for name in ("users", "analytics", "playlists", "versioning", "audit_log", "consent"):
        db.command("collMod", name, validationLevel="off")
    everybody = range(2 * people)
    db.users.insert_many(
        [
            {"_id": user(n), "email": f"user{n}@example.com", "display_name": f"N{n}", "phone": f"+49 30 {n:08}"}
            for n in everybody
            if n != NOBODY
        ]
    )
    db.users.insert_one({"_id": user(2 * people), "email": "extra@example.com", "phone": f"+49 30 {SHARING:08}"})
    shown = [n for n in everybody if n != NOBODY]
    db.analytics.insert_many([{"event_type": "play", "user_id": user(n), "ts": N} for n in shown])
    db.consent.insert_many([{"user_id": user(n), "type": "marketing", "granted": True} for n in shown[::2]])
    db.playlists.insert_many(
        [
            {"name": "p", "owner_id": None, "tracks": [{"added_by": user(n)}, {"added_by": user(n + 1)}]}
            for n in shown[:-1:4]
        ]
    )
    db.versioning.insert_many(
        [{"entity_type": "x", "entity_id": n, "version": 1, "changed_by": user(n)} for n in shown[::10]]
    )
    db.audit_log.insert_many(
        [
            {
                "entity_type": "x",
                "entity_id": n,
                "action": "x",
                "actor_id": str(user(n)),
                "details": {"to": f"user{n}@example.com"},
            }
            for n in shown[::10]
        ]
    )


def requests_of(course: Course, people: int) -> list[str]:
    """Store the people's requests as ``requests.receive`` does, without its evidence: ten thousand of those take minutes."""
    register.prepare(course.db, course.keyring)
    now, documents = datetime.now(UTC) - timedelta(minutes=1), []
    for number in range(people):
        known = references.references_of(course.keyring, "user_id", user(number))
        request = register.new_id("er")
        sealed = vault.seal(course.keyring, {"request": request, "identifier": "user_id", "value": user(number)})
        documents.append(
            {"_id": request, "environment": "development", "state": "received", "open": True, "subject_ref": known[0],
             "references": list(known), "sealed": Binary(sealed), "received_at": now, "due_at": deadlines.due(now), "source": "web",
             "reopened": 0, "run_id": None, "outcome": {}, "transitions": []}
        )  # fmt: skip
    course.db[REQUESTS].insert_many(documents)
    return [one["_id"] for one in documents]


def peak() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Run the batch and say what it took."""
    people = job["people"]
    environment = Environment("development", "mongo_development", database=job["database"], storage=job["storage"])
    spec = ConnectionSpec("mongo_development", job["uri"], job["address"], job["database"])
    commands = Commands()
    monitoring.register(commands)
    with connect(spec, environment) as target:
        course = Course(target).model()
        populate(course.db, people)
        ids = requests_of(course, people)
        now = datetime.now(UTC)
        review = now + timedelta(days=9)
        told = {"reason_code": "litigation", "authority": "court", "review_at": review, "actor": GRACE, "now": now}
        holds.place(course.db, "development", holds.of_request(course.db, ids[HELD]), **told)
        batch = course.batch(*ids)
        before, began = peak(), time.monotonic()
        engine = course.engine
        plan = engine.plan(batch)
        engine.hold()
        engine.begin(plan)
        commands.seen.clear()
        for stage in ("leaves", "parents", "root"):
            for rule in plan.stage(stage):
                engine.carry_out(plan, rule)
        walks = {f"{name}.{collection}": count for (name, collection), count in commands.seen.items()}
        engine.sweep(plan)
        engine.verify(plan)
        concluded = engine.conclude(plan)
        engine.release()
        return {
            "ids": ids[:3],
            "states": concluded.states,
            "state_of": [course.state(one) for one in ids[:3]],
            "counts": {one.rule: [one.documents, one.indexed] for one in plan.counts if one.documents},
            "walks": walks,
            "certificates": course.db[CERTIFICATES].count_documents({}),
            "closures": course.db[closure.CLOSURES].count_documents({}),
            "left": {name: course.db[name].count_documents({}) for name in ("users", "analytics")},
            "theirs": course.db.analytics.count_documents({"user_id": {"$lt": user(people)}}),
            "added_by": len([one for one in course.db.playlists.distinct("tracks.added_by") if one < user(people)]),
            "seconds": time.monotonic() - began,
            "before": before,
            "peak": peak(),
        }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
