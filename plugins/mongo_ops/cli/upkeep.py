"""The commands that look after a database's records: verify, unlock, snapshots, audit."""

from __future__ import annotations

import argparse
import dataclasses

from mongo_ops import audit as audit_log
from mongo_ops import storage
from mongo_ops.audit import anchors
from mongo_ops.cli import support
from mongo_ops.cli.output import show
from mongo_ops.migrations import engine
from mongo_ops.migrations import verify as checks
from mongo_ops.migrations.passage import audit_entry
from mongo_ops.migrations.resolve import SHORTEST_REASON, ReasonMissingError
from mongo_ops.mongo import lease
from mongo_ops.settings import include_folder

SOMETHING_TO_DO = 2


def verify(arguments: argparse.Namespace) -> int:
    """Compare the catalogue with what the applied migrations say; exit code 2 when they differ."""
    with support.open_target(arguments.env, read_only=True) as target:
        facts = engine.survey(target, include_folder())
        wrong = checks.differences(target.db, facts.files, facts.records)
        extra = checks.extras(target.db, facts.files, facts.records)
    value = {"differences": [dataclasses.asdict(d) for d in wrong], "extras": [dataclasses.asdict(d) for d in extra]}
    lines = [*map(str, wrong), *map(str, extra), f"{len(wrong)} differences, {len(extra)} indexes of unknown origin"]
    show(arguments, value, "\n".join(lines))
    return SOMETHING_TO_DO if wrong else 0


def unlock(arguments: argparse.Namespace) -> int:
    """Show the lease's holder; with ``--force`` and a reason take the lease away."""
    if arguments.force:
        _insist_on_reason(arguments.reason)
    with support.open_target(arguments.env, read_only=not arguments.force) as target:
        held = lease.show(target.db, arguments.resource)
        if held is None:
            show(arguments, {"held": False}, "Nobody holds the lease.")
            return 0
        if not arguments.force:
            raise lease.held_error(held)
        engine.prepare(target)
        taken = lease.unlock(target.db, arguments.resource, force=True) or held
        occasion = support.occasion(reason=arguments.reason)
        details = {"holder": taken["owner"], "epoch": taken["epoch"]}
        entry = audit_entry(arguments.env, occasion, arguments.resource, "lease.unlocked", "done", details)
        audit_log.record(target.db, entry)
    show(
        arguments,
        {"held": False, "taken_from": taken["owner"]},
        f"Taken from {taken['owner']}; its next write will be refused.",
    )
    return 0


def snapshots(arguments: argparse.Namespace) -> int:
    """List what rollbacks put aside, or restore one of them."""
    if arguments.action == "list":
        with support.open_target(arguments.env, read_only=True) as target:
            names = list(support.losses(target.environment).names(target.database))
        show(arguments, {"snapshots": names}, "\n".join(names) or "No snapshots.")
        return 0
    _insist_on_reason(arguments.reason)
    with support.open_run(arguments) as (run, _):
        place = storage.at(run.losses.folder, arguments.name)
        partial = storage.verify(place).projection is not None
        done = storage.restore(run.target.db, place, mode="merge_fields" if partial else "insert", lease=run.lease)
        entry = audit_entry(
            arguments.env, run.occasion, arguments.name, "snapshot.restored", "done", {"restored": str(done)}
        )
        audit_log.record(run.target.db, entry)
    show(arguments, {"restored": dataclasses.asdict(done)}, str(done))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Verify the audit log's chain (exit code 1 when it is broken), anchor all chains, or seal one again when its head is broken."""
    if arguments.action == "reseal":
        return _reseal(arguments)
    if arguments.action == "anchor":
        return _anchor(arguments)
    anchor = support.anchor(arguments.anchor)
    with support.open_target(arguments.env, read_only=True) as target:
        result = audit_log.verify(target.db, anchor, log=arguments.log)
    show(arguments, dataclasses.asdict(result), str(result))
    return 1 if result.faults else 0


def _anchor(arguments: argparse.Namespace) -> int:
    with support.open_target(arguments.env, read_only=True) as target:
        done = anchors.anchor(target, support.anchors_of(target.environment), only_look=arguments.dry_run)
    show(
        arguments,
        {"chains": [dataclasses.asdict(one) for one in done]},
        "\n".join(map(str, done)) or "There is no chain yet.",
    )
    return 0 if all(one.seen.ok for one in done) else 1


def _reseal(arguments: argparse.Namespace) -> int:
    _insist_on_reason(arguments.reason)
    with support.open_target(arguments.env) as target:
        occasion = support.occasion(reason=arguments.reason)
        entry = audit_entry(arguments.env, occasion, arguments.log, "audit.resealed", "done", {})
        head = audit_log.reseal(target.db, entry, log=arguments.log)
    show(arguments, {"head_seq": head.seq, "head_hash": head.hash}, f"The chain goes on at entry {head.seq}.")
    return 0


def _insist_on_reason(reason: str | None) -> None:
    if reason is None or len(reason.strip()) < SHORTEST_REASON:
        raise ReasonMissingError("Give --reason with a few words: it goes into the audit log. Name no person.")
