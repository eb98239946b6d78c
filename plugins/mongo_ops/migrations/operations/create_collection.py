"""Create a collection, or adopt one that is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue, set_validator
from mongo_ops.migrations.operations.base import Bench, Fault, Loss, Operation, OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

ADOPTABLE = frozenset({"validator", "validationLevel", "validationAction", "changeStreamPreAndPostImages"})
"""Options that ``collMod`` changes without a document being lost."""


@dataclass(frozen=True)
class CreateCollection(Operation):
    """Create a collection with its options.

    One that exists with the same options is left alone. One with other options is refused; with ``adopt`` its validator
    and its change-stream images are changed, and undoing gives it back the former ones and never drops it.

    ``capped`` is ``{"size": bytes, "max": documents}`` (``max`` optional); ``timeseries`` is as the server takes it, e.g.
    ``{"timeField": "at", "metaField": "device", "granularity": "minutes"}``.
    """

    name: str
    validator: Mapping[str, Any] | None = None
    level: str = "strict"
    action: str = "error"
    capped: Mapping[str, int] | None = None
    timeseries: Mapping[str, Any] | None = None
    expire_after_seconds: int | None = None
    clustered: bool = False
    collation: Mapping[str, Any] | None = None
    pre_and_post_images: bool = False
    adopt: bool = False

    def describe(self) -> str:
        """Say what is created, with its options' names."""
        said = [f"validator ({self.level}, {self.action})"] if self.validator else []
        said += [f"capped at {self.capped.get('size', 0):,} bytes"] if self.capped else []
        said += [f"time series on {self.timeseries.get('timeField')}"] if self.timeseries else []
        said += [f"expiry after {self.expire_after_seconds:,} s"] if self.expire_after_seconds is not None else []
        said += ["clustered by _id"] if self.clustered else []
        said += [f"collation {self.collation.get('locale')}"] if self.collation else []
        said += ["pre- and post-images"] if self.pre_and_post_images else []
        verb = "Create or adopt" if self.adopt else "Create"
        return f"{verb} the collection {self.name}" + (f": {', '.join(said)}" if said else "")

    def writes(self) -> tuple[str, ...]:
        """The collection."""
        return (self.name,)

    def destroys(self) -> tuple[Loss, ...]:
        """Undoing drops it with what was written since."""
        return (Loss(self.name),)

    def options(self) -> Document:
        """Return the options for ``create``, the unset ones left out."""
        rules = {"validationLevel": self.level, "validationAction": self.action} if self.validator else {}
        made: Document = {
            "validator": dict(self.validator) if self.validator else None,
            **rules,
            **({"capped": True, **self.capped} if self.capped else {}),
            "timeseries": dict(self.timeseries) if self.timeseries else None,
            "expireAfterSeconds": self.expire_after_seconds,
            "clusteredIndex": {"key": {"_id": 1}, "unique": True} if self.clustered else None,
            "collation": dict(self.collation) if self.collation else None,
            "changeStreamPreAndPostImages": {"enabled": True} if self.pre_and_post_images else None,
        }
        return {key: value for key, value in made.items() if value is not None}

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note whether it exists, and with which options."""
        listed = catalogue.collection(db, self.name)
        return {"existed": listed is not None, "options": catalogue.note(listed.options if listed else {})}

    def forward(self, at: Bench) -> Counts:
        """Create it, or check what is there and adopt it."""
        catalogue.check_names(self.name)
        listed = catalogue.collection(at.db, self.name)
        at.check()
        if listed is None:
            catalogue.carry_out(at.db, {"create": self.name, **self.options()}, f"The collection {self.name}")
        elif found := self._differences(at.db, listed):
            self._refuse(found)
            set_validator.refuse_rejected(at.db, self.name, set_validator.former(self.options()), 0)
            self._modify(at.db, self.options())
        return catalogue.none_counted()

    def reverse(self, at: Bench) -> Counts:
        """Drop it, or give an adopted one its former validator."""
        existed = catalogue.fact(at.found, "existed", f"The collection {self.name}")
        at.check()
        if not existed:
            catalogue.check_names(self.name)
            if catalogue.collection(at.db, self.name):
                catalogue.carry_out(at.db, {"drop": self.name}, f"The collection {self.name}")
        elif self.adopt:
            self._modify(at.db, catalogue.recall(at.found["options"]))
        return catalogue.none_counted()

    def is_done(self, db: Database[Document]) -> bool | None:
        """It exists with these options."""
        listed = catalogue.collection(db, self.name)
        return listed is not None and not self._differences(db, listed)

    def is_undone(self, db: Database[Document]) -> bool | None:
        """It does not exist; when it does, it may have existed before."""
        return True if catalogue.collection(db, self.name) is None else None

    def preview(self, db: Database[Document]) -> Preview:
        """Say whether it exists, and whether that is a conflict."""
        listed = catalogue.collection(db, self.name)
        if listed is None:
            return Preview()
        found = self._differences(db, listed)
        if not found:
            return Preview(notes=(f"{self.name} already exists with these options.",))
        if stop := self._conflict(found):
            return Preview(risk="high", stop=stop)
        return set_validator.rejection_preview(db, self.name, set_validator.former(self.options()), 0)

    def lint(self) -> Iterable[Fault]:
        """Check the name and options that exclude one another."""
        yield from catalogue.name_faults(self.name)
        yield from set_validator.rule_faults(self.level, self.action)
        yield from (Fault("MO207", text) for text in self._impossible())

    def _impossible(self) -> Iterator[str]:
        if self.timeseries is not None:
            others = {"validator": self.validator, "capped": self.capped, "clustered": self.clustered}
            others["pre_and_post_images"] = self.pre_and_post_images
            yield from (f"a time-series collection cannot have {name}" for name, value in others.items() if value)
            if "timeField" not in self.timeseries:
                yield "timeseries names no timeField"
        if self.capped is not None and self.capped.get("size", 0) <= 0:
            yield "capped names no size in bytes"
        if self.capped and self.clustered:
            yield "a capped collection cannot be clustered"
        if self.expire_after_seconds is not None and not (self.timeseries or self.clustered):
            yield "expire_after_seconds needs timeseries or clustered; other collections expire by a TTL index (CreateIndex)"

    def _differences(self, db: Database[Document], listed: catalogue.Listed) -> list[catalogue.Difference]:
        wanted = self.options()
        wanted["collation"] = catalogue.full_collation(db, self.collation)
        return list(catalogue.differences(catalogue.options_form(wanted), catalogue.options_form(listed.options)))

    def _refuse(self, found: list[catalogue.Difference]) -> None:
        if text := self._conflict(found):
            raise OperationError(text)

    def _conflict(self, found: list[catalogue.Difference]) -> str | None:
        """Return why the existing collection cannot be taken, or None when it can be adopted."""
        fixed = [difference for difference in found if difference.path.partition(".")[0] not in ADOPTABLE]
        if self.adopt and not fixed:
            return None
        advice = (
            "These cannot be changed in place."
            if self.adopt
            else "Correct the migration, or take it over with adopt=True."
        )
        if not self.adopt and fixed:
            advice = "Correct the migration."
        return f"{self.name} exists with other options: {catalogue.told(fixed if self.adopt else found)}. {advice}"

    def _modify(self, db: Database[Document], options: Mapping[str, Any]) -> None:
        """Set everything adoptable to what ``options`` say."""
        images = {"enabled": bool(options.get("changeStreamPreAndPostImages", {}).get("enabled"))}
        command = {"collMod": self.name, **set_validator.former(options), "changeStreamPreAndPostImages": images}
        catalogue.carry_out(db, command, f"The collection {self.name}")
