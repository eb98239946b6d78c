"""The linter of online specs: what it finds in a file, and that the project's own specs are clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.mongo.online_project import GHOST, SECONDS, spec

from mongo_ops.online import discover
from mongo_ops.online.errors import SpecError
from mongo_ops.online.lint import lint
from mongo_ops.settings import load_personal_fields

INCLUDE = Path(__file__).parents[2] / "include"


def found(tmp_path, text, name="001_a_spec", personal=None):
    (tmp_path / "online").mkdir(exist_ok=True)
    (tmp_path / "online" / f"{name}.py").write_text(text)
    return [finding.code for finding in lint(tmp_path, personal)]


def test_the_projects_own_specs_are_clean():
    assert [str(finding) for finding in lint(INCLUDE, load_personal_fields(INCLUDE))] == []
    assert [file.migration.mode for file in discover.discover(INCLUDE)] == ["in_place", "ghost"]


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (SECONDS, []),
        (GHOST, []),
        ({"mode": '"ghost"'}, []),
        ({"transform": "[]"}, ["ON102"]),
        ({"transform": '[{"$set": {"_id": "$isrc"}}]', "fields": '("_id",)'}, ["ON102"]),
        ({"transform": '[{"$unwind": "$x"}]'}, ["ON102"]),
        ({"transform": '[{"$replaceWith": "$x"}]'}, ["ON102"]),
        ({"transform": '[{"$set": {"a": {"$function": {}}}}]', "fields": '("a",)'}, ["ON109"]),
        ({"transform": '[{"$set": {"a": 1}}]'}, ["ON104"]),
        ({"transform": '[{"$set": {"a": 1}}]', "allow": '{"ON104": "rounded for good"}'}, []),
        ({"transform": '[{"$set": {"a": 1}}]', "allow": '{"ON104": " "}'}, ["ON112"]),
        ({**SECONDS, "allow": '{"ON105": "why"}'}, ["ON113"]),
        ({**SECONDS, "contract": 'Contract(drop=("ms",))'}, ["ON105"]),
        ({**SECONDS, "changes_id": "True"}, ["ON107"]),
        ({**SECONDS, "target": "TargetOptions(validator={})"}, ["ON107"]),
        ({**GHOST, "fields": '("a",)'}, ["ON107"]),
        ({**GHOST, "inverse": "None"}, ["ON101"]),
        ({**GHOST, "inverse": '[{"$group": {}}]'}, ["ON102"]),
        ({**GHOST, "transform": "lambda d: d", "views": 'Views(new="v2")'}, ["ON106"]),
        ({**SECONDS, "views": 'Views(old="v1")'}, ["ON106"]),
        ({**SECONDS, "views": 'Views(new="tracks")'}, ["ON106"]),
        ({**SECONDS, "limits": "Limits(nice=-1)"}, ["ON108"]),
        ({**SECONDS, "soak_hours": "-1"}, ["ON108"]),
        ({**SECONDS, "before": "import os"}, ["ON114"]),
        ({**SECONDS, "before": "from pymongo import MongoClient"}, ["ON114"]),
        ({**SECONDS, "before": "import time", "soak_hours": "time.time()"}, ["ON117"]),
        ({**SECONDS, "before": 'X = "mongodb://me:secret@host"'}, ["ON116"]),
        ({"transform": '[{"$set": {"email_domain": "$x"}}]', "fields": '("email_domain",)'}, ["ON110"]),
    ],
)
def test_what_is_found(tmp_path, words, codes):
    assert found(tmp_path, spec(**words), personal={}) == codes


def test_a_collection_of_our_own_is_refused(tmp_path):
    assert found(tmp_path, spec("ops_history", **SECONDS)) == ["ON103"]


def test_a_personal_field_that_the_data_map_names_is_fine(tmp_path):
    words = {"transform": '[{"$set": {"email_domain": "$x"}}]', "fields": '("email_domain",)'}
    assert found(tmp_path, spec(**words), personal={"tracks": {"email_domain"}}) == []


@pytest.mark.parametrize(
    ("name", "text", "code", "says"),
    [
        ("1_short", spec(**SECONDS), "ON001", "name it like"),
        ("001_syntax", "x = (", "ON005", "line 1"),
        ("001_nothing", '"""A docstring that is long enough."""', "ON005", "must define `migration"),
        ("001_raises", "1 / 0", "ON005", "ZeroDivisionError"),
        ("001_mode", spec(mode='"sideways"'), "ON005", "mode is"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, text, code, says):
    assert found(tmp_path, text, name) == [code]
    assert says in str(lint(tmp_path)[0])


def test_a_spec_is_found_by_name_or_number_and_its_checksum_ignores_comments(tmp_path):
    found(tmp_path, spec(**SECONDS))
    first = discover.find(tmp_path, "001")
    found(tmp_path, spec(**SECONDS) + "# a comment\n")
    assert discover.find(tmp_path, "001_a_spec").checksum == first.checksum
    found(tmp_path, spec(**SECONDS, soak_hours="1"))
    assert discover.find(tmp_path, "001").checksum != first.checksum
    with pytest.raises(SpecError, match=r"no online migration 002 .*there are: 001_a_spec"):
        discover.find(tmp_path, "002")
