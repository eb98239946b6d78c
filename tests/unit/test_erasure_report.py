"""What a person reads of a plan and of the register of requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.people import NOW

from mongo_ops.erasure.model import Finding, Plan, Request, RuleCount, State
from mongo_ops.erasure.plan import sealed
from mongo_ops.erasure.report import alert, plan_as_markdown, plan_as_text, requests_as_rows

COUNTS = (
    RuleCount("plays.events", "delete", "leaves", 12_345, True),
    RuleCount("users.account", "delete", "root", 2, False),
    RuleCount("notes.none", "delete", "leaves", 0, True),
)
PLAN = sealed(
    Plan(
        "eb_1",
        "staging",
        "shop",
        2,
        {"er_9": "held", "er_8": "held"},
        COUNTS,
        3,
        (Finding("notes", "Is new.", stops=True),),
        "m" * 64,
        "c",
    )
)
REQUEST = Request("er_1", "staging", State.RECEIVED, "sr1_x", b"sealed", NOW, NOW + timedelta(days=30), "web")


@pytest.mark.parametrize("form", [plan_as_text, plan_as_markdown])
def test_a_plan_says_who_what_how_and_what_stands_in_the_way(form):
    text = form(PLAN)

    for said in (
        "2 people",
        "staging",
        "shop",
        "eb_1",
        "plays.events",
        "12,345",
        "scan",
        "index",
        "Left out: 2 held.",
        "Is new.",
        PLAN.digest,
    ):
        assert said in text
    assert "notes.none" not in text
    assert "1 person" in form(replace(PLAN, requests=1))
    assert form(replace(PLAN, requests=0)).startswith("Nobody to erase on ")


def test_a_plan_is_a_table_in_markdown():
    rows = [line for line in plan_as_markdown(PLAN).splitlines() if line.startswith("|")]

    assert len(rows) == 4
    assert rows[2] == "| leaves | plays.events | delete | 12,345 | index |"


@pytest.mark.parametrize(
    ("state", "left", "said"),
    [
        (State.RECEIVED, timedelta(days=30), ""),
        (State.RECEIVED, timedelta(days=7), ""),
        (State.RECEIVED, timedelta(days=6, hours=23), "due soon"),
        (State.HELD, timedelta(seconds=-1), "overdue"),
        (State.COMPLETED, timedelta(days=-9), ""),
        (State.NOT_FOUND, timedelta(days=-9), ""),
    ],
)
def test_alerts(state, left, said):
    assert alert(replace(REQUEST, state=state, due_at=NOW + left), NOW) == said


def test_the_register_names_references_only():
    (row,) = requests_as_rows([REQUEST], NOW)

    assert row == {
        "request": "er_1", "state": "received", "reference": "sr1_x", "received": "2026-03-01", "due": "2026-03-31", "days_left": 30,
        "alert": "",
    }  # fmt: skip
    assert requests_as_rows([replace(REQUEST, state=State.COMPLETED)], NOW)[0]["days_left"] is None
