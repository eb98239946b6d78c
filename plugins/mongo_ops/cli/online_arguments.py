"""The arguments of `mongo-ops online`. Data and argparse only."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.cli.arguments import Parsers

COMMANDS = {"online": "mongo_ops.cli.online:online"}
SLICE_SECONDS = 30.0


def add_commands(parsers: Parsers) -> None:
    """Add the command and its actions."""
    about = "change a collection under its writers: backfill, verify, cut over, roll back"
    online = parsers.add_parser("online", help=about, description=about.capitalize() + ".")
    actions = online.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "list", "list the specs and where they are", named=False)
    _action(actions, "lint", "check the spec files, without a database", named=False, environment=False)
    _action(actions, "plan", "show what would be done; exit code 2 when there is something to do")
    start = _action(actions, "start", "begin, or go on, until somebody has to approve")
    start.add_argument("--dry-run", action="store_true", help="show the plan and write nothing")
    start.add_argument("--parts", type=int, default=1, metavar="N", help="cut the backfill into N parts")
    start.add_argument(
        "--budget", type=float, metavar="SECONDS", help="stop after about this time; the next call goes on"
    )
    _approved(start, "plan")
    _action(actions, "status", "show where a migration is")
    pause = _action(actions, "pause", "let a run wait, or change its limits with --set")
    resume = _action(actions, "resume", "let it go on")
    for one in (pause, resume):
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="nice, chunk, max_lag, max_load.METRIC, critical_load.METRIC")  # fmt: skip
    follow = _action(actions, "follow", "keep both sides in step, one slice, while it waits")
    follow.add_argument("--budget", type=float, default=SLICE_SECONDS, metavar="SECONDS", help="of this slice")
    _action(actions, "abort", "give it up; possible until the cut-over")
    cut_over = _action(actions, "cut-over", "refuse writes for a moment and swap the collections")
    _approved(cut_over, "last verification")
    rollback = _action(actions, "rollback", "swap back, with all that was written since")
    rollback.add_argument("--yes", action="store_true", help="needed where the environment is protected")
    contract = _action(actions, "contract", "end it for good: old fields or the old collection go")
    contract.add_argument("--early", action="store_true", help="do not wait for the end of the rollback window")
    _approved(contract, "last verification")


def _action(
    actions: Parsers, name: str, help_text: str, *, named: bool = True, environment: bool = True
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    if named:
        parser.add_argument("name", metavar="NAME", help="the spec's name or number")
    if environment:
        parser.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--reason", help="for the audit log; name no person")
    return parser


def _approved(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument(
        "--approved", metavar="DIGEST", help=f"the {of}'s digest; needed where the environment is protected"
    )
