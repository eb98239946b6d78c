"""Run the benchmarks and print the table: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.api import ApiError
from demo.state import StackError

from benchmarks import airflow, backfill, erasure, online, small, transfer
from benchmarks.machine import Machine
from benchmarks.measure import Goal, Notebook
from benchmarks.peers import PEERS, Peer, Worker, default_folder
from benchmarks.server import Server, serve
from benchmarks.table import Table

PARTS = ("small", "backfill", "transfer", "erasure", "online", "airflow")


@dataclass
class Report:
    """What a run has to say."""

    machine: Machine
    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return it as Markdown."""
        heading = ("goal", "bound", "measured: median (min - max)", "verdict")
        parts = [Table("Goals", heading, [goal.row() for goal in self.goals]), *self.tables]
        text = "\n".join([self.machine.text(), "", *(part.text() for part in parts)])
        return text + ("\nNot measured: " + "; ".join(self.absent) + ".\n" if self.absent else "")

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON, with every round's values."""
        goals = [
            {"goal": goal.what, "sense": goal.sense, "bound": goal.bound, "unit": goal.unit, "verdict": goal.verdict,
             "measured": goal.measured.median if goal.measured else None}
            for goal in self.goals
        ]  # fmt: skip
        return {
            "machine": self.machine.as_value(),
            "goals": goals,
            "measured": self.measured,
            "not_measured": self.absent,
        }


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Side-by-side benchmarks: medians, spread, ratios."
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument(
        "--documents",
        type=int,
        default=1_000_000,
        metavar="N",
        help="documents of backfill, transfer, erasure and online (default 1,000,000)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=None,
        metavar="N",
        help="rounds of every part (default 9 warm, 5 processes, 1 erasure, 3 the others)",
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where other tools are kept (default: a cache folder)",
    )
    parser.add_argument(
        "--install-peers", action="store_true", help="install the other tools there first (npm and pip)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every value")
    return parser.parse_args(words)


def main() -> int:
    """Run what was asked for and print it."""
    arguments = parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    report = Report(Machine.here())
    peers = _peers(arguments, report)
    with tempfile.TemporaryDirectory(prefix="mongo-ops-bench-") as folder:
        if {"small", "backfill", "transfer", "erasure", "online"} & set(arguments.only):
            _on_mongod(arguments, report, peers, Path(folder))
        seen = _on_airflow(arguments, report, Path(folder)) if "airflow" in arguments.only else None
        report.goals += airflow.goals(seen)
        if seen:
            report.tables.append(airflow.table(seen))
            report.measured["airflow"] = seen.as_value()
    print(report.text())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_value(), indent=2) + "\n", encoding="utf-8")
    return 0


def _on_airflow(arguments: argparse.Namespace, report: Report, folder: Path) -> Notebook | None:
    """Measure Airflow; when it does not work here, say so instead of losing what was measured before."""
    try:
        return airflow.measure(folder, arguments.rounds or 3, _tell)
    except (StackError, ApiError, TimeoutError, RuntimeError) as error:
        report.absent.append(f"Airflow: {error}")
        return None


def _peers(arguments: argparse.Namespace, report: Report) -> list[Peer]:
    """Return the peers that can be run; name the others."""
    found = []
    for peer in PEERS:
        why: str | None = "not installed (--install-peers)"
        if not peer.is_installed(arguments.peers) and arguments.install_peers:
            _tell(f"installing {peer.name} {peer.version} ...")
            why = peer.install(arguments.peers)
        if peer.is_installed(arguments.peers):
            found.append(peer)
        else:
            report.absent.append(f"{peer.name} {peer.version}: {why or 'its program is missing'}")
    return found


def _on_mongod(arguments: argparse.Namespace, report: Report, peers: Sequence[Peer], folder: Path) -> None:
    warm = filled = moved = erased = migrated = None
    with serve() as server:
        bench = _Bench(arguments, report, server, peers, folder)
        if "small" in arguments.only:
            warm = bench.small()
        if "backfill" in arguments.only:
            filled = bench.backfill()
        if "transfer" in arguments.only:
            moved = bench.transfer()
        if "erasure" in arguments.only:
            erased = bench.erasure()
        if "online" in arguments.only:
            migrated = bench.online()
    report.goals += [*small.goals(warm), *backfill.goals(filled), *transfer.goals(moved), *erasure.goals(erased)]
    report.goals += online.goals(migrated)


@dataclass
class _Bench:
    """The parts that share one mongod."""

    arguments: argparse.Namespace
    report: Report
    server: Server
    peers: Sequence[Peer]
    folder: Path

    def small(self) -> Notebook:
        """Measure the six small migrations, warm and as whole processes; return the warm ones."""
        kept, rounds = self.arguments.peers, self.arguments.rounds
        with ExitStack() as stack:
            workers = [self._worker(peer, stack) for peer in self.peers]
            warm = small.warm_contenders(self.server, workers, self.folder)
            seen = small.measure(warm, self.server, rounds or 9, _tell)
        processes = small.process_contenders(self.server, self.peers, kept, self.folder)
        whole = small.measure(processes, self.server, rounds or 5, _tell)
        names = [one.name for one in warm], [one.name for one in processes]
        self.report.tables += small.tables(seen, whole, names)
        self.report.measured |= {"small, warm": seen.as_value(), "small, whole process": whole.as_value()}
        return seen

    def backfill(self) -> Notebook:
        """Measure the backfill."""
        documents = self.arguments.documents
        with ExitStack() as stack:
            workers = [self._worker(peer, stack) for peer in self.peers if peer.name == "mongomig"]
            ways = backfill.fillers(self.server, self.folder, workers[0] if workers else None)
            seen = backfill.measure(ways, self.server, documents, self.arguments.rounds or 3, _tell)
        self.report.tables.append(backfill.table(seen, [way.name for way in ways], documents, backfill.document_size()))
        self.report.measured[f"backfill of {documents}, documents/s"] = seen.as_value()
        return seen

    def transfer(self) -> Notebook:
        """Measure export and import."""
        documents = self.arguments.documents
        seen, missing = transfer.measure(self.server, documents, self.arguments.rounds or 3, _tell)
        self.report.tables.append(transfer.table(seen, documents))
        self.report.absent += missing
        self.report.measured[f"transfer of {documents}"] = seen.as_value()
        return seen

    def erasure(self) -> Notebook:
        """Measure erasure."""
        documents = self.arguments.documents
        seen = erasure.measure(self.server, self.folder, documents, self.arguments.rounds or 1, _tell)
        self.report.tables.append(erasure.table(seen, documents))
        self.report.measured[f"erasure from {documents}, seconds per person"] = seen.as_value()
        return seen

    def online(self) -> Notebook:
        """Measure zero-downtime migrations."""
        documents = self.arguments.documents
        seen = online.measure(self.server, self.folder / "online", documents, self.arguments.rounds or 3, _tell)
        self.report.tables += online.tables(seen, documents)
        self.report.measured[f"online migration of {documents}"] = seen.as_value()
        return seen

    def _worker(self, peer: Peer, stack: ExitStack) -> Worker:
        project = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{peer.name}-"))
        peer.write(project)
        worker = Worker.start(peer, self.arguments.peers, self.server, project)
        stack.callback(worker.stop)
        return worker


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
