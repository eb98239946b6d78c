"""`mongo-ops health`: look after a deployment, say what is new, and write the report."""

from __future__ import annotations

import argparse
import uuid

from pymongo.errors import PyMongoError

from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.health import history, report
from mongo_ops.health.model import Status
from mongo_ops.health.run import chosen
from mongo_ops.health.session import Session, reach, record
from mongo_ops.health.sight import HealthGuard
from mongo_ops.health.thresholds import load_thresholds
from mongo_ops.mongo.connection import ServerUnreachableError, connect
from mongo_ops.orchestration.health_facts import outside
from mongo_ops.settings import load_environment

EXIT_CODES = {Status.OK: 0, Status.CRIT: 1, Status.WARN: 2, Status.UNKNOWN: 2, Status.SKIPPED: 0}


def health(arguments: argparse.Namespace) -> int:
    """Carry the checks out; the exit code says how bad it is."""
    checks, thresholds, guard = chosen(arguments.group), load_thresholds(), HealthGuard()
    environment = thresholds.as_seen(load_environment(arguments.env))
    spec = support.connection_spec(environment)
    with reach(spec, environment, guard) as target:
        session = Session(target, spec, guard, thresholds, outside(target))
        run = session.run(f"cli {uuid.uuid4().hex[:12]}", checks)
    rows = report.Rows()
    try:
        with connect(spec, environment) as target:
            run = run if arguments.dry_run else record(target, run, thresholds)
            rows = report.Rows(*history.frame_rows(target.db, report.RUNS_SHOWN))
    except (PyMongoError, ServerUnreachableError):
        run = report.without_history(run)
    if arguments.html:
        from mongo_ops.health import page  # noqa: PLC0415 - pandas and matplotlib, which only the page needs

        arguments.html.write_text(page.as_page(run, rows, thresholds), encoding="utf-8")
    show(arguments, report.as_value(run), report.as_text(run))
    return EXIT_CODES[run.status]
