"""The guides name everything that the code has, and nothing that it has not."""

from __future__ import annotations

import re
from pathlib import Path

from mongo_ops import migrations
from mongo_ops.cli.arguments import COMMANDS
from mongo_ops.migrations.operations.base import Operation

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"MO\d{3}")


def codes_in_code() -> set[str]:
    files = (ROOT / "plugins" / "mongo_ops" / "migrations").rglob("*.py")
    return {code for file in files for code in CODE.findall(file.read_text(encoding="utf-8"))}


def test_every_lint_code_is_explained_and_every_explained_code_exists():
    explained = re.findall(r"^\| (MO\d{3}) \|", (ROOT / "docs" / "lint.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(codes_in_code()) == explained


def test_every_operation_has_its_section():
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.MULTILINE)
    classes = (getattr(migrations, name) for name in migrations.__all__)
    operations = {one.__name__ for one in classes if isinstance(one, type) and issubclass(one, Operation)}

    assert set(sections) == operations
    assert len(sections) == len(operations)


def test_every_command_that_a_guide_shows_exists():
    guides = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {name for guide in guides for name in re.findall(r"`mongo-ops ([a-z]+)", guide.read_text(encoding="utf-8"))}

    assert shown
    assert shown <= set(COMMANDS)


def test_every_link_between_guides_leads_somewhere():
    broken = []
    for guide in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", guide.read_text(encoding="utf-8")):
            if not (guide.parent / link).exists():
                broken.append(f"{guide.name}: {link}")

    assert broken == []
