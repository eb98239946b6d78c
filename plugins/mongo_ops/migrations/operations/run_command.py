"""Run a database command that no other operation covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Fault, Operation, OperationError, Preview

if TYPE_CHECKING:
    from mongo_ops.mongo.batches import Counts

DESTRUCTIVE = frozenset({
    "drop", "dropDatabase", "dropAllUsersFromDatabase", "dropAllRolesFromDatabase", "convertToCapped", "emptycapped",
})  # fmt: skip
COVERED = {
    "create": "CreateCollection",
    "drop": "DropCollection",
    "collMod": "SetValidator",
    "createIndexes": "CreateIndex",
    "dropIndexes": "DropIndex",
    "renameCollection": "RenameCollection",
    "update": "Backfill",
}
MAJORITY = frozenset({
    "insert", "update", "delete", "findAndModify", "create", "drop", "collMod", "createIndexes", "dropIndexes", "dropDatabase",
    "convertToCapped",
})  # fmt: skip
NOT_REPEATABLE = frozenset({"$inc", "$mul", "$push", "$pop", "$bit"})


@dataclass(frozen=True)
class RunCommand(Operation):
    """Run one command against the environment's database.

    The author vouches that it is safe to repeat: after a kill it is run again. The linter knows the usual exceptions.
    ``collections`` names what it writes, for the plan and the lineage; by default the collection the command names.
    """

    command: Mapping[str, Any]
    reverse_command: Mapping[str, Any] | None = None
    collections: tuple[str, ...] = ()

    @property
    def command_name(self) -> str:
        """The command's first field."""
        return next(iter(self.command), "")

    def describe(self) -> str:
        """Name the command and its collection; never its values, which may be personal."""
        return _described(self.command)

    def writes(self) -> tuple[str, ...]:
        """What the author names, else what the command names."""
        target = _target(self.command)
        return self.collections or ((target,) if target else ())

    def why_irreversible(self) -> str | None:
        """Without a reverse command there is no way back."""
        if self.irreversible or self.reverse_command is not None:
            return self.irreversible
        return f"the command {self.command_name} has no reverse_command"

    def forward(self, at: Bench) -> Counts:
        """Run it."""
        return _run(at, self.command)

    def reverse(self, at: Bench) -> Counts:
        """Run its reverse."""
        if self.reverse_command is None:
            raise OperationError(f"{_described(self.command)}: there is no reverse_command.")
        return _run(at, self.reverse_command)

    def preview(self, db: Any) -> Preview:  # noqa: ARG002 - nothing can be known without running it
        """Say that nothing can be said."""
        return Preview(matched=None, risk="medium", notes=("What a command does cannot be told before it has run.",))

    def lint(self) -> Iterable[Fault]:
        """Check for commands that destroy, that cannot be repeated, and that have an operation of their own."""
        for command in (self.command, self.reverse_command or {}):
            name, target = next(iter(command), ""), _target(command)
            yield from catalogue.name_faults(*((target,) if target is not None else ()))
            if _destroys(command):
                yield Fault("MO201", f"the command {name} removes data or definitions, and no snapshot is taken")
            if name in COVERED:
                yield Fault(
                    "MO208", f"use {COVERED[name]} instead of the command {name}: it is previewed, checked and undone"
                )
            if any(operator in NOT_REPEATABLE for operator in _names(command)) or name == "insert":
                yield Fault(
                    "MO209", f"the command {name} cannot be repeated safely: a run that was killed would apply it twice"
                )
        if not self.command:
            yield Fault("MO207", "the command is empty")


def _run(at: Bench, command: Mapping[str, Any]) -> Counts:
    if not command:
        raise OperationError("The command is empty.")
    catalogue.check_names(*filter(None, [_target(command)]))
    at.check()
    concern = at.db.write_concern.document
    extra = (
        {"writeConcern": concern}
        if concern and next(iter(command)) in MAJORITY and "writeConcern" not in command
        else {}
    )
    answer = catalogue.checked(lambda: at.db.command({**command, **extra}), _described(command))
    if errors := answer.get("writeErrors"):
        codes = ", ".join(sorted({str(error.get("code")) for error in errors}))
        raise OperationError(f"{_described(command)}: {len(errors):,} writes were refused (codes {codes}).")
    return _counts(next(iter(command)), answer)


def _counts(name: str, answer: Mapping[str, Any]) -> Counts:
    """Read an answer's counts; commands that write no documents have none."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    count = int(answer.get("n", 0))
    match name:
        case "update":
            upserted = len(answer.get("upserted", ()))
            return Counts(matched=count - upserted, modified=int(answer.get("nModified", 0)), inserted=upserted)
        case "insert":
            return Counts(inserted=count)
        case "delete":
            return Counts(matched=count, deleted=count)
        case _:
            return Counts()


def _described(command: Mapping[str, Any]) -> str:
    target = _target(command)
    return f"Run the command {next(iter(command), '(none)')}" + (f" on {target}" if target else "")


def _target(command: Mapping[str, Any]) -> str | None:
    """Return the collection a command names as the value of its first field, or None."""
    value = next(iter(command.values()), None)
    return value if isinstance(value, str) else None


def _destroys(command: Mapping[str, Any]) -> bool:
    name = next(iter(command), "")
    emptied = name == "delete" and any(not part.get("q") for part in command.get("deletes", ()))
    removed = name == "findAndModify" and command.get("remove") and not command.get("query")
    return bool(
        name in DESTRUCTIVE or emptied or removed or command.get("dropTarget") or "$out" in set(_names(command))
    )


def _names(value: Any) -> Iterable[str]:
    """Yield every field name at any depth."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)
