"""Apply an update to the documents that match, each exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import (
    Bench,
    Fault,
    Loss,
    Mode,
    Operation,
    OperationError,
    Preview,
    apply_update,
)
from mongo_ops.migrations.operations.estimate import estimate

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

ADDING = frozenset({"$inc", "$mul", "$push", "$pop", "$bit"})
"""Operators whose effect depends on how often they are applied."""

SNAPSHOT: Literal["snapshot"] = "snapshot"


@dataclass(frozen=True)
class Backfill(Operation):
    """Apply ``update`` (operators, or a pipeline) to every document that matches ``where``.

    Each document is changed exactly once, so ``$inc`` and ``$push`` are safe. ``revert`` declares the way back:

    - ``"snapshot"``: the top-level fields that the update touches (the whole document when that cannot be told, e.g. for
      ``$replaceWith``) are kept as before-images in each batch's transaction, and the reverse puts them back as they
      were. What was written to those fields since is snapshotted before.
    - an update: it is applied to exactly the documents that were changed, whatever ``where`` would select by then and
      wherever a kill has cut the forward direction short.
    - None: there is no way back.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    collection: str
    update: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    _: KW_ONLY
    where: Mapping[str, Any] = field(default_factory=dict)
    revert: Literal["snapshot"] | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None

    def describe(self) -> str:
        """Say which fields are updated, where, and whether there is a way back."""
        touched = fields.touched_fields(self.update)
        what = "whole documents" if touched is None else ", ".join(touched)
        back = (
            "no way back" if self.revert is None else "way back: " + ("snapshot" if self._keeps_values else "an update")
        )
        return f"Update {what} in documents of {self.collection}{fields.where_clause(self.where)} ({back})"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def why_irreversible(self) -> str | None:
        """Without ``revert`` there is no way back."""
        if self.irreversible or self.revert is not None:
            return self.irreversible
        return f"the Backfill of {self.collection} declares no way back; give it revert='snapshot' or an update"

    def destroys(self) -> tuple[Loss, ...]:
        """The reverse overwrites what was written since."""
        if self.revert is None:
            return ()
        touched = fields.touched_fields(self.update if self._keeps_values else self._way_back)
        return (Loss(self.collection, fields=touched),)

    def forward(self, at: Bench) -> Counts:
        """Update, batch by batch."""
        if self.revert is None:
            write = apply_update(at.db, self.collection, self.update)
            return at.batches(self.collection, self.where, write, self.digest())
        image = before_images.of_fields(fields.touched_fields(self.update)) if self._keeps_values else before_images.IDS
        return before_images.change(at, self.collection, self.where, self.update, image=image, digest=self.digest())

    def reverse(self, at: Bench) -> Counts:
        """Put the before-images back, or apply the declared update to what was changed.

        Raises:
            OperationError: no way back was declared.
        """
        if self.revert is None:
            raise OperationError(self.why_irreversible())
        if self._keeps_values:
            return before_images.restore(at, self.collection, self._restoring, self.digest())
        return before_images.undo_update(at, self.collection, {}, self._way_back, self.digest())

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents that match."""
        becomes = None if isinstance(self.update, Mapping) else self.update
        risk = "medium" if self.why_irreversible() is None else "high"
        return estimate(db, self.collection, self.where, becomes=becomes, risk=risk)

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the update, the filter and the way back."""
        yield from fields.update_faults(self.update)
        yield from fields.javascript_faults(self.where)
        adding = sorted(ADDING.intersection(self.update)) if isinstance(self.update, Mapping) else []
        if adding and not self.where:
            yield Fault(
                "MO301",
                f"{', '.join(adding)} without where= changes every document of {self.collection} (each exactly once), "
                "also those that the application has already written in the new form.",
            )
        if isinstance(self.revert, str) and self.revert != SNAPSHOT:
            yield Fault("MO314", f"revert is 'snapshot' or an update, not {self.revert!r}.")
        elif self.revert is not None and not isinstance(self.revert, str):
            yield from fields.update_faults(self.revert)

    @property
    def _keeps_values(self) -> bool:
        return isinstance(self.revert, str)

    @property
    def _way_back(self) -> fields.Update:
        return () if self.revert is None or isinstance(self.revert, str) else self.revert

    def _restoring(self, image: Mapping[str, Any]) -> Any:
        from pymongo import ReplaceOne, UpdateOne  # noqa: PLC0415 - keeps pymongo out of the parse path

        itself, before = {"_id": image["_id"]}, image["before"]
        touched = fields.touched_fields(self.update)
        if touched is None:
            return ReplaceOne(itself, before)
        absent = {name: "" for name in touched if name not in before}
        return UpdateOne(itself, {**({"$set": before} if before else {}), **({"$unset": absent} if absent else {})})
