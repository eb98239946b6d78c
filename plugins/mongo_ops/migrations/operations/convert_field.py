"""Convert a field to another BSON type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from mongo_ops.migrations.operations import before_images, fields
from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Mode, Operation, Preview
from mongo_ops.migrations.operations.estimate import count, estimate, refuse

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

BsonType = Literal["string", "int", "long", "double", "decimal", "bool", "date", "objectId"]
OnError = Literal["stop", "null", "keep"]
OnNull = Literal["keep", "stop"]
CANNOT = {"$literal": {"cannot": "be converted"}}
"""What ``$convert`` returns on an error. No conversion yields an embedded document, so no value is mistaken for it."""


@dataclass(frozen=True)
class ConvertField(Operation):
    """Convert ``field`` (dotted) with ``$convert``; documents that lack it or have the type already are left alone.

    Values that cannot be converted are counted before the first batch. ``on_error`` then stops, sets null, or keeps
    them as they are; ``on_null`` keeps nulls, or stops when there are any. The reverse puts the values and types from
    before back, wherever the document still has the field; what was written since is snapshotted before.
    """

    mode: ClassVar[Mode] = Mode.BATCHES
    collection: str
    field: str
    to: BsonType
    _: KW_ONLY
    on_error: OnError = "stop"
    on_null: OnNull = "keep"

    @property
    def takes_late_comers(self) -> bool:
        """Return True: what it has changed does not match any more."""
        return True

    def describe(self) -> str:
        """Say what it converts, and what happens to values that cannot be."""
        else_ = {
            "stop": "stop if any cannot be",
            "null": "null for those that cannot be",
            "keep": "keep those that cannot be",
        }
        return f"Convert {self.field} of {self.collection} to {self.to}; {else_[self.on_error]}"

    def writes(self) -> tuple[str, ...]:
        """Return the collection."""
        return (self.collection,)

    def destroys(self) -> tuple[Loss, ...]:
        """The reverse overwrites what was written since."""
        blocked = fields.blocked(self.field)
        reachable = {"$nor": [blocked]} if blocked else {}  # elsewhere the path names no field that was written here
        return (Loss(self.collection, reachable, fields=(self.field,)),)

    def forward(self, at: Bench) -> Counts:
        """Convert, batch by batch.

        Raises:
            OperationError: there are values that cannot be converted, and ``on_error`` is ``stop``.
        """
        refuse(self._obstacle(at.db))
        image = before_images.of_value(self.field)
        return before_images.change(
            at, self.collection, self._pending(), self._pipeline(), image=image, digest=self.digest()
        )

    def reverse(self, at: Bench) -> Counts:
        """Put the values back where the document still has the field."""
        from pymongo import UpdateOne  # noqa: PLC0415 - keeps pymongo out of the parse path

        there = fields.has(self.field)

        def write_for(image: Mapping[str, Any]) -> Any:
            return UpdateOne(fields.both({"_id": image["_id"]}, there), {"$set": {self.field: image["value"]}})

        return before_images.restore(at, self.collection, write_for, self.digest())

    def preview(self, db: Database[Document]) -> Preview:
        """Count the values that are to be converted."""
        stop = self._obstacle(db)
        failing = 0 if self.on_error == "stop" else count(db, self.collection, self._failing())
        notes = (f"{failing:,} values cannot be converted ({self.on_error}).",) if failing else ()
        return estimate(
            db, self.collection, self._pending(), becomes=self._pipeline(), stop=stop, risk="medium", notes=notes
        )

    def lint(self) -> Iterator[Fault]:
        """Yield faults of the path and the choices."""
        yield from fields.path_faults(self.field)
        choices = ((self.to, BsonType), (self.on_error, OnError), (self.on_null, OnNull))
        for chosen, choice in choices:
            if chosen not in get_args(choice):
                yield Fault("MO314", f"{chosen!r} is not one of {', '.join(get_args(choice))}.")
        if self.to == "bool":
            yield Fault("MO315", "Every text converts to true, 'false' too; a Backfill with $eq says what is meant.")

    def _other_type(self) -> dict[str, Any]:
        left_alone = [self.to, "null", "undefined", "missing"]
        return fields.both(
            fields.has(self.field), {"$expr": {"$not": [{"$in": [{"$type": f"${self.field}"}, left_alone]}]}}
        )

    def _failing(self) -> dict[str, Any]:
        return fields.both(self._other_type(), {"$expr": {"$eq": [self._converted(CANNOT), CANNOT]}})

    def _pending(self) -> dict[str, Any]:
        if self.on_error != "keep":
            return self._other_type()
        return fields.both(self._other_type(), {"$expr": {"$ne": [self._converted(CANNOT), CANNOT]}})

    def _pipeline(self) -> list[dict[str, Any]]:
        on_error = {} if self.on_error == "stop" else {"onError": None}
        return [{"$set": {self.field: {"$convert": {"input": f"${self.field}", "to": self.to, **on_error}}}}]

    def _converted(self, on_error: Any) -> dict[str, Any]:
        return {"$convert": {"input": f"${self.field}", "to": self.to, "onError": on_error}}

    def _obstacle(self, db: Database[Document]) -> str | None:
        found = count(db, self.collection, fields.through_array(self.field))
        if found:
            return f"{self.field} lies inside an array in {found:,} documents of {self.collection}; use a Backfill for arrays."
        found = count(db, self.collection, self._failing()) if self.on_error == "stop" else 0
        if found:
            return (
                f"{self.field} cannot be converted to {self.to} in {found:,} documents of {self.collection}. Mend them first, "
                "or choose on_error='null' or 'keep'."
            )
        null = {"$expr": {"$eq": [{"$type": f"${self.field}"}, "null"]}}
        found = count(db, self.collection, null) if self.on_null == "stop" else 0
        return f"{self.field} is null in {found:,} documents of {self.collection} (on_null='stop')." if found else None
