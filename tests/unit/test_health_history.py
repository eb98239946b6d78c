"""New, worse, the same, fixed, muted; thresholds from YAML; the report in its forms. No database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from mongo_ops.health import page, report
from mongo_ops.health.checks import CHECKS
from mongo_ops.health.model import Earlier, Finding, Judged, Mute, Result, Run, Status, Transition
from mongo_ops.health.thresholds import HealthFileError, Thresholds, load_thresholds
from mongo_ops.health.verdict import UNABLE, judge

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE = NOW - timedelta(days=1)
WARN, CRIT, UNKNOWN = Status.WARN, Status.CRIT, Status.UNKNOWN


def result(status, *findings, check="cache", **rest):
    return Result(check, status, tuple(Finding(one, "A sentence.", scope) for scope, one in findings), **rest)


def judged(one, earlier=None, mutes=()):
    made = judge([one], {"cache": earlier or Earlier()}, mutes, NOW)
    return {each.finding.scope: (str(each.transition), each.muted) for each in made}


@pytest.mark.parametrize(
    ("before", "now", "transition"),
    [(None, WARN, "NEW"), (WARN, WARN, "SAME"), (WARN, CRIT, "WORSE"), (CRIT, WARN, "SAME")],
)
def test_a_finding_is_compared_with_the_last_run(before, now, transition):
    earlier = Earlier({"used": (before, BEFORE)} if before else {})

    assert judged(result(now, ("used", now)), earlier) == {"used": (transition, None)}


def test_what_is_gone_is_fixed_but_not_when_nobody_could_look():
    earlier = Earlier({"used": (CRIT, BEFORE)})

    assert judged(result(Status.OK), earlier) == {"used": ("FIXED", None)}
    assert judged(result(UNKNOWN, reason="It could not look."), earlier) == {UNABLE: ("NEW", None)}
    assert judged(result(Status.SKIPPED, off=True), earlier) == {}
    assert judged(result(Status.SKIPPED), earlier) == {"used": ("FIXED", None)}
    assert judged(result(UNKNOWN), Earlier({}, BEFORE)) == {UNABLE: ("SAME", None)}
    after = Earlier({"used": (CRIT, BEFORE)}, BEFORE)
    assert judged(result(CRIT, ("used", CRIT)), after) == {"used": ("SAME", None), UNABLE: ("FIXED", None)}


def test_a_mute_has_a_scope_and_an_end():
    def mute(until, scope="us*"):
        return Mute("cache", scope, "Grace", until, "known")

    one = result(WARN, ("used", WARN))
    assert judged(one, mutes=[mute(date(2026, 3, 1))]) == {"used": ("NEW", "Grace")}
    assert judged(one, mutes=[mute(date(2026, 2, 28))]) == {"used": ("NEW", None)}
    assert judged(one, mutes=[mute(date(2026, 3, 1), "dirty")]) == {"used": ("NEW", None)}


def test_the_shipped_file_says_what_the_checks_say_themselves():
    shipped = load_thresholds()

    assert {check.id: shipped.of(check) for check in CHECKS} == {check.id: check.limits for check in CHECKS}
    assert shipped.mutes == ()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("checks: {strange: {warn: 1}}", "strange"), ("checks: {cache: {wran: 1}}", "wran"), ("checks: [", "YAML"),
        ("mutes: [{check: cache, until: 2026-01-01, reason: known}]", "owner"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_name(tmp_path, text, word):
    (tmp_path / "health.yaml").write_text(text)

    with pytest.raises(HealthFileError, match=word):
        load_thresholds(tmp_path)


def test_a_file_overrides_a_threshold_and_keeps_the_others(tmp_path):
    (tmp_path / "health.yaml").write_text("checks: {cache: {warn: 0.5}, tickets: {enabled: false}}")
    found = load_thresholds(tmp_path)
    limits = {check.id: found.of(check) for check in CHECKS}

    assert (limits["cache"].warn, limits["cache"].crit, limits["cache"].option("dirty_warn")) == (0.5, 0.96, 0.15)
    assert not limits["tickets"].enabled
    assert load_thresholds(tmp_path / "nowhere") == Thresholds()


def run(status=CRIT, transition=Transition.NEW):
    hostile = Finding(
        status,
        "The collection <script>alert(1)</script> is | changed.",
        "users",
        3.0,
        "documents",
        ("1", "2"),
        ("- a: 1", "+ a: 2"),
    )
    other = Result("cache", Status.OK, (Finding(Status.OK, "5% of the cache is used.", "used", 5.0, "%"),))
    results = (Result("schema_drift", status, (hostile,)), other)
    return Run(
        "run 1",
        "staging",
        "m",
        NOW,
        results,
        (Judged("schema_drift", hostile, transition, None, BEFORE),),
        7,
        0.5,
        ("A note.",),
    )


def test_a_run_survives_its_json():
    made = run()

    assert report.run_of(json.loads(json.dumps(report.as_value(made)))) == made
    assert (made.status, len(made.changes)) == (CRIT, 1)
    assert run(transition=Transition.SAME).changes == ()


def test_the_summary_and_the_text_say_what_and_what_to_do():
    assert "is \\| changed" in report.as_markdown(run())
    assert "1. Schema drift: Find out who changed it" in report.as_markdown(run())
    assert "CRIT     NEW    schema_drift" in report.as_text(run())
    assert "+ a: 2" in report.as_text(run())


def test_the_page_is_one_file_that_loads_nothing_and_escapes_what_it_shows():
    days = [NOW - timedelta(days=70 - day) for day in range(70)]
    summaries = [{"run": str(at), "at": at, "check": "cache", "status": "WARN"} for at in days]
    numbers = [{"run": str(at), "at": at, "check": "cache", "scope": "used", "value": 50.0, "unit": "%"} for at in days]

    text = page.as_page(run(), report.Rows(summaries, numbers), Thresholds())

    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not any(word in text for word in ("http://localhost", "https://", "src=", "<link", "@import"))
    assert text.count("<svg") == 1
    assert "var(--line)" in text
    assert text.count('class="WARN" role="img"') == 59  # of 60 runs the newest is this one
    assert '<span class="minus">- a: 1</span>' in text


def test_bands_are_in_the_unit_of_the_values():
    thresholds = Thresholds()

    assert page.bands("cache", "used", thresholds).warn == pytest.approx(90)
    assert page.bands("cache", "dirty", thresholds).crit == pytest.approx(20)
    assert page.bands("disk_used", "days to full", thresholds).crit == pytest.approx(7)
    assert page.bands("replication_lag", "b", thresholds).warn == 10
