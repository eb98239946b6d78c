"""The linter: every code is raised by a file that deserves it, and by none that does not."""

from __future__ import annotations

import pytest

from mongo_ops import settings
from mongo_ops.migrations.lint import UNSUPPRESSIBLE, WARNINGS, lint

DOC = "Adds what is missing, and takes it away again on the way back."
GOOD = "Backfill('users', {'$set': {'n': 1}}, revert={'$unset': {'n': ''}})"
UNIQUE = "CreateIndex('users', keys=[('n', 1)], name='n', unique=True)"
VALIDATOR = "SetValidator('users', {'$jsonSchema': {'properties': {'n': {'bsonType': 'int'}}}})"


def text(*operations, doc=DOC, before="", **options):
    listed = ", ".join(operations)
    further = "".join(f", {name}={value}" for name, value in options.items())
    return f'"""{doc}"""\nfrom mongo_ops.migrations import *\n{before}\nmigration = Migration(operations=[{listed}]{further})\n'


@pytest.fixture
def codes(tmp_path):
    def codes(personal=None, **files):
        for name, source in files.items():
            (tmp_path / f"{name[1:]}.py").write_text(source, encoding="utf-8")
        return [(finding.file, finding.code) for finding in lint(tmp_path, ["development"], personal)]

    return codes


def python(body):
    return "def work(ctx):\n    " + body.replace("\n", "\n    ")


RUN = "RunPython(work, reverse=work)"
ONE_FILE = [
    (text(GOOD), []),
    (text(GOOD, doc="Short."), ["MO002"]),
    (text(), ["MO104"]),
    (text(GOOD, tags="('odd',)"), ["MO115"]),
    (text(GOOD, tags="('odd', 'advanced')"), []),
    (text(GOOD, environments="('nowhere',)"), ["MO111"]),
    (text(GOOD, environments="('development',)"), []),
    (text("Backfill('users', {'$set': {'n': 1}})"), ["MO101"]),
    (text("Backfill('users', {'$set': {'n': 1}})", irreversible="'agreed with the owners'"), []),
    (text("Backfill('users', {'$set': {'n': 1}}, irreversible='agreed')"), []),
    (text("Backfill('users', {'$set': {'n': 1}}, irreversible=' ')"), ["MO101"]),
    (text("DropCollection('old')"), ["MO102"]),
    (text("DropCollection('old')", allow="{'MO102': 'nobody reads it'}"), []),
    (text("DropCollection('old')", allow="{'MO102': ' '}"), ["MO112"]),
    (text(GOOD, allow="{'MO102': 'in vain'}"), ["MO113"]),
    (text(GOOD, transaction="'always'"), ["MO103"]),
    (text("InsertDocuments('a', [{'_id': 1}])", transaction="'always'"), []),
    (text(UNIQUE, GOOD), ["MO106"]),
    (text(GOOD, UNIQUE), []),
    (text(UNIQUE, GOOD.replace("'users'", "'tracks'")), []),
    (text(VALIDATOR, GOOD), ["MO107"]),
    (text(GOOD, VALIDATOR), []),
    (text(RUN, before=python("ctx.db.users.update_many({}, {'$set': {'n': 1}})")), ["MO108"]),
    (text(RUN, before=python("ctx.db.users.update_many({}, {'$set': {'n': 1}}, session=ctx.session)")), []),
    (text(RUN, before="import os\n" + python("pass")), ["MO114"]),
    (text(RUN, before="from pymongo.collection import Collection\n" + python("pass")), ["MO114"]),
    (text(RUN, before="import re\nfrom bson import ObjectId\n" + python("pass")), []),
    (text(GOOD, before="URI = 'mongodb://ana:secret@h/'"), ["MO116"]),
    (text(GOOD, before="KEY = 'AKIAABCDEFGHIJKLMNOP'"), ["MO116"]),
    (text(GOOD, before="URI = 'mongodb://h/'"), []),
    ("migration = (", ["MO005"]),
    ("x = 1", ["MO005"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "wanted"), ONE_FILE)
def test_one_file(codes, source, wanted):
    assert codes(n001_x=source) == [("001_x.py", code) for code in wanted]


def test_names_numbers_and_gaps(codes):
    good = text(GOOD)

    assert codes(n001_a=good, n002_b=good) == []
    assert codes(n1_wrong=good) == [("1_wrong.py", "MO001")]
    assert codes(n002_c=good) == [("002_c.py", "MO004"), ("1_wrong.py", "MO001")]
    assert ("005_d.py", "MO003") in codes(n005_d=good)
    assert ("_helper.py", "MO001") not in codes(n_helper="x = 1")


def test_numbers_beyond_999_leave_no_gap(codes):
    assert codes(n999_a=text(GOOD), n1000_b=text(GOOD)) == []


@pytest.mark.parametrize(
    ("operation", "personal", "found"),
    [
        ("AddField('users', 'email', value='x')", None, False),  # no data map yet: the rule rests
        ("AddField('users', 'email', value='x')", {}, True),
        ("AddField('users', 'email', value='x')", {"users": ["email"]}, False),
        ("AddField('users', 'contact.phone', value='x')", {"users": ["email"]}, True),
        ("AddField('users', 'mailing_n', value=1)", {}, False),
        ("RenameField('users', 'x', 'birthday')", {}, True),
        (VALIDATOR.replace("'n'", "'home_address'"), {}, True),
        (VALIDATOR.replace("{'bsonType': 'int'}", "{'properties': {'ip': {}}}"), {"users": ["n"]}, True),
    ],
)
def test_fields_that_look_personal_must_be_in_the_data_map(codes, operation, personal, found):
    assert (("001_x.py", "MO110") in codes(personal, n001_x=text(operation))) is found


def test_what_must_never_be_suppressed_cannot_be(codes):
    accepted = text("DropCollection('old')", allow="{'MO102': '', 'MO112': 'so what', 'MO113': 'x'}")

    assert {code for _, code in codes(n001_x=accepted)} == {"MO112", "MO113"}
    assert {"MO001", "MO004", "MO005", "MO112", "MO113", "MO117"} == UNSUPPRESSIBLE


def test_only_errors_stop_a_run(tmp_path):
    (tmp_path / "001_x.py").write_text(text(GOOD, allow="{'MO102': 'in vain'}"))
    (tmp_path / "003_y.py").write_text(text())
    findings = lint(tmp_path, ["development"])

    assert [(finding.code, finding.severity) for finding in findings] == [
        ("MO113", "warning"), ("MO003", "warning"), ("MO104", "error"),
    ]  # fmt: skip
    assert str(findings[0]).startswith("001_x.py: MO113 warning: accepts MO102")
    assert {"MO003", "MO113"} <= WARNINGS


def test_the_reference_model_has_no_errors():
    folder = settings.PROJECT / "include" / "migrations"
    environments = settings.load_environments(settings.PROJECT / "include")

    assert [str(finding) for finding in lint(folder, environments) if finding.severity == "error"] == []
