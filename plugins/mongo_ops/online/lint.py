"""Check spec files without a database. Every finding has a stable code; ``allow={"ON105": "the reason"}`` accepts one. Never connects."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mongo_ops.migrations.operations import catalogue, fields
from mongo_ops.migrations.rules import CREDENTIAL, FORBIDDEN_IMPORTS, PERSONAL_WORDS, SHORTEST_DOCSTRING
from mongo_ops.online.discover import NAME, candidates, load
from mongo_ops.online.errors import SpecError
from mongo_ops.online.model import Contract, OnlineMigration, SpecFile, TargetOptions
from mongo_ops.online.shape import stages

UNSUPPRESSIBLE = frozenset({"ON001", "ON005", "ON101", "ON102", "ON103", "ON106", "ON107", "ON108", "ON112", "ON113"})
WARNINGS = frozenset({"ON113"})
IN_PLACE_STAGES = frozenset({"$set", "$addFields", "$unset"})
ONE_TO_ONE = IN_PLACE_STAGES | {"$project", "$replaceWith", "$replaceRoot"}
MOST_NICE = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one file. Only errors stop a start."""

    file: str
    code: str
    message: str

    @property
    def severity(self) -> str:
        """``warning`` for what a reader should know, else ``error``."""
        return "warning" if self.code in WARNINGS else "error"

    def __str__(self) -> str:
        return f"{self.file}: {self.code} {self.severity}: {self.message}"


Found = Iterator[tuple[str, str]]


def lint(folder: Path, personal: Mapping[str, Collection[str]] | None = None) -> tuple[Finding, ...]:
    """Return every finding about the specs of an include folder, in file order.

    Args:
        folder: the include folder.
        personal: fields per collection that the data map knows; None while there is none.
    """
    findings: list[Finding] = []
    for path in candidates(folder):
        if not NAME.match(path.stem):
            findings.append(Finding(path.name, "ON001", "name it like 001_what_it_does.py"))
            continue
        try:
            findings += check(load(path), personal)
        except SpecError as error:
            findings.append(Finding(path.name, "ON005", str(error).partition(": ")[2]))
    return tuple(sorted(findings, key=lambda finding: (finding.file, finding.code)))


def check(file: SpecFile, personal: Mapping[str, Collection[str]] | None = None) -> Iterator[Finding]:
    """Yield every finding about one spec."""
    allowed, raised = file.migration.allow, set()
    for code, message in _faults(file, personal):
        raised.add(code)
        if code not in allowed or code in UNSUPPRESSIBLE:
            yield Finding(file.path.name, code, message)
    for code, reason in allowed.items():
        if not reason.strip():
            yield Finding(file.path.name, "ON112", f"accepts {code} without a reason")
        elif code not in raised:
            yield Finding(file.path.name, "ON113", f"accepts {code}, which nothing here raises")


def _faults(file: SpecFile, personal: Mapping[str, Collection[str]] | None) -> Found:
    spec = file.migration
    rules: tuple[Callable[[OnlineMigration], Found], ...] = (_collection, _limits, _views, _javascript)
    yield from _source(file)
    for rule in (*rules, _ghost if spec.ghost else _in_place):
        yield from rule(spec)
    if personal is not None:
        yield from _personal(spec, personal)


