"""The commands that work on migration files alone, without a database."""

from __future__ import annotations

import argparse
import re

from mongo_ops.cli.output import show
from mongo_ops.errors import PlanError
from mongo_ops.migrations.discover import candidates
from mongo_ops.migrations.lint import lint as check
from mongo_ops.settings import include_folder, load_environments, load_personal_fields

FAULTS_FOUND = 2
SLUG = re.compile(r"^[a-z0-9]+(_[a-z0-9]+)*$")
TEMPLATE = '''"""{title}.

Say what readers and writers may see meanwhile, and how it is undone.
"""

from mongo_ops.migrations import AddField, Migration

migration = Migration(
    tags=("{tag}",),
    operations=[
        AddField("collection", "field", value=None),
    ],
)
'''


def lint(arguments: argparse.Namespace) -> int:
    """Check every migration file; exit code 2 when there are errors."""
    findings = check(include_folder() / "migrations", load_environments(), load_personal_fields())
    errors = [finding for finding in findings if finding.severity == "error"]
    value = {
        "findings": [{"file": f.file, "code": f.code, "severity": f.severity, "message": f.message} for f in findings]
    }
    lines = [str(finding) for finding in findings]
    show(arguments, value, "\n".join([*lines, f"{len(errors)} errors, {len(findings) - len(errors)} warnings"]))
    return FAULTS_FOUND if errors else 0


def new(arguments: argparse.Namespace) -> int:
    """Write the next migration file."""
    if not SLUG.match(arguments.slug):
        raise PlanError(f"{arguments.slug!r} is not a slug; use lower-case words joined by _, e.g. add_user_locale.")
    folder = include_folder() / "migrations"
    numbers = [int(path.stem.partition("_")[0]) for path in candidates(folder) if path.stem[:3].isdigit()]
    path = folder / f"{max(numbers, default=0) + 1:03d}_{arguments.slug}.py"
    title = arguments.slug.replace("_", " ").capitalize()
    with path.open("x", encoding="utf-8") as file:
        file.write(TEMPLATE.format(title=title, tag="advanced" if arguments.advanced else "core"))
    print(path)
    return 0
