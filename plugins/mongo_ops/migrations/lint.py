"""Check migration files without a database: naming, docstring, order, reversibility, safety, compliance.

Every finding has a stable code (docs/lint.md). A file accepts a finding with ``allow={"MO102": "the reason"}``; a reason is
required, and an acceptance that nothing needs is a finding itself. Never writes, never connects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mongo_ops.migrations import rules
from mongo_ops.migrations.discover import NAME, MigrationFileError, candidates, load
from mongo_ops.migrations.model import MigrationFile
from mongo_ops.migrations.operations.base import Fault

UNSUPPRESSIBLE = frozenset({"MO001", "MO004", "MO005", "MO112", "MO113", "MO117"})
WARNINGS = frozenset({"MO003", "MO113", "MO202", "MO206", "MO210", "MO301"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one file. ``severity`` is ``error`` or ``warning``; only errors stop a run."""

    file: str
    code: str
    message: str

    @property
    def severity(self) -> str:
        """``warning`` for what a reader should know, else ``error``."""
        return "warning" if self.code in WARNINGS else "error"

    def __str__(self) -> str:
        return f"{self.file}: {self.code} {self.severity}: {self.message}"


def lint(
    folder: Path, environments: Collection[str], personal: Mapping[str, Collection[str]] | None = None
) -> tuple[Finding, ...]:
    """Return every finding about the migrations in ``folder``, in file order.

    Args:
        folder: the folder with migration files.
        environments: the names that ``environments=`` may use.
        personal: fields per collection that the data map knows; None while there is no data map (the rule then rests).
    """
    findings: list[Finding] = []
    files: list[MigrationFile] = []
    for path in candidates(folder):
        if not NAME.match(path.stem):
            findings.append(
                Finding(path.name, "MO001", "name it like 007_what_it_does.py: three digits, lower-case words")
            )
            continue
        try:
            files.append(load(path, folder))
        except MigrationFileError as error:
            findings.append(Finding(path.name, "MO005", error.problem))
    findings += _numbers(files)
    findings += [finding for file in files for finding in _unstable(file, folder)]
    for file in files:
        findings += _one(file, environments, personal)
    return tuple(sorted(findings, key=lambda finding: (finding.file, finding.code)))


def _unstable(file: MigrationFile, folder: Path) -> Iterator[Finding]:
    """Load a file again: an operation that comes out different computes a value at import, such as the time or a new id."""
    again = load(file.path, folder)
    pairs = zip(file.migration.operations, again.migration.operations, strict=False)
    if any(one.digest() != other.digest() for one, other in pairs):
        yield Finding(
            file.path.name,
            "MO117",
            "computes a value when it is loaded (the time, a new id); use an expression or write it down",
        )


def _numbers(files: Sequence[MigrationFile]) -> Iterator[Finding]:
    """Find duplicate numbers and gaps."""
    seen: dict[int, MigrationFile] = {}
    for file in sorted(files, key=lambda file: int(file.version)):
        number = int(file.version)
        if number in seen:
            yield Finding(file.path.name, "MO004", f"has the same number as {seen[number].path.name}")
        elif seen and number != max(seen) + 1:
            yield Finding(file.path.name, "MO003", f"leaves a gap after {max(seen):03d}")
        seen.setdefault(number, file)


def _one(
    file: MigrationFile, environments: Collection[str], personal: Mapping[str, Collection[str]] | None
) -> Iterator[Finding]:
    allowed = file.migration.allow
    raised: set[str] = set()
    faults: list[Fault] = [*rules.about_file(file, environments), *rules.about_order(file)]
    faults += rules.about_personal_data(file, personal) if personal is not None else []
    faults += [fault for op in file.migration.operations for fault in op.lint()]
    for fault in faults:
        raised.add(fault.code)
        if fault.code not in allowed or fault.code in UNSUPPRESSIBLE:
            yield Finding(file.path.name, fault.code, fault.message)
    for code, reason in allowed.items():
        if not reason.strip():
            yield Finding(file.path.name, "MO112", f"accepts {code} without a reason")
        elif code not in raised:
            yield Finding(file.path.name, "MO113", f"accepts {code}, which nothing here raises")
