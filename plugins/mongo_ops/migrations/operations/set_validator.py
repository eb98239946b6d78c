"""Give a collection a validator, replace it, or take it away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import json_util

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Fault, Operation, OperationError, Preview

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

LEVELS = ("off", "moderate", "strict")
ACTIONS = ("error", "warn")
COUNTED_PER_SECOND = 200_000
"""Documents a server checks against a validator in a second; an assumption for estimates only."""
LONGEST_QUERY = 400


@dataclass(frozen=True)
class SetValidator(Operation):
    """Set the validator of a collection; None removes it.

    With level ``strict`` and action ``error`` documents that do not conform could no longer be updated, so the operation
    refuses while there are more than ``max_rejected`` of them. With ``moderate`` they stay updatable, with ``warn`` the
    server only logs, with ``off`` it does not look; then their number is only shown in the plan.
    """

    collection: str
    validator: Mapping[str, Any] | None
    level: str = "strict"
    action: str = "error"
    max_rejected: int = 0

    def describe(self) -> str:
        """Say what is set."""
        if self.validator is None:
            return f"Remove the validator of {self.collection}"
        return f"Set the validator of {self.collection} (level {self.level}, action {self.action})"

    def writes(self) -> tuple[str, ...]:
        """The collection."""
        return (self.collection,)

    def observe(self, db: Database[Document]) -> Mapping[str, Any]:
        """Note the validator in force."""
        listed = catalogue.collection(db, self.collection)
        return {"former": catalogue.note(former(listed.options))} if listed else {}

    def forward(self, at: Bench) -> Counts:
        """Count who would be rejected, then set it."""
        catalogue.check_names(self.collection)
        if not self._in_force(self._listed(at.db)):
            refuse_rejected(at.db, self.collection, self.rules(), self.max_rejected)
            at.check()
            self._set(at.db, self.rules())
        return catalogue.none_counted()

    def reverse(self, at: Bench) -> Counts:
        """Set what was in force before."""
        text = catalogue.fact(at.found, "former", f"The validator of {self.collection}")
        at.check()
        self._set(at.db, catalogue.recall(text))
        return catalogue.none_counted()

    def rules(self) -> Document:
        """Return the options for ``collMod``."""
        return {"validator": dict(self.validator or {}), "validationLevel": self.level, "validationAction": self.action}

    def is_done(self, db: Database[Document]) -> bool | None:
        """Compare the stored validator."""
        listed = catalogue.collection(db, self.collection)
        return self._in_force(listed) if listed else None

    def is_undone(self, db: Database[Document]) -> bool | None:
        """The validator is not in force; when it is, it may have been so before."""
        return True if self.is_done(db) is False else None

    def preview(self, db: Database[Document]) -> Preview:
        """Count the documents that would be rejected."""
        listed = catalogue.collection(db, self.collection)
        if listed is None:
            return Preview(notes=(f"{self.collection} does not exist yet; an earlier operation has to create it.",))
        if self._in_force(listed):
            return Preview(notes=(f"{self.collection} already has this validator.",))
        return rejection_preview(db, self.collection, self.rules(), self.max_rejected)

    def lint(self) -> Iterable[Fault]:
        """Check name, level and action."""
        yield from catalogue.name_faults(self.collection)
        yield from rule_faults(self.level, self.action)
        if self.max_rejected and guards(self.rules()):
            yield Fault(
                "MO210", f"up to {self.max_rejected:,} documents of {self.collection} could not be updated any more"
            )

    def _listed(self, db: Database[Document]) -> catalogue.Listed:
        listed = catalogue.collection(db, self.collection)
        if listed is None:
            raise OperationError(
                f"{self.collection} does not exist, so it can have no validator. Create it first (CreateCollection)."
            )
        return listed

    def _in_force(self, listed: catalogue.Listed) -> bool:
        return not list(
            catalogue.differences(catalogue.options_form(self.rules()), catalogue.options_form(former(listed.options)))
        )

    def _set(self, db: Database[Document], rules: Document) -> None:
        catalogue.carry_out(db, {"collMod": self.collection, **rules}, f"The validator of {self.collection}")


def former(options: Mapping[str, Any]) -> Document:
    """Return validator, level and action of listed options, as ``collMod`` takes them."""
    return {
        "validator": options.get("validator", {}),
        "validationLevel": options.get("validationLevel", "strict"),
        "validationAction": options.get("validationAction", "error"),
    }


def guards(rules: Mapping[str, Any]) -> bool:
    """Say whether the rules make existing documents that do not conform impossible to update."""
    return bool(rules["validator"]) and rules["validationLevel"] == "strict" and rules["validationAction"] == "error"


def rejected(db: Database[Document], collection: str, rules: Mapping[str, Any]) -> int:
    """Count the documents that do not conform. Reads the whole collection."""
    if not rules["validator"] or rules["validationLevel"] == "off":
        return 0
    return db[collection].count_documents({"$nor": [rules["validator"]]})


def refuse_rejected(db: Database[Document], collection: str, rules: Mapping[str, Any], allowed: int) -> None:
    """Raise when more documents than allowed would be rejected on their next update."""
    if guards(rules):
        count = rejected(db, collection, rules)
        if count > allowed:
            raise OperationError(rejection(collection, rules, count, allowed))


def rejection(collection: str, rules: Mapping[str, Any], count: int, allowed: int) -> str:
    """Return the refusal: how many documents and how to find them, none of their values."""
    validator = json.dumps(rules["validator"], default=json_util.default)
    shown = validator if len(validator) <= LONGEST_QUERY else "<the validator>"
    return (
        f"{count:,} documents of {collection} do not conform to the new validator ({allowed:,} allowed) and could not be updated "
        f"any more. Find them with db.getCollection({json.dumps(collection)}).find({{$nor: [{shown}]}}), mend them first, or "
        'use level="moderate" or action="warn".'
    )


def rejection_preview(db: Database[Document], collection: str, rules: Mapping[str, Any], allowed: int) -> Preview:
    """Say how many documents would be rejected, and whether that stops the operation."""
    documents = db[collection].estimated_document_count() if rules["validator"] else 0
    count = rejected(db, collection, rules)
    stop = rejection(collection, rules, count, allowed) if guards(rules) and count > allowed else None
    notes = []
    if count and rules["validationAction"] == "warn":
        notes.append(f"{count:,} documents of {collection} do not conform; the server only logs their updates.")
    elif count and rules["validationLevel"] == "moderate":
        notes.append(f"{count:,} documents of {collection} do not conform; they stay updatable, new ones must conform.")
    return Preview(
        scanned=documents,
        rejected=count,
        seconds=documents / COUNTED_PER_SECOND,
        scan=documents > 0,
        risk="high" if stop else "medium" if count else "low",
        notes=tuple(notes),
        stop=stop,
    )


def rule_faults(level: str, action: str) -> Iterable[Fault]:
    """Yield MO207 for a level or an action that the server does not know."""
    if level not in LEVELS:
        yield Fault("MO207", f"validation level {level!r} is none of {', '.join(LEVELS)}")
    if action not in ACTIONS:
        yield Fault("MO207", f"validation action {action!r} is none of {', '.join(ACTIONS)}")
