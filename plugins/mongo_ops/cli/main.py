"""Parse the command line, run one command, turn faults into one sentence and an exit code. Imports little at the top: it starts fast."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from mongo_ops import __version__
from mongo_ops.cli.arguments import COMMANDS, add_commands
from mongo_ops.errors import MongoOpsError

REFUSED_USAGE = 3
TERMINATED = 143


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="mongo-ops", description="Operate MongoDB: migrations, rollback, audit.")
    parser.add_argument("--version", action="version", version=f"mongo-ops {__version__}")
    add_commands(parser.add_subparsers(dest="command", metavar="COMMAND", required=True))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    module, _, function = COMMANDS[arguments.command].partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(arguments))
    except MongoOpsError as error:
        return _fail(arguments, str(error), type(error).__name__, error.exit_code)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if not type(error).__module__.startswith(("pymongo", "bson")):
            raise
        worded = _worded(error, arguments.command)
        return _fail(arguments, str(worded), type(worded).__name__, worded.exit_code)
    except KeyboardInterrupt:
        return _fail(arguments, "Stopped. Run the same command again to resume.", "Interrupted", 130)


def _worded(error: Exception, command: str) -> MongoOpsError:
    """Word a driver's error without its text, which may hold values of documents."""
    from mongo_ops.migrations.faults import explain  # noqa: PLC0415

    return explain(error, command)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind on SIGTERM, so that leases are released and the state is recorded."""
    del number, frame
    raise SystemExit(TERMINATED)


def _fail(arguments: argparse.Namespace, message: str, kind: str, code: int) -> int:
    if getattr(arguments, "json", False):
        print(json.dumps({"error": message, "kind": kind, "exit_code": code}))
    else:
        print(f"mongo-ops {arguments.command}: {message}", file=sys.stderr)
    return code