def _source(file: SpecFile) -> Found:
    if len(file.docstring.strip()) < SHORTEST_DOCSTRING:
        yield "ON002", "say in the docstring what it does, what readers and writers see meanwhile, and how it is undone"
    if CREDENTIAL.search(file.source):
        yield "ON116", "holds something that looks like a credential"
    for node in ast.walk(ast.parse(file.source)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        for module in modules:
            if module.partition(".")[0] in FORBIDDEN_IMPORTS:
                yield "ON114", f"imports {module}; a spec uses mongo_ops.online, bson and plain Python"
    again = load(file.path).migration
    if _steady(file.migration) != _steady(again):
        yield "ON117", "computes a value when it is loaded (the time, a new id); use an expression or write it down"


def _steady(spec: OnlineMigration) -> str:
    """Return the declaration as text, functions left out."""
    named = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    return repr({name: value for name, value in named.items() if not callable(value)})


def _collection(spec: OnlineMigration) -> Found:
    fault = catalogue.name_fault(spec.collection)
    if fault:
        yield "ON103", fault


def _limits(spec: OnlineMigration) -> Found:
    limits = spec.limits
    if limits.chunk < 1 or limits.chunk_seconds <= 0 or not 0 <= limits.nice <= MOST_NICE or limits.max_lag <= 0:
        yield "ON108", f"limits: chunk, chunk_seconds and max_lag are above 0, nice is 0 to {MOST_NICE}"
    if spec.soak_hours < 0 or spec.fence.longest_seconds <= 0:
        yield "ON108", "soak_hours is 0 or more, fence.longest_seconds above 0"


def _views(spec: OnlineMigration) -> Found:
    shown = spec.views
    if (shown.new and callable(spec.transform)) or (shown.old and callable(spec.inverse)):
        yield "ON106", "a view needs a pipeline; Python cannot be read through"
    if shown.old and spec.inverse is None:
        yield "ON106", "the view of the old shape needs inverse="
    for name in filter(None, (shown.new, shown.old)):
        fault = catalogue.name_fault(name) or (
            "a view is named like the collection" if name == spec.collection else None
        )
        if fault:
            yield "ON106", fault


def _javascript(spec: OnlineMigration) -> Found:
    for part in (stages(spec.transform), stages(spec.inverse)):
        yield from (("ON109", fault.message) for fault in fields.javascript_faults(part))


def _in_place(spec: OnlineMigration) -> Found:
    yield from _stages("transform", spec.transform, IN_PLACE_STAGES)
    if not callable(spec.transform) and not spec.transform:
        yield "ON102", "the transform is empty"
    if spec.target != TargetOptions() or spec.changes_id:
        yield "ON107", "target= and changes_id= belong to the ghost mode"
    touched = (
        fields.touched_fields(list(stages(spec.transform))) if not callable(spec.transform) else tuple(spec.fields)
    )
    if "_id" in (touched or ()):
        yield "ON102", "_id cannot be changed in place; use the ghost mode"
    unnamed = sorted(set(touched or ()) - set(spec.fields))
    if unnamed:
        yield "ON104", f"changes {', '.join(unnamed)}, which an abort would leave as it is; name new fields in fields="
    if spec.contract.drop:
        yield "ON105", f"removes {', '.join(spec.contract.drop)} for good; accept it with a reason"


def _ghost(spec: OnlineMigration) -> Found:
    yield from _stages("transform", spec.transform, ONE_TO_ONE)
    yield from _stages("inverse", spec.inverse or (), ONE_TO_ONE)
    if spec.inverse is None and (callable(spec.transform) or spec.transform):
        yield (
            "ON101",
            "give inverse=, the way back: without it a rollback would lose what is written after the cut-over",
        )
    if spec.fields or spec.validator is not None or spec.contract != Contract():
        yield "ON107", "fields=, validator= and contract= belong to the in-place mode; a ghost has target="


def _stages(what: str, transform: Any, allowed: frozenset[str]) -> Found:
    for stage in stages(transform):
        for name in stage:
            if name not in allowed:
                yield "ON102", f"{what} uses {name}; one document must stay one: {', '.join(sorted(allowed))}"


def _personal(spec: OnlineMigration, personal: Mapping[str, Collection[str]]) -> Found:
    touched = fields.touched_fields(list(stages(spec.transform))) if stages(spec.transform) else ()
    for name in dict.fromkeys([*spec.fields, *(touched or ())]):
        if PERSONAL_WORDS.search(name) and name not in personal.get(spec.collection, ()):
            yield "ON110", f"{spec.collection}.{name} looks personal and data_map.yaml does not name it"
