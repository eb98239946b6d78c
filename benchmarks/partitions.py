"""What it costs to let a month go: drop its collection, or delete_many the same documents. ``python -m benchmarks.partitions``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.measure import Notebook, ratio, rounds
from benchmarks.server import Server, serve
from benchmarks.table import Table
from mongo_ops.partitions.months import Month, name_of, span

DOCUMENTS, ROUNDS = 50_000, 7
DATABASE, SOURCE = "bench_partitions", "events"
OLD, MONTHS = Month(2026, 1), 3
MAJORITY = {"w": "majority"}


def documents(month: Month, count: int) -> list[dict[str, Any]]:
    """Return documents of a month, about 200 bytes each."""
    step = (((month + 1).start - month.start) / count) if count else timedelta()
    return [{"at": month.start + number * step, "user": number % 997, "text": "x" * 120} for number in range(count)]


def fill(server: Server, count: int) -> None:
    """Make one collection with three months of documents, and three month collections with the same."""
    db = server.database(DATABASE)
    server.client.drop_database(DATABASE)
    for month in span(OLD, OLD + (MONTHS - 1)):
        made = documents(month, count)
        for name in (SOURCE, name_of(SOURCE, month)):
            db[name].create_index("at")
            db[name].insert_many([dict(one) for one in made], ordered=False)
    server.settle()


def by_delete(server: Server) -> None:
    """Delete the oldest month from the one collection."""
    query = {"at": {"$gte": OLD.start, "$lt": (OLD + 1).start}}
    db = server.database(DATABASE)
    db.command({"delete": SOURCE, "deletes": [{"q": query, "limit": 0}], "writeConcern": MAJORITY})


def by_drop(server: Server) -> None:
    """Drop the oldest month's collection."""
    server.database(DATABASE).command({"drop": name_of(SOURCE, OLD), "writeConcern": MAJORITY})


def oplog_after(server: Server, moment: Any) -> tuple[int, int]:
    """Return entries and bytes that the oplog got since, for our database."""
    match = {"ts": {"$gt": moment}, "ns": {"$regex": f"^{DATABASE}[.]"}}
    group = {"_id": None, "entries": {"$sum": 1}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}
    rows = list(server.client.local["oplog.rs"].aggregate([{"$match": match}, {"$group": group}]))
    return (rows[0]["entries"], rows[0]["bytes"]) if rows else (0, 0)


def measure(server: Server, book: Notebook, count: int, number: int) -> None:
    """Run the rounds; both begin with the same documents."""
    contenders: dict[str, Callable[[Server], None]] = {"delete_many": by_delete, "drop": by_drop}
    for _, counts, name in rounds(list(contenders), number):
        fill(server, count)
        moment = server.client.admin.command("hello")["operationTime"]
        began = time.monotonic()
        contenders[name](server)
        took = time.monotonic() - began
        entries, size = oplog_after(server, moment)
        if counts:
            book.write(name, "ms", took * 1000)
            book.write(name, "entries", entries)
            book.write(name, "bytes", size)


def table(book: Notebook, count: int) -> Table:
    """Return the table of a notebook."""
    rows = [
        (name, *(book.series(name, quantity).show(form) for quantity, form in (("ms", "{:,.1f}"), ("entries", "{:,.0f}"), ("bytes", "{:,.0f}"))))
        for name in ("delete_many", "drop")
    ]  # fmt: skip
    faster = ratio(book.series("delete_many", "ms"), book.series("drop", "ms")).show("{:,.0f}")
    heading = ("a month goes by", "ms: median (min - max)", "oplog entries", "oplog bytes")
    return Table(
        f"A month of {count:,} documents", heading, rows, [f"delete_many takes {faster} times as long as drop."]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partitions", description=__doc__)
    parser.add_argument("--documents", type=int, default=DOCUMENTS, metavar="N", help="documents of a month")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    arguments = parser.parse_args()
    book = Notebook()
    print(f"Began {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    with serve() as server:
        measure(server, book, arguments.documents, arguments.rounds)
    print(table(book, arguments.documents).text())


if __name__ == "__main__":
    main()
