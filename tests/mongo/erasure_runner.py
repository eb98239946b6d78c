"""An erasure in a process of its own, from wherever a killed one stopped to its end, with a point at which to kill -9 itself.

A process is forked from a server that has imported everything, so that a test can afford dozens of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mongo.erasure_people import ANN, Course, files, images, traced_places
from tests.people import keyring

from mongo_ops.erasure import ledger, tombstones
from mongo_ops.erasure.conclusion import certificates
from mongo_ops.erasure.model import STAGES
from mongo_ops.erasure.plan import as_value, of_value
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.lease import Lease
from mongo_ops.settings import Environment

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.mongo.erasure_runner"])
DEADLINE = 60.0


@dataclass(frozen=True)
class Point:
    """Where to die: at the n-th transaction of a lease (``before`` it begins, ``in`` it, ``after`` its commit), or after a step."""

    name: str
    nth: int = 1
    when: str = "before"


@dataclass(frozen=True)
class Job:
    """What a process needs to know; ``plan`` is a file that keeps the plan, as Airflow keeps what its tasks hand on."""

    uri: str
    address: str
    database: str
    storage: str
    keys: dict[str, str]
    run: str
    plan: str
    environment: dict[str, Any]


def job_of(course: Course, keys: dict[str, str], run: str, plan: Path, uri: str, **environment: Any) -> Job:
    """The job of going on with a course."""
    host, port = course.target.client.address
    storage = course.target.environment.storage
    return Job(uri, f"{host}:{port}", course.target.database, storage, keys, run, str(plan), environment)


def process(job: Job, point: Point | None = None) -> Any:
    """Start a process; it ends with 0 when the course is done."""
    started = CONTEXT.Process(target=go_on, args=(job, point), daemon=True)
    started.start()
    return started


def killed(job: Job, point: Point) -> bool:
    """Run a process and say whether it died where it should."""
    running = process(job, point)
    running.join(DEADLINE)
    assert running.exitcode in (0, -signal.SIGKILL), (point, running.exitcode)
    return running.exitcode != 0


def go_on(job: Job, point: Point | None) -> None:
    """Go through the course."""
    environment = Environment(
        "development", "mongo_development", database=job.database, storage=job.storage, **job.environment
    )
    spec = ConnectionSpec("mongo_development", job.uri, job.address, job.database)
    with connect(spec, environment) as target:
        step = _arm(point)
        course, kept = Course(target, keyring=keyring(job.keys)), Path(job.plan)
        if not kept.exists():
            planned = as_value(course.engine.plan(job.run))
            kept.with_suffix(".new").write_text(json.dumps(planned))
            kept.with_suffix(".new").rename(kept)
        step("planned")
        plan = of_value(json.loads(kept.read_text()))
        if course.state(job.run).startswith("completed"):  # a retry of the last task
            course.engine.conclude(plan)
            course.engine.release()
            return
        course.engine.hold(DEADLINE)
        course.engine.begin(plan)
        step("begun")
        course.execute(plan)
        step("executed")
        course.engine.sweep(plan)
        step("swept")
        course.engine.verify(plan)
        step("verified")
        course.engine.conclude(plan)
        step("concluded")
        course.engine.release()


def _arm(point: Point | None) -> Any:
    """Lay the mine; return what to call after each step."""
    seen: dict[str, int] = {}
    original = Lease.transaction

    def here(name: str, when: str) -> None:
        if point is not None and (point.name, point.nth, point.when) == (name, seen.get(name, 0), when):
            os.kill(os.getpid(), signal.SIGKILL)

    def transaction(self: Lease, body: Any) -> Any:
        name = self.resource
        seen[name] = seen.get(name, 0) + 1

        def mined(session: Any) -> Any:
            result = body(session)
            here(name, "in")
            return result

        here(name, "before")
        result = original(self, mined)
        here(name, "after")
        return result

    def step(name: str) -> None:
        seen[name] = 1
        here(name, "before")

    Lease.transaction = transaction  # type: ignore[method-assign]
    return step


def boundaries(plan: Any) -> Iterator[Point]:
    """Every step of a course, and the first batch of every rule, killed before, in or after its transaction."""
    whole, sweep = "erasure", "erasure.sweep"
    yield from (Point("planned"), Point(whole, 1, "after"), Point(whole, 2, "in"), Point("begun"))
    for number, rule in enumerate(rule for stage in STAGES for rule in plan.stage(stage)):
        yield Point(f"{whole}.{rule}", 1, "in" if number == 3 else ("before", "after")[number % 2])
    yield from (Point("executed"), Point(sweep, 1), Point(sweep, 5, "after"), Point("swept"))
    yield from (
        Point(whole, 1, "after"),
        Point("verified"),
        Point(whole, 2, "in"),
        Point(whole, 2, "after"),
        Point(whole, 1),
    )


def outcome(course: Course, request: str) -> dict[str, Any]:
    """What must be the same whether or not a run was killed."""
    (made,) = certificates(course.db, request)
    events = Counter(one["action"] for one in course.db[ledger.LEDGER].find())
    return {
        "documents": images(course.db),
        "log": [
            (one["_id"], one["entity_id"], one["actor_id"], one["details"])
            for one in course.db.audit_log.find({"chain": None})
        ],
        "state": course.state(request),
        "done": {one["rule"]: one["documents"] for one in made["rules"]},
        "retained": {one["rule"]: one["documents"] for one in made["retained"]},
        "stones": sorted(stones(course)),
        "events": events,
        "places": set(traced_places(course.target.client, ANN)),
    }


def stones(course: Course) -> list[str]:
    """The digests of all tombstones."""
    lines = (
        json.loads(line) for path in files(tombstones.at(course.folder)) for line in path.read_bytes().splitlines()
    )
    return [one["hash"] for one in lines if "hash" in one]
