"""The commands and their arguments; where each is carried out. Data and argparse only."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mongo_ops.cli import erasure_arguments, health_arguments, online_arguments, partition, transfer_arguments

if TYPE_CHECKING:
    Parsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

ROOM = "mongo_ops.cli"
COMMANDS = {
    "migrate": f"{ROOM}.migrations:migrate",
    "rollback": f"{ROOM}.migrations:rollback",
    "plan": f"{ROOM}.migrations:plan",
    "status": f"{ROOM}.migrations:status",
    "lint": f"{ROOM}.files:lint",
    "new": f"{ROOM}.files:new",
    "rehearse": f"{ROOM}.resolve:rehearse",
    "baseline": f"{ROOM}.resolve:baseline",
    "mark": f"{ROOM}.resolve:mark",
    "unlock": f"{ROOM}.upkeep:unlock",
    "verify": f"{ROOM}.upkeep:verify",
    "snapshots": f"{ROOM}.upkeep:snapshots",
    "audit": f"{ROOM}.upkeep:audit",
    **erasure_arguments.COMMANDS,
    **transfer_arguments.COMMANDS,
    **health_arguments.COMMANDS,
    **online_arguments.COMMANDS,
    **partition.COMMANDS,
}


def add_commands(parsers: Parsers) -> None:
    """Add every command."""
    _migrating(parsers)
    _files(parsers)
    _upkeep(parsers)
    erasure_arguments.add_commands(parsers)
    transfer_arguments.add_commands(parsers)
    health_arguments.add_commands(parsers)
    online_arguments.add_commands(parsers)
    partition.add_commands(parsers)


def _migrating(parsers: Parsers) -> None:
    migrate = _command(parsers, "migrate", "apply pending migrations")
    _forward(migrate)
    _writing(migrate)
    migrate.add_argument("--break-glass", metavar="REASON", help="pass the promotion gate in an emergency; audited")
    rollback = _command(parsers, "rollback", "take the database back to a version")
    which = rollback.add_mutually_exclusive_group(required=True)
    which.add_argument("--to", metavar="VERSION", help="the version that stays applied; 0 undoes everything")
    which.add_argument("--failed", action="store_true", help="undo only what stopped half-way")
    _writing(rollback)
    plan = _command(parsers, "plan", "show what `migrate` would do; exit code 2 when there is something to do")
    _forward(plan)
    plan.add_argument("--markdown", action="store_true", help="as Markdown, for a pull request")
    _command(parsers, "status", "show every migration's state")


def _files(parsers: Parsers) -> None:
    lint = parsers.add_parser("lint", help="check the migration files, without a database")
    lint.add_argument("--json", action="store_true", help="for machines")
    new = parsers.add_parser("new", help="write a migration file from the template")
    new.add_argument("slug", help="what it does, e.g. add_user_locale")
    new.add_argument("--advanced", action="store_true", help="tag it advanced instead of core")


def _upkeep(parsers: Parsers) -> None:
    rehearse = _command(parsers, "rehearse", "run the pending migrations up, down and up on a sampled copy")
    _forward(rehearse)
    rehearse.add_argument(
        "--sample", type=int, default=1000, metavar="N", help="documents per collection (default 1000; 0: all)"
    )
    baseline = _command(parsers, "baseline", "record migrations as applied without running them")
    source = baseline.add_mutually_exclusive_group(required=True)
    source.add_argument("--to", metavar="VERSION", help="the last version that the database already has")
    source.add_argument(
        "--from", dest="peer", metavar="TOOL", help="read the history of migrate-mongo, pymongo-migrate, mongomig, ..."
    )
    baseline.add_argument("--collection", help="where the other tool keeps its history, unless in its usual place")
    baseline.add_argument("--folder", help="the other tool's migrations (mongodb-migrations only)")
    baseline.add_argument("--match", action="append", default=[], metavar="THEIRS=OURS", help="for names that differ")
    baseline.add_argument(
        "--ignore-unmatched", action="store_true", help="go on although some of theirs have no file here"
    )
    baseline.add_argument("--dry-run", action="store_true", help="show what would be recorded")
    baseline.add_argument("--reason", required=True, help="for the audit log; name no person")
    mark = _command(parsers, "mark", "say what state a migration really is in")
    mark.add_argument("migration", help="its name or version")
    mark.add_argument("--as", dest="state", choices=("applied", "pending"), required=True)
    mark.add_argument("--reason", required=True, help="for the audit log; name no person")
    unlock = _command(parsers, "unlock", "show who holds a lease; free it with --force")
    unlock.add_argument(
        "--resource", default="migrations", help="which lease, as a refusal names it (default: migrations)"
    )
    unlock.add_argument("--force", action="store_true", help="take it away although its holder may be alive; audited")
    unlock.add_argument("--reason", help="required with --force")
    _command(parsers, "verify", "compare the database with what the applied migrations say")
    _snapshots(parsers)
    audit = _command(
        parsers, "audit", "verify the audit log's chain, anchor all chains, or seal one again whose head is broken"
    )
    audit.add_argument("action", choices=("verify", "anchor", "reseal"))
    audit.add_argument("--reason", help="required for reseal; for the audit log")
    audit.add_argument(
        "--dry-run", action="store_true", help="anchor: verify against the newest anchors, write nothing"
    )
    audit.add_argument("--anchor", metavar="SEQ:HASH", help="a head noted earlier, kept outside of the database")
    audit.add_argument(
        "--log",
        default="audit_log",
        choices=("audit_log", "ops_erasure_ledger"),
        help="which chain (default: the audit log)",
    )


def _snapshots(parsers: Parsers) -> None:
    about = "list or restore what rollbacks have put aside"
    snapshots = parsers.add_parser("snapshots", help=about, description=about.capitalize() + ".")
    actions = snapshots.add_subparsers(dest="action", metavar="ACTION", required=True)
    _command(actions, "list", "list what rollbacks have put aside")
    restore = _command(actions, "restore", "bring one snapshot back")
    restore.add_argument("name", help="the snapshot's name, as `snapshots list` shows it")
    restore.add_argument("--reason", help="required; for the audit log; name no person")


def _command(parsers: Parsers, name: str, help_text: str) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    parser.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser


def _forward(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", metavar="VERSION", help="stop after this version (default: the newest)")
    parser.add_argument("--allow-out-of-order", action="store_true", help="also apply files below an applied one")


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show the plan with counts and write nothing")
    parser.add_argument("--reason", help="for the audit log; name no person")
    parser.add_argument(
        "--approved", metavar="DIGEST", help="the approved plan's digest; needed where the environment is protected"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait for another run's lease")
