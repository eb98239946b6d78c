"""Imports wait for the secondaries and keep to their time budget; what they have done by then stays done, once."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tests.mongo.transfers import Transfers, silent

from mongo_ops import storage
from mongo_ops.errors import RunError
from mongo_ops.mongo import throttle
from mongo_ops.mongo.batches import CHECKPOINTS, BudgetSpentError
from mongo_ops.mongo.throttle import Sample
from mongo_ops.transfer import engine, pace
from mongo_ops.transfer.formats import base

ROWS, AT_ONCE = 100, 7
CHUNKS = -(-ROWS // AT_ONCE)


@pytest.fixture
def transfers(target, tmp_path, monkeypatch):
    """A file of 100 rows without keys, read in chunks of seven."""
    monkeypatch.setattr(base, "CHUNK_COUNT", AT_ONCE)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"n": i}) + "\n" for i in range(ROWS)), encoding="utf-8")
    return Transfers(target, storage.open_folder(tmp_path.as_uri()))


def limited(transfers, **limits):
    target = transfers.target
    return dataclasses.replace(target, environment=dataclasses.replace(target.environment, **limits))


def tries(transfers, plan, target):
    """Import until the budget lets it end; yield how many documents were there after each try."""
    for _ in range(2 * CHUNKS):
        try:
            engine.import_part(target, transfers.folder, plan, 0, run_id="load 1", report=silent)
        except BudgetSpentError as error:
            assert isinstance(error, RunError)
            assert str(error) == "c c.jsonl: the time budget of 1e-09 s is spent. Run again to go on from there."
            yield transfers.target.db.c.count_documents({})
        else:
            return


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_spent_budget_ends_a_try_and_each_try_gets_one_chunk_further(transfers, lanes):
    plan = transfers.plan_import("*.jsonl", lanes=lanes)

    counts = list(tries(transfers, plan, limited(transfers, budget=1e-9)))

    assert counts == [AT_ONCE * done for done in range(1, CHUNKS)]
    assert transfers.finish(plan).tally.inserted == ROWS
    assert sorted(row["n"] for row in transfers.target.db.c.find()) == list(range(ROWS))


def test_the_budget_counts_from_the_first_chunk_that_is_not_done(transfers, monkeypatch):
    plan = transfers.plan_import("*.jsonl", lanes=1)
    next(tries(transfers, plan, limited(transfers, budget=1e-9)))
    spent = []
    monkeypatch.setattr(pace.Pace, "_check", lambda self: spent.append(self._clock() - self._began))

    engine.import_part(limited(transfers, budget=1e-9), transfers.folder, plan, 0, run_id="load 1", report=silent)

    assert len(spent) == CHUNKS - 2  # without the one that was done, and the first of this try
    assert transfers.finish(plan).tally.inserted == ROWS


class Lagging:
    """A replica set whose secondary lags whenever it is asked for the third time, for three looks."""

    def __init__(self, db):
        self.db, self.looks, self.seen = db, 0, []

    def __call__(self, client):
        assert client is self.db.client
        return self

    def sample(self):
        self.looks += 1
        late = 3 <= self.looks <= 5
        if late:
            self.seen.append(sum(point["tally"]["inserted"] for point in self.db[CHECKPOINTS].find()))
        return Sample(99.0 if late else 1.0)


def test_a_lagging_secondary_is_waited_for_and_the_reason_is_told_once(transfers, monkeypatch):
    target, told = limited(transfers, max_lag=10.0), []
    probe = Lagging(target.db)
    monkeypatch.setattr(pace, "LagProbe", probe)
    monkeypatch.setattr(throttle, "WAIT_SECONDS", 0)
    plan = transfers.plan_import("*.jsonl", lanes=1)

    engine.import_part(target, transfers.folder, plan, 0, run_id="load 1", report=told.append)

    assert probe.seen == [2 * AT_ONCE] * 3
    waits = [(progress.done, progress.waiting) for progress in told if progress.waiting]
    assert waits == [(2 * AT_ONCE, "replication lag 99.0 s (limit 10.0 s)")]
    assert probe.looks == CHUNKS + 3
    assert transfers.finish(plan).tally.inserted == ROWS


def test_a_budget_ends_the_waiting_too(transfers, monkeypatch):
    class Never(Lagging):
        def sample(self):
            self.looks += 1
            return Sample(99.0 if self.looks > 1 else 0.0)

    monkeypatch.setattr(pace, "LagProbe", Never(transfers.target.db))
    monkeypatch.setattr(throttle, "WAIT_SECONDS", 0)
    plan = transfers.plan_import("*.jsonl", lanes=2)
    with pytest.raises(BudgetSpentError):
        engine.import_part(limited(transfers, budget=0.5), transfers.folder, plan, 0, run_id="load 1", report=silent)
    assert transfers.target.db.c.count_documents({}) == AT_ONCE
