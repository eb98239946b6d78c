"""The arguments of `mongo-ops export` and `mongo-ops import`. Data and argparse only."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.cli.arguments import Parsers

ROOM = "mongo_ops.cli"
COMMANDS = {"export": f"{ROOM}.transfer:export", "import": f"{ROOM}.transfer:import_"}
FORMATS = ("bson", "bson.zst", "bson.gz", "jsonl", "jsonl.zst", "jsonl.gz", "csv", "csv.gz", "csv.zst", "parquet")


def add_commands(parsers: Parsers) -> None:
    """Add both commands."""
    export = _command(parsers, "export", "write collections into object storage, or to standard output with `-`")
    export.add_argument(
        "destination", help="a folder: a path, file://, s3://, ...; or - for one collection to standard output"
    )
    export.add_argument(
        "--collection", action="append", default=[], metavar="NAME", help="repeat it; default: all, a backup set"
    )
    export.add_argument("--format", choices=FORMATS, default="bson.zst")
    export.add_argument("--canonical", action="store_true", help="jsonl that keeps types exactly")
    export.add_argument("--where", metavar="JSON", help="filter, as Extended JSON")
    export.add_argument("--fields", metavar="A,B.C", help="columns of csv and parquet; otherwise the fields to keep")
    export.add_argument(
        "--consistency", choices=("snapshot", "prefer_snapshot", "fuzzy"), default="snapshot", help="default snapshot"
    )
    export.add_argument("--partitions", type=int, metavar="N", help="parts per collection (default: one per GB)")
    export.add_argument("--discard", action="store_true", help="first remove what an unfinished export left there")
    export.add_argument("--verify", action="store_true", help="read everything again at the end")
    _both(export)
    load = _command(parsers, "import", "load an export, or files of other tools, or standard input with `-`")
    load.add_argument(
        "source", help="a folder: a path, file://, s3://, ...; or - for standard input (needs --format and --into)"
    )
    load.add_argument("--files", metavar="PATTERN", help="files without a manifest, such as '*.json.gz'")
    load.add_argument(
        "--collection",
        action="append",
        default=[],
        metavar="NAME[=HERE]",
        help="which of a manifest, and their names here",
    )
    load.add_argument("--into", metavar="NAME", help="the collection for files without a manifest")
    load.add_argument("--format", choices=FORMATS, help="when a file's name does not tell")
    load.add_argument("--mode", choices=("insert", "upsert", "replace", "merge"), default="insert")
    load.add_argument(
        "--key", action="append", default=[], metavar="FIELD", help="key of the other modes (default _id)"
    )
    load.add_argument("--on-error", choices=("stop", "reject"), default="stop")
    load.add_argument("--max-rejects", type=int, default=1000, metavar="N")
    load.add_argument("--max-reject-share", type=float, default=0.1, metavar="SHARE")
    load.add_argument("--bypass-validation", action="store_true", help="do not ask the collection's validator")
    load.add_argument("--indexes", choices=("before", "after", "none"), default="after")
    load.add_argument("--type", action="append", default=[], metavar="COLUMN=TYPE", help="of a csv column")
    load.add_argument(
        "--approved", metavar="DIGEST", help="the plan's digest; needed where the environment is protected"
    )
    _both(load)


def _command(parsers: Parsers, name: str, help_text: str) -> argparse.ArgumentParser:
    parser = parsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    parser.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser


def _both(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show the plan and write nothing")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped or killed")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="parts at once (default 1)")
    parser.add_argument("--storage-connection", metavar="ID", help="AIRFLOW_CONN_<ID> with the store's credentials")
