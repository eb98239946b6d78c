"""The arguments of `mongo-ops health`. Data and argparse only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.cli.arguments import Parsers

COMMANDS = {"health": "mongo_ops.cli.health:health"}


def add_commands(parsers: Parsers) -> None:
    """Add the command."""
    about = "look after a deployment; exit code 0 well, 1 critical, 2 warning or unknown"
    health = parsers.add_parser("health", help=about, description=about.capitalize() + ".")
    health.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    health.add_argument(
        "--group", action="append", default=[], metavar="GROUP", help="only these checks; may be repeated"
    )
    health.add_argument("--json", action="store_true", help="for machines")
    health.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    health.add_argument("--dry-run", action="store_true", help="do not write the result into the history")
