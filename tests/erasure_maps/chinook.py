"""Load Chinook in its own shape: one collection per table, documents as the file has them, dates as dates."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from demo.music import read_chinook

from mongo_ops.erasure.map_file import parse_map

MAP = Path(__file__).with_name("chinook.yaml")
TABLES = ("Customer", "Invoice", "InvoiceLine", "Employee", "Track")
DATES = ("InvoiceDate", "BirthDate", "HireDate")


def data_map():
    """The foreign data map."""
    return parse_map(MAP.read_text(encoding="utf-8"), MAP.name)


def load(db):
    """Insert all tables of the map with indexes on their keys; return how many documents each has."""
    tables = read_chinook()
    for table in TABLES:
        db[table].insert_many([_document(row) for row in tables[table]])
    db["Customer"].create_index("CustomerId", unique=True)
    db["Invoice"].create_index("CustomerId")
    db["InvoiceLine"].create_index("InvoiceId")
    return {table: len(tables[table]) for table in TABLES}


def _document(row):
    return {
        name: datetime.fromisoformat(value).replace(tzinfo=UTC) if name in DATES else value
        for name, value in row.items()
    }
