"""A session of health checks on a test's database, and what a run comes to."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace

from mongo_ops.health import session as sessions
from mongo_ops.health.model import Limits
from mongo_ops.health.run import chosen
from mongo_ops.health.session import Session
from mongo_ops.health.sight import HealthGuard
from mongo_ops.health.thresholds import load_thresholds
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.orchestration.health_facts import outside

SHARED_OPLOG = "oplog_window"  # the tests before may have filled the small oplog of the server that all of them share
OLD_SERVER = "server_version"  # the tests' own server is past its end of life, which is true and no fault of a test


def until(condition, what, seconds=30.0):
    """Wait until something holds; return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def shipped():
    """The shipped thresholds, without waiting between samples."""
    return replace(load_thresholds(), sample_seconds=0.0)


def thresholds(**limits):
    """The shipped thresholds with some limits replaced, without what is true of the tests' own server."""
    found = shipped()
    off = {name: Limits(enabled=False) for name in (OLD_SERVER, SHARED_OPLOG)}
    own = {name: replace(found.limits.get(name, Limits()), **given) for name, given in limits.items()}
    return replace(found, limits={**found.limits, **off, **own})


@contextmanager
def looking(replica_set, target, found=None, options=None, **outsides):
    """Yield a session through a client that cannot write."""
    spec = ConnectionSpec(
        "mongo_development", replica_set.uri, replica_set.nodes[0].address, target.database, options or {}
    )
    guard = HealthGuard()
    with connect(spec, target.environment, listeners=(guard,)) as reading:
        yield Session(reading, spec, guard, found or thresholds(), replace(outside(reading), **outsides))


def look(session, target, run_id, groups=()):
    """Carry a run out and store it."""
    return sessions.record(target, session.run(run_id, chosen(groups)), session.thresholds)


def told(run):
    """What the run says: {(check, scope): (status, transition)}."""
    return {(one.check, one.finding.scope): (str(one.finding.status), str(one.transition)) for one in run.judged}
