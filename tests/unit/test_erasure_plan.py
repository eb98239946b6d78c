"""A plan's digest: what it binds, what it does not, and what is refused because of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mongo_ops.erasure.model import Finding, Plan, RuleCount
from mongo_ops.erasure.plan import (
    NobodyError,
    PlanChangedError,
    PlanStoppedError,
    as_value,
    insist_on_same,
    insist_on_way,
    insist_on_whole,
    of_value,
    sealed,
)

COUNTS = (RuleCount("a.x", "delete", "leaves", 10, True), RuleCount("b.y", "anonymize", "root", 0, False))
PLAN = sealed(
    Plan("er_1", "staging", "shop", 3, {"er_9": "held"}, COUNTS, 2, (Finding("a", "look"),), "map", "closure", ("gap",))
)


@pytest.mark.parametrize(
    "edit",
    [
        {"environment": "production"}, {"database": "other"}, {"run_id": "er_2"}, {"requests": 4}, {"excluded": {}},
        {"excluded": {"er_9": "held", "er_8": "held"}}, {"map_digest": "other"}, {"closure_digest": "other"}, {"counts": COUNTS[:1]},
    ],
)  # fmt: skip
def test_what_a_digest_binds(edit):
    assert sealed(replace(PLAN, **edit)).digest != PLAN.digest
    with pytest.raises(PlanChangedError):
        insist_on_whole(replace(PLAN, **edit), "map")
    with pytest.raises(PlanChangedError):
        insist_on_same(PLAN, sealed(replace(PLAN, **edit)))


@pytest.mark.parametrize(
    "change",
    [
        {"counts": (replace(COUNTS[0], documents=11), COUNTS[1])}, {"findings": ()}, {"partial": ()}, {"objects": 5},
        {"excluded": {"er_9": "done already"}},
    ],
)  # fmt: skip
def test_what_may_change_while_a_plan_waits(change):
    now = sealed(replace(PLAN, **change))

    assert now.digest == PLAN.digest
    insist_on_same(PLAN, now)
    insist_on_whole(now, "map")


@pytest.mark.parametrize(
    ("before", "now", "refused"), [(10, 110, False), (10, 111, True), (500, 1000, False), (500, 1001, True)]
)
def test_a_plan_that_grew_far_beyond_what_was_shown_is_refused(before, now, refused):
    shown = replace(PLAN, counts=(replace(COUNTS[0], documents=before), COUNTS[1]))
    grown = replace(PLAN, counts=(replace(COUNTS[0], documents=now), COUNTS[1]))

    if not refused:
        insist_on_same(shown, grown)
        return
    with pytest.raises(PlanChangedError, match=rf"a\.x selects {now:,} documents now, {before:,} when"):
        insist_on_same(shown, grown)


def test_obstacles_are_all_named():
    stops = (Finding("a", "One.", stops=True), Finding("b", "Only said."), Finding("c", "Two.", stops=True))

    with pytest.raises(PlanStoppedError, match=r"a: One\. c: Two\.") as refused:
        insist_on_way(replace(PLAN, findings=stops))
    assert "Only said" not in str(refused.value)
    insist_on_way(PLAN)


def test_a_plan_for_nobody_says_why():
    with pytest.raises(NobodyError, match="er_9: held"):
        insist_on_way(replace(PLAN, requests=0))
    with pytest.raises(NobodyError, match="the batch is empty"):
        insist_on_way(replace(PLAN, requests=0, excluded={}))


def test_a_plan_survives_json():
    import json

    assert of_value(json.loads(json.dumps(as_value(PLAN)))) == PLAN
    assert PLAN.stage("leaves") == ("a.x",)
    assert PLAN.stage("root") == ()
