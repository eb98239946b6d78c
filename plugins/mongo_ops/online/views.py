"""Versioned read views: one name for each shape, so that old and new readers both find theirs at every moment. Views are only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mongo_ops.migrations.operations import catalogue
from mongo_ops.online.shape import stages

if TYPE_CHECKING:
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.work import Work


def create(work: Work) -> None:
    """Show both shapes, while the collection has the old one."""
    _define(work, work.spec.views.old, [])
    _define(work, work.spec.views.new, stages(work.spec.transform))


def after_swap(work: Work, *, back: bool) -> None:
    """Show both shapes, now that the collection has the new one; or, after a rollback, the old one again."""
    if back:
        create(work)
        return
    _define(work, work.spec.views.old, stages(work.spec.inverse))
    _define(work, work.spec.views.new, [])


def contracted(work: Work) -> None:
    """The view of the old shape goes, that of the new shape stays and is the collection itself."""
    _drop(work, work.spec.views.old)
    _define(work, work.spec.views.new, [])


def drop(work: Work, names: Sequence[str]) -> None:
    """Remove these."""
    for name in names:
        _drop(work, name)


def _define(work: Work, name: str | None, pipeline: list[Document]) -> None:
    if name is None:
        return
    there = catalogue.collection(work.db, name)
    definition = {"viewOn": work.spec.collection, "pipeline": pipeline}
    if there is None:
        catalogue.carry_out(work.db, {"create": name, **definition, **_collation(work)}, f"The view {name}")
    else:
        catalogue.carry_out(work.db, {"collMod": name, **definition}, f"The view {name}")


def _collation(work: Work) -> Document:
    source = catalogue.collection(work.db, work.spec.collection)
    form = catalogue.collation_form(source.options.get("collation")) if source else None
    return {"collation": form} if form else {}


def _drop(work: Work, name: str | None) -> None:
    there = catalogue.collection(work.db, name) if name else None
    if there is not None and there.type == "view":
        work.db.drop_collection(there.name)
