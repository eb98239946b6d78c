"""The engine with one of its safeguards taken out: the writers' ledger must see the loss, or it proves nothing about the whole engine.

Each mutant is what somebody might write who has not thought of writers. The engine's own verification sees the first two as well.
"""

from __future__ import annotations

import pytest
from tests.mongo.online_course import GHOST, LONG, NAME, Course, with_longs

from mongo_ops.mongo.batches import Counts
from mongo_ops.online import fence, replay, starting, steps
from mongo_ops.online.errors import DifferencesError
from mongo_ops.online.model import Phase


class KilledError(BaseException):
    """Stands for kill -9: nothing of the engine's runs after it."""


@pytest.fixture
def at(replica_set, target, tmp_path):
    words = LONG | {"limits": "Limits(chunk=100, nice=0.0)"}
    return Course(target, replica_set.uri, tmp_path, words, documents=600, pause=0.001, forget=("seconds",))


def advanced(at, budget):
    """One slice, which may be killed."""
    try:
        at.engine().advance(budget=budget)
    except KilledError:
        at.killed += 1


def run_beside_writers(at):
    """Start, let them write at every chunk; then let them rest and replay what is left."""
    with at.crowd.writing() as crowd:
        at.engine().start()
        while at.phase is Phase.BACKFILL:
            crowd.await_writes(20)
            advanced(at, 0.02)
        crowd.await_writes(50)
    while at.phase is Phase.CATCH_UP:
        advanced(at, 0.2)


def seen_by_the_ledger(at):
    """With the writers at rest, what does the ghost lack?"""
    return at.losses(with_longs, GHOST)


def refused_by_the_verification(at):
    with pytest.raises(DifferencesError):
        at.project.to_phase(at.engine(), Phase.READY)


def test_the_engine_itself_loses_nothing(at):
    run_beside_writers(at)
    assert not seen_by_the_ledger(at)


def test_the_place_saved_before_the_changes_are_applied_loses_writes(at, monkeypatch):
    real = replay.commit_batch

    def save_first(work, writer, keys, save):
        if keys and at.killed < 3:
            work.lease.transaction(lambda session: save(session, Counts()))
            raise KilledError
        return real(work, writer, keys, save)

    monkeypatch.setattr(replay, "commit_batch", save_first)

    run_beside_writers(at)

    assert at.killed == 3
    assert seen_by_the_ledger(at)
    refused_by_the_verification(at)


def test_a_stream_opened_after_the_backfill_loses_writes(at, monkeypatch):
    real, opened = replay.catch_up, []

    def only_now(work, pace, budget):
        if work.phase is Phase.BACKFILL:
            return 0, True, None
        if not opened:
            opened.append(dict(starting.open_stream_first(work)))
            work.commit(token=opened[0])
        return real(work, pace, budget)

    monkeypatch.setattr(replay, "catch_up", only_now)

    run_beside_writers(at)

    assert len(opened) == 1
    assert seen_by_the_ledger(at)
    refused_by_the_verification(at)


def test_a_swap_without_a_fence_loses_writes(at, monkeypatch):
    def late(name):
        if name == "cut_over.verified":  # the moment between the last comparison and the swap, made long
            at.crowd.held.clear()
            at.crowd.await_writes(30)

    monkeypatch.setattr(fence, "close", lambda work, kind: None)
    monkeypatch.setattr(steps, "reached", late)
    with at.crowd.writing() as crowd:
        engine = at.project.to_ready(NAME)
        with crowd.at_rest():
            at.cut_over(engine)
        crowd.await_writes(30)

    losses = at.losses(with_longs)

    assert len(losses) >= 10, str(losses)
