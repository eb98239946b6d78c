"""Online migrations through the real scheduler: writers go on, people decide, a killed slice goes on where it stopped."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from demo import processes
from pymongo import WriteConcern

DAG = "mongo_online_migration"
PLAYS = 20_000
WORDS = 3_000


class Writer:
    """Somebody who inserts, updates and deletes the whole time in the old form, and remembers what was acknowledged."""

    def __init__(self, collection, make):
        self.collection = collection.with_options(write_concern=WriteConcern("majority"))
        self.make = make
        self.there, self.gone = {}, set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _write(self):
        n = 1_000_000
        while not self._stop.wait(0.002):
            n += 1
            try:
                self._once(n)
            except Exception:  # noqa: BLE001 - refused during the cut-over: not acknowledged, not remembered
                continue

    def _once(self, n):
        document = {"_id": n, **self.make(n)}
        self.collection.insert_one(document)
        self.there[n] = document
        if n % 3 == 0:
            fields = self.make(n + 7)
            if self.collection.update_one({"_id": n - 1}, {"$set": fields}).matched_count:
                self.there[n - 1] = {"_id": n - 1, **fields}
        if n % 5 == 0 and self.collection.delete_one({"_id": n - 2}).deleted_count:
            del self.there[n - 2]
            self.gone.add(n - 2)


def trigger(scheduler, environment, name, action="start", **conf):
    return scheduler.trigger(environment, DAG, name=name, action=action, **conf)


def answer(scheduler, run, task, choice="Approve"):
    scheduler.until_asked(run, task)
    scheduler.api.answer(run, task, choice)


def lost(writer, expected):
    """Compare what was acknowledged with what is there, in the form that it should have."""
    found = {one["_id"]: one for one in writer.collection.find({"_id": {"$gte": 1_000_000}})}
    wrong = [key for key, document in writer.there.items() if found.get(key) != expected(document)]
    return wrong, [key for key in writer.gone if key in found]


@pytest.fixture(scope="module")
def flowing(scheduler):
    db = scheduler.db("flowing")
    db.plays.insert_many([{"_id": n, "ms": 1000 * (n % 300)} for n in range(PLAYS)])
    return db


@pytest.mark.chaos
def test_in_place_beside_old_writers_and_a_kill(scheduler, flowing):
    with Writer(flowing.plays, lambda n: {"ms": 500 * (n % 100)}) as writer:
        run = trigger(scheduler, "flowing", "901_seconds", parts=2)
        scheduler.until(
            lambda: flowing.plays.count_documents({"seconds": {"$exists": True}}) > PLAYS // 10, "the backfill"
        )
        lease = flowing.ops_leases.find_one({"_id": {"$regex": "^online:plays#"}}, sort=[("renewed_at", -1)])
        os.kill(lease["pid"], signal.SIGKILL)
        assert processes.wait_for(lambda: processes.look_up(lease["pid"]) is None, 20)
        scheduler.until_asked(run, "approve_verified")
    assert flowing.plays.count_documents({"ms": {"$exists": False}}) == 0, "nothing goes before a person has said so"

    answer(scheduler, run, "approve_verified")

    ended = scheduler.end(run)
    assert (ended.state, ended.states["contract"], ended.states["cut_over"]) == ("success", "success", "skipped")
    assert scheduler.api.xcom(run, "report")["phase"] == "done"
    assert lost(writer, lambda one: {"_id": one["_id"], "seconds": one["ms"] / 1000}) == ([], [])
    assert flowing.plays.count_documents({"ms": {"$exists": True}}) == 0
    assert flowing.plays.count_documents({"_id": {"$lt": PLAYS}, "seconds": {"$type": "double"}}) == PLAYS


def test_a_ghost_is_cut_over_and_rolled_back_without_a_lost_write(scheduler):
    db = scheduler.db("swapped")
    db.words.insert_many([{"_id": n, "word": f"Wort {n}"} for n in range(WORDS)])
    with Writer(db.words, lambda n: {"word": f"word {n}"}) as writer:
        run = trigger(scheduler, "swapped", "902_words")
        answer(scheduler, run, "approve_verified")
        scheduler.until(lambda: collation(db) == "de", "the cut-over")
        scheduler.until(lambda: scheduler.api.task(run, "cut_over")["state"] == "success", "the end of the cut-over")
        before = len(writer.there)
        scheduler.until(lambda: len(writer.there) > before + 50, "writes into the new collection")

        back = scheduler.end(trigger(scheduler, "swapped", "902_words", "rollback", reason="the order was wrong"))

    assert (back.state, back.states["steer"], back.states["expand"]) == ("success", "success", "skipped")
    assert scheduler.api.xcom(run, "cut_over")["refused_ms"] > 0
    ended = scheduler.end(run)
    assert (ended.state, ended.states["contract"]) == ("success", "skipped")
    assert scheduler.api.xcom(run, "report")["phase"] == "rolled_back"
    assert collation(db) is None
    assert lost(writer, lambda one: one) == ([], [])
    assert db.words.count_documents({"size": {"$exists": True}, "_id": {"$lt": WORDS}}) == 0
    assert db.words.count_documents({"_id": {"$lt": WORDS}}) == WORDS


def collation(db):
    """Return the locale of the collection that bears the name now."""
    (listed,) = list(db.list_collections(filter={"name": "words"})) or [{}]
    return listed.get("options", {}).get("collation", {}).get("locale")
