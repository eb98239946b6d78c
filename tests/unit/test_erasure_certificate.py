"""The certificate of one person's erasure: what it says, that an edit shows, and that the page loads nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.people import NOW, data_map

from mongo_ops.erasure.certificate import as_page, certificate, is_genuine, retains
from mongo_ops.erasure.model import CollectionEntry, FieldNote, Ground, Plan, Request, Rule, State, Tally
from mongo_ops.erasure.plan import sealed
from mongo_ops.erasure.verify import Left, Verification

GROUND = Ground("art17_3_b", "tax law <b>", "accountant", "at", "P10Y", "P1Y")
SELECT = {"user_id": "$user_id"}
RULES = (
    Rule("bills.kept", "bills", SELECT, "retain", ground=GROUND, why="Must be kept."),
    Rule("bills.named", "bills", SELECT, "pseudonymize", ground=GROUND, why="Must be kept."),
    Rule("plays.events", "plays", SELECT, "delete"),
)
MAP = replace(
    data_map(),
    collections={"bills": CollectionEntry("bills", {"at": FieldNote("system")}, RULES)},
    recipients={"mail": "x"},
)
PLAN = sealed(Plan("eb_1", "staging", "shop", 2, {}, (), 0, (), "m", "c"))
REQUEST = Request("er_1", "staging", State.VERIFYING, "sr1_x", b"", NOW, NOW + timedelta(days=30), "web")
TALLIES = (Tally("bills.named", 5, {"er_1": 2, "er_2": 3}), Tally("plays.events", 9, {"er_2": 9}))
SEEN = Verification(
    left=(Left("bills.kept", retained=4, retained_by_request={"er_1": 1, "er_2": 3}),), residue={}, allowed={"er_1": 2, "er_2": 5},
    offenders={"er_2": 1}, collections=31, blind=(), unseen=frozenset(), held=frozenset(), holds="h",
)  # fmt: skip


def made(**changes):
    request = replace(REQUEST, **changes)
    at = NOW + timedelta(days=2)
    return certificate(
        request, State.COMPLETED_WITH_RETENTION, PLAN, MAP, TALLIES, SEEN, 17, "run 1", at, at + timedelta(days=35)
    )


def test_it_says_what_was_done_for_this_person_only():
    found = made()

    assert [(one["rule"], one["documents"]) for one in found["rules"]] == [("bills.named", 2)]
    assert {(one["rule"], one["documents"], one["form"]) for one in found["retained"]} == {
        ("bills.kept", 1, "as it is"), ("bills.named", 2, "under the subject reference"),
    }  # fmt: skip
    assert found["verification"] == {
        "traces_before": 17, "traces_after": 0, "traces_that_may_stay": 2, "collections_scanned": 31, "rules_checked": 1,
    }  # fmt: skip
    assert (found["in_time"], found["plan_digest"], found["subject_ref"]) == (True, PLAN.digest, "sr1_x")
    assert found["backups_until"] == "2026-04-07T12:00:00+00:00"
    assert any("2026-04-07" in one for one in found["not_proven"])


def test_a_late_one_says_so():
    assert made(due_at=NOW + timedelta(days=1))["in_time"] is False


@pytest.mark.parametrize("name", ["outcome", "completed_at", "rules", "verification", "subject_ref"])
def test_an_edit_shows(name):
    found = made()

    assert is_genuine(found)
    assert not is_genuine({**found, name: "edited"})


def test_retention_is_what_has_a_ground():
    assert retains("er_1", MAP, TALLIES, SEEN)
    assert not retains("er_3", MAP, TALLIES, SEEN)
    assert not retains("er_2", MAP, TALLIES[1:], replace(SEEN, left=()))


def test_the_page_says_it_to_people_and_loads_nothing():
    page = as_page(made())

    for said in ("sr1_x", "er_1", "bills", "17 traces", "besides 2 that may stay", "tax law &lt;b&gt;", "accountant"):
        assert said in page
    for word in ("http://", "https://", "<script", "src="):
        assert word not in page
