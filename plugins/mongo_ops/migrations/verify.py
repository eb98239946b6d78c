"""Look at a database afterwards: is its catalogue as the applied migrations say? Reads only; shares no code with the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongo_ops.audit.log import AUDIT_LOG, INDEX
from mongo_ops.migrations.expected import Shape, expected
from mongo_ops.migrations.model import MigrationFile, Record
from mongo_ops.migrations.operations import catalogue

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

VALIDATOR_OPTIONS = ("validator", "validationLevel", "validationAction")


@dataclass(frozen=True)
class Drift:
    """One place where the database is not as the migrations say. ``kind`` is ``missing``, ``changed`` or ``extra``."""

    kind: str
    subject: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.subject} is {self.kind}" + (f": {self.detail}" if self.detail else "")


def differences(db: Database[Document], files: Sequence[MigrationFile], records: Sequence[Record]) -> tuple[Drift, ...]:
    """Return what is missing or changed, in the order of collections' names. Extra indexes are :func:`extras`."""
    shapes = expected(files, records)
    return tuple(drift for name in sorted(shapes) for drift in _collection(db, name, shapes[name]))


def extras(db: Database[Document], files: Sequence[MigrationFile], records: Sequence[Record]) -> tuple[Drift, ...]:
    """Return indexes that no migration built, on collections that migrations created."""
    found: list[Drift] = []
    for name, shape in sorted(expected(files, records).items()):
        if shape.created:
            there = (index.name for index in catalogue.indexes(db, name))
            ours = {"_id_", *((INDEX,) if name == AUDIT_LOG else ())}
            strange = [index for index in there if index not in shape.indexes and index not in ours]
            found += [Drift("extra", f"the index {index} of {name}") for index in strange]
    return tuple(found)


def _collection(db: Database[Document], name: str, shape: Shape) -> Iterator[Drift]:
    listed = catalogue.collection(db, name)
    if listed is None:
        yield Drift("missing", f"the collection {name}")
        return
    wanted, actual = dict(shape.options), dict(listed.options)
    if shape.created:
        wanted["collation"] = catalogue.full_collation(db, wanted.get("collation"))
    else:
        actual = {key: actual[key] for key in VALIDATOR_OPTIONS if key in actual}
        wanted = wanted or actual
    found = list(catalogue.differences(catalogue.options_form(wanted), catalogue.options_form(actual)))
    if found:
        yield Drift("changed", f"the collection {name}", catalogue.told(found))
    yield from _indexes(db, name, shape)


def _indexes(db: Database[Document], name: str, shape: Shape) -> Iterator[Drift]:
    there = {index.name: index for index in catalogue.indexes(db, name)}
    for index_name, spec in shape.indexes.items():
        subject = f"the index {index_name} of {name}"
        index = there.get(index_name)
        if index is None or index.building:
            yield Drift("missing", subject, "its build has not finished" if index else "")
            continue
        collation = spec.get("collation") or shape.options.get("collation")
        wanted = {**spec, "collation": catalogue.full_collation(db, collation)}
        found = list(catalogue.differences(catalogue.index_form(wanted), catalogue.index_form(index.spec)))
        if found:
            yield Drift("changed", subject, catalogue.told(found))
