"""Erasure under attack, through the command line: short addresses, bytes that are no text, days that are none, files that cannot be."""

from __future__ import annotations

import io

import pytest
from tests.mongo import test_erasure_cli as erasures
from tests.mongo.test_erasure_cli import NOW, person, receive

from mongo_ops.cli import main
from mongo_ops.erasure.needles import Needles

include, migrated, project, run = erasures.include, erasures.migrated, erasures.project, erasures.run
HOLD = ("--collection", "users", "--filter", "{}", "--reason-code", "litigation", "--authority", "court X")


def test_a_mention_of_an_address_of_six_letters_goes_and_its_neighbours_stay(project, run):
    key = person(project, "a@b.io")
    text = "wrote to a@b.io, aa@b.io and a@b.ion today"
    event = {"event_type": "login_failed", "severity": "info", "occurred_at": NOW, "expires_at": None}
    project.security_events.insert_one(
        {**event, "user_id": person(project, "joann@example.org"), "details": {"text": text}}
    )
    code, done, _ = run("erase run", receive(run, key))
    left = project.security_events.find_one({}, {"_id": 0, "details": 1})["details"]["text"].split(" ")
    assert (code, done["states"]) == (0, {"completed": 1})
    assert (left[2][:4], left[2][-1], left[:2] + left[3:]) == ("sr1_", ",", text.replace("a@b.io, ", "", 1).split(" "))


def test_a_short_address_elsewhere_makes_the_result_partial(project, run):
    key = person(project, "a@b.io")
    project.client[f"{project.name}_x"].notes.insert_one({"to": "A@B.io"})
    try:
        code, done, _ = run("erase run", receive(run, key))
    finally:
        project.client.drop_database(f"{project.name}_x")
    assert (code, done["states"]) == (1, {"partial": 1})
    assert done["reasons"] == [f"{project.name}_x.notes, to: 1 documents with email"]


def test_short_patterns_are_found_wherever_they_begin():
    for before in range(20):
        buffer = b"\x00" * before + b"a@b.io\x00 1a@b.io a@b.io2 <A@b.IO>"
        assert [one.start for one in Needles([b"a@b.io"]).find(buffer)] == [before, before + 25]


@pytest.mark.parametrize("more", [(), ("--many",)])
def test_an_identifier_that_is_no_text_is_refused_with_a_sentence(project, run, monkeypatch, capsys, more):
    typed = io.TextIOWrapper(io.BytesIO(b"507f1f77bcf86cd799439011\n\xff\n"[25 * (not more) :]), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    assert main(["erase", "request", *more, "--env", "development"]) == 3
    assert "Standard input is not UTF-8 text. Nothing was read or written." in capsys.readouterr().err
    assert project.ops_erasure_requests.count_documents({}) == 0


@pytest.mark.parametrize("day", ["9999-12-31T23:00:00-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_day_beyond_the_calendar_is_refused_with_a_sentence(project, run, day):
    code, value, _ = run("erase hold", *HOLD, "--review", day)
    assert (code, value["error"][:25]) == (3, "A date is written like 20")
    assert project.ops_legal_holds.count_documents({}) == 0


def test_files_that_cannot_be_written_are_told_of(project, run, tmp_path):
    key = person(project, "ann@example.org")
    nowhere = str(tmp_path / "nowhere" / "file")
    code, value, said = run("erase export-subject", "--output", nowhere, typed=f"{key}\n")
    assert (code, value["error"][:40], nowhere in said) == (3, "A file cannot be written (ENOENT). Check", False)
    request = receive(run, key)
    assert run("erase run", request)[0] == 0
    assert run("erase certificate", request, "--html", nowhere)[1]["error"] == value["error"]
    there = tmp_path / "there"
    there.write_text("mine")
    code, value, _ = run("erase export-subject", "--output", str(there), typed=f"{key}\n")
    assert (code, "is there already" in value["error"], there.read_text()) == (3, True, "mine")
