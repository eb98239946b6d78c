"""The arguments of `mongo-ops erase`, `consent` and `retention`. Data and argparse only.

No argument takes a person's identifier: a command line stands in the shell's history and in the list of processes. It is asked for, or
read from standard input.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.cli.arguments import Parsers

ROOM = "mongo_ops.cli"
COMMANDS = {
    "erase": f"{ROOM}.erasure:erase",
    "consent": f"{ROOM}.consent:consent",
    "retention": f"{ROOM}.retention:retention",
}


def add_commands(parsers: Parsers) -> None:
    """Add the commands."""
    erase = parsers.add_parser("erase", help="requests of people: erase, export, hold, prove (GDPR)")
    actions = erase.add_subparsers(dest="action", metavar="ACTION", required=True)
    _requests(actions)
    _runs(actions)
    _evidence(actions)
    _holds(actions)
    consent = parsers.add_parser("consent", help="what people have consented to")
    _consent(consent.add_subparsers(dest="action", metavar="ACTION", required=True))
    retention = _action(
        parsers, "retention", "delete what is kept longer than the data map says; legal holds are honoured"
    )
    retention.add_argument(
        "--dry-run", action="store_true", help="only show what is due; exit code 2 when something is"
    )
    retention.add_argument(
        "--beyond-limits", action="store_true", help="also rules that take a larger share than the data map allows"
    )
    retention.add_argument("--approved", metavar="DIGEST", help="the approved plan's digest, for --beyond-limits")
    retention.add_argument("--reason", help="for the audit log; name no person")


def _requests(actions: Parsers) -> None:
    keys = actions.add_parser("keys", help="print new keys as environment variables; keep them outside of MongoDB")
    keys.add_argument("--rotate", metavar="PURPOSE", help="put a new key in front of the ones in the environment")
    request = _action(
        actions, "request", "receive a request; the person's identifier is asked for, or read from a pipe"
    )
    request.add_argument("--source", default="cli", metavar="WORD", help="the channel it came through (default cli)")
    request.add_argument("--received", metavar="DATE", help="when it reached the controller, for what came by letter")
    request.add_argument("--many", action="store_true", help="one identifier per line of standard input; makes a batch")
    batch = _action(actions, "batch", "gather open requests into one run")
    batch.add_argument("requests", nargs="*", metavar="REQUEST", help="which (default: all that are ready)")
    listing = _action(actions, "list", "show requests, the most urgent first; exit code 2 when one is overdue")
    listing.add_argument("--open", action="store_true", help="only those in which something is still owed")
    extend = _action(actions, "extend", "extend a deadline by two months (Art. 12(3))")
    extend.add_argument("request", metavar="REQUEST")
    extend.add_argument("--reason", required=True, help="complexity or number of requests; goes into the audit log")
    extend.add_argument("--notified", required=True, metavar="DATE", help="when the person was told")


def _runs(actions: Parsers) -> None:
    plan = _action(actions, "plan", "show what would be erased; writes nothing")
    plan.add_argument("request", metavar="REQUEST", help="a request (er_...) or a batch (eb_...)")
    run = _action(actions, "run", "erase, verify and certify")
    run.add_argument("request", metavar="REQUEST", help="a request (er_...) or a batch (eb_...)")
    run.add_argument("--dry-run", action="store_true", help="only show the plan")
    run.add_argument(
        "--approved", metavar="DIGEST", help="the approved plan's digest; needed where the environment is protected"
    )
    run.add_argument("--reason", help="for the audit log; name no person")
    _action(actions, "coverage", "find what the data map does not name; exit code 2 when there is something")
    replay = _action(actions, "replay", "after a restore: erase again what came back")
    replay.add_argument(
        "--dry-run", action="store_true", help="only say what came back; exit code 2 when something did"
    )
    subject = _action(
        actions,
        "export-subject",
        "write everything about one person as JSON (Art. 15, 20); the identifier is asked for",
    )
    subject.add_argument("--output", default="-", metavar="FILE", help="where to (default: standard output)")


def _evidence(actions: Parsers) -> None:
    certificate = _action(actions, "certificate", "show a request's certificate")
    certificate.add_argument("request", metavar="REQUEST")
    certificate.add_argument("--html", metavar="FILE", help="write it as a page to read and to print")
    notices = _action(actions, "notices", "show which recipients are still to be told (Art. 19)")
    notices.add_argument("--told", metavar="NOTICE", help="mark one as delivered")


def _holds(actions: Parsers) -> None:
    _action(actions, "holds", "show the legal holds in force")
    hold = _action(actions, "hold", "place a legal hold")
    scope = hold.add_mutually_exclusive_group(required=True)
    scope.add_argument("--request", metavar="REQUEST", help="on the person whose request it is")
    scope.add_argument("--subject", action="store_true", help="on a person; the identifier is asked for")
    scope.add_argument("--collection", help="on documents of this collection")
    hold.add_argument("--filter", default="{}", metavar="JSON", help="which documents, in Extended JSON (default: all)")
    hold.add_argument("--reason-code", required=True, metavar="WORD", help="e.g. litigation, tax_audit")
    hold.add_argument("--authority", required=True, help="who demands it, with a file number; name no data subject")
    hold.add_argument("--review", required=True, metavar="DATE", help="when to look at it again")
    release = _action(
        actions, "release", "release a legal hold; requests that it kept from being finished are opened again"
    )
    release.add_argument("hold", metavar="HOLD")
    release.add_argument("--reason", required=True, help="for the audit log; name no person")


def _consent(actions: Parsers) -> None:
    for name, text in (
        ("grant", "record that a person consents"),
        ("withdraw", "record that a person no longer consents"),
    ):
        decided = _action(actions, name, f"{text}; the identifier is asked for")
        decided.add_argument("type", metavar="TYPE", help="e.g. marketing")
        decided.add_argument(
            "--policy-version", required=True, metavar="TEXT", help="the version of the text that was shown"
        )
        decided.add_argument("--source", default="cli", metavar="WORD", help="the channel (default cli)")
    prove = _action(actions, "prove", "show whether a consent was in force; exit code 2 when it was not")
    prove.add_argument("type", metavar="TYPE")
    prove.add_argument("--at", metavar="DATE", help="at which moment (default: now)")
    _action(actions, "report", "show a person's consents; the identifier is asked for")


def _action(actions: Parsers, name: str, help_text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser
