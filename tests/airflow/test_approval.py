"""Protected environments through the real scheduler: proved elsewhere first, approved by a second person, and what was approved."""

from __future__ import annotations

import pytest
from demo.api import ApiError

from mongo_ops import audit

pytestmark = pytest.mark.usefixtures("staging")


def test_the_gate_refuses_what_the_environment_before_has_not_applied(scheduler):
    ended = scheduler.migrate("untested")

    assert (ended.state, ended.states["gate"], ended.tasks["gate"]["try_number"]) == ("failed", "failed", 1)
    told = scheduler.log(ended.run, "gate")
    assert "001_create_core_collections, 002_create_core_indexes" in told
    assert "is not applied with this checksum on unproven, which untested promotes from" in told
    assert nothing_done(scheduler, "untested")


@pytest.mark.chaos
def test_a_break_glass_reason_passes_the_gate_and_is_audited_where_it_takes_effect(scheduler):
    run = scheduler.trigger("urgent", break_glass_reason="the login page is down", target_version="001")
    scheduler.until_asked(run)
    assert nothing_done(scheduler, "urgent")
    assert scheduler.db("urgent").audit_log.count_documents({}) == 0

    answer(scheduler, run, "Approve")

    ended = scheduler.end(run)
    assert (ended.states["gate"], ended.state) == ("success", "success")
    broken = scheduler.db("urgent").audit_log.find_one({"action": "gate.broken"})
    assert (broken["result"], broken["run_id"]) == ("allowed", f"mongo_migrate {run.run_id}")
    assert broken["details"]["break_glass"] == "the login page is down"
    assert broken["details"]["migrations"] == scheduler.applied("urgent") == scheduler.files()[:1]
    assert audit.verify(scheduler.db("urgent")).ok


def test_a_plan_approved_by_a_second_person_is_carried_out_and_audited(scheduler):
    run = scheduler.trigger("production")
    scheduler.until_asked(run)
    digest = scheduler.api.xcom(run, "plan")["digest"]
    question = scheduler.api.approvals(run)[0]
    assert (question["subject"], digest in question["body"]) == ("Approve this plan for production?", True)
    assert nothing_done(scheduler, "production")

    answer(scheduler, run, "Approve")

    ended = scheduler.end(run)
    assert (ended.state, scheduler.applied("production")) == ("success", scheduler.files("production"))
    entries = answers(scheduler, "production")
    assert [(e["result"], e["entity_id"], e["run_id"]) for e in entries] == [
        ("approved", digest, f"mongo_migrate {run.run_id}")
    ]
    assert entries[0]["personal"]["actor"]["value"] == "olivia"
    assert scheduler.api.xcom(run, "approve") == {"needed": True, "digest": digest}
    assert audit.verify(scheduler.db("production")).ok


def test_who_triggered_the_run_cannot_approve_it(scheduler):
    run = scheduler.trigger("rejected")
    scheduler.until_asked(run)

    answer(scheduler, run, "Approve", user="admin")

    ended = scheduler.end(run)
    assert (ended.state, ended.states["approve"], ended.tasks["approve"]["try_number"]) == ("failed", "failed", 1)
    assert "approved by the one who triggered the run, which does not count" in scheduler.log(run, "approve")
    assert [e["result"] for e in answers(scheduler, "rejected")[-1:]] == ["refused"]
    assert nothing_done(scheduler, "rejected")


@pytest.mark.chaos
def test_a_rejected_plan_is_not_carried_out(scheduler):
    run = scheduler.trigger("rejected")
    scheduler.until_asked(run)

    answer(scheduler, run, "Reject")

    ended = scheduler.end(run)
    assert (ended.state, ended.states["approve"], ended.states["lease"]) == ("failed", "failed", "upstream_failed")
    assert "The plan was refused: it was rejected." in scheduler.log(run, "approve")
    assert [e["result"] for e in answers(scheduler, "rejected")[-1:]] == ["refused"]
    assert nothing_done(scheduler, "rejected")


@pytest.mark.chaos
def test_no_answer_in_time_means_refused(scheduler):
    ended = scheduler.migrate("impatient")

    assert (ended.state, ended.states["approve"]) == ("failed", "failed")
    assert "The plan was refused: nobody approved it in time." in scheduler.log(ended.run, "approve")
    assert [(e["result"], e["personal"]["actor"]["value"]) for e in answers(scheduler, "impatient")] == [
        ("refused", "nobody")
    ]
    assert nothing_done(scheduler, "impatient")


@pytest.mark.chaos
def test_a_file_edited_after_the_approval_is_not_carried_out(scheduler):
    file = scheduler.include / "migrations" / "008_count_plays.py"
    text = file.read_text()
    run = scheduler.trigger("edited")
    scheduler.until_asked(run)
    file.write_text(text.replace('{"n": 1}', '{"n": 2}'))
    try:
        answer(scheduler, run, "Approve")
        ended = scheduler.end(run)
    finally:
        file.write_text(text)

    assert (ended.state, ended.states["approve"], ended.states["lease"]) == ("failed", "success", "failed")
    assert ended.tasks["lease"]["try_number"] == 1
    assert "The plan changed since it was made or approved" in scheduler.log(run, "lease")
    assert nothing_done(scheduler, "edited")
    assert scheduler.cli("unlock", "edited").stdout == "Nobody holds the lease.\n"


@pytest.mark.chaos
def test_marking_the_approval_as_successful_approves_nothing(scheduler):
    run = scheduler.trigger("forced")
    scheduler.until_asked(run)

    scheduler.set_state(run, "approve", "success")

    ended = scheduler.end(run)
    assert (ended.state, ended.states["lease"]) == ("failed", "failed")
    assert "its audit log holds no approval of this plan" in scheduler.log(run, "lease")
    assert nothing_done(scheduler, "forced")


@pytest.mark.chaos
def test_a_migration_marked_as_successful_is_missed_by_the_verification(scheduler):
    run = scheduler.trigger("chosen")
    scheduler.until_asked(run)
    with pytest.raises(ApiError) as refused:
        answer(scheduler, run, "Approve", user="admin")
    last = "007_normalise_artist_genres"

    scheduler.set_state(run, last, "success")
    answer(scheduler, run, "Approve")

    ended = scheduler.end(run)
    assert refused.value.status == 403, "admin is an approver, but triggered this run"
    assert (ended.state, ended.states["verify"], ended.states[last]) == ("failed", "failed", "success")
    assert f"{last} is in the plan and was not carried out" in scheduler.log(run, "verify")
    assert scheduler.applied("chosen") == scheduler.files("chosen")[:-1]


@pytest.mark.chaos
def test_a_run_of_the_only_approver_fails_before_it_asks(scheduler):
    ended = scheduler.migrate("appointed")

    assert (ended.state, ended.states["approve"]) == ("failed", "failed")
    assert "No approver of appointed is left besides the one who triggered the run" in scheduler.log(
        ended.run, "approve"
    )
    assert nothing_done(scheduler, "appointed")


def answer(scheduler, run, option, user="olivia"):
    """Answer the question as this user."""
    scheduler.stack.api_as(user).answer(run, "approve", option)


def answers(scheduler, environment):
    """Return the audit log's answers, in order."""
    return list(scheduler.db(environment).audit_log.find({"action": "plan.approval"}).sort("chain.seq"))


def nothing_done(scheduler, environment):
    """Tell whether no migration has written anything."""
    db = scheduler.db(environment)
    there = {name for name in db.list_collection_names() if not name.startswith("ops_")}
    return there <= {"audit_log"} and db.ops_migrations.count_documents({}) == db.ops_history.count_documents({}) == 0
