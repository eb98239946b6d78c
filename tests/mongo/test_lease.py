"""The lease: one holder, on the server's clock, and a zombie changes nothing."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from pymongo import MongoClient
from tests.mongo.runner import until

from mongo_ops.errors import PlanError
from mongo_ops.mongo import lease as leases
from mongo_ops.mongo.lease import (
    LEASES,
    Holder,
    LeaseHeldError,
    LeaseLostError,
    LeaseTakenAwayError,
    acquire,
    free,
    show,
    unlock,
)


def document(db, resource="work"):
    return db[LEASES].find_one({"_id": resource})


def expire(db, resource="work"):
    """Let the lease lapse, as if its holder had not renewed it."""
    db[LEASES].update_one({"_id": resource}, [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}])


def write(db, lease, value):
    return lease.transaction(lambda session: db.log.insert_one({"_id": value}, session=session))


def test_one_holder_at_a_time_and_the_other_is_told_who(db):
    with acquire(db, "work", Holder("first", host="h1", pid=7)):
        with pytest.raises(LeaseHeldError, match=r"work is held by first \(host h1, pid 7\) since .* UTC") as caught:
            acquire(db, "work", Holder("second"))
        assert (caught.value.owner, caught.value.pid) == ("first", 7)
        assert caught.value.expires - caught.value.since == timedelta(seconds=60)
        with acquire(db, "other", Holder("second")) as other:  # another resource is free
            assert other.epoch == 1
    with acquire(db, "work", Holder("second")) as lease:
        assert lease.epoch == 2


def test_the_same_owner_takes_over_and_fences_the_former(db):
    former = acquire(db, "work", Holder("run 1"))
    write(db, former, "by the former")
    now = acquire(db, "work", Holder("run 1"))

    assert (former.epoch, now.epoch) == (1, 2)
    with pytest.raises(LeaseLostError) as caught:
        write(db, former, "by the zombie")
    assert (caught.value.resource, caught.value.epoch) == ("work", 1)
    with pytest.raises(LeaseLostError):
        former.check()
    assert former.release() is False
    write(db, now, "by the latter")
    assert db.log.distinct("_id") == ["by the former", "by the latter"]
    assert show(db, "work")["epoch"] == 2


def test_an_expired_lease_is_free_and_its_holder_can_write_no_more(db):
    zombie = acquire(db, "work", Holder("first"))
    expire(db)

    assert show(db, "work") is None
    with pytest.raises(LeaseLostError):
        write(db, zombie, "late")
    assert acquire(db, "work", Holder("second")).epoch == 2
    assert db.log.count_documents({}) == 0


def test_a_transaction_that_the_next_holder_overtakes_is_not_committed(db):
    """The zombie is asleep inside its transaction when the next run comes."""
    db.create_collection("log")
    zombie = acquire(db, "work", Holder("first"))
    tries = []

    def body(session):
        tries.append(1)
        db.log.insert_one({"_id": "late"}, session=session)
        if len(tries) == 1:
            thread = threading.Thread(target=take_over)
            thread.start()
            until(lambda: waiting(db), "the next run waits for the transaction")
            session.abort_transaction()  # what the server does to an idle transaction after its lifetime
            thread.join()
            session.start_transaction()
            leases_touched = db[LEASES].update_one(zombie._ours(), zombie._renewal(), session=session)
            assert leases_touched.matched_count == 0
            raise LeaseLostError("work", zombie.epoch)

    def take_over():
        expire(db)
        acquire(db, "work", Holder("second"))

    with pytest.raises(LeaseLostError):
        zombie.transaction(body)
    assert db.log.count_documents({}) == 0
    assert document(db)["owner"] == "second"


def waiting(db):
    """Whether another operation wants the lease's document."""
    running = db.client.admin.aggregate([{"$currentOp": {}}, {"$match": {"ns": f"{db.name}.{LEASES}", "active": True}}])
    return any(running)


def test_expiry_is_judged_by_the_servers_clock(db, monkeypatch):
    with acquire(db, "work", Holder("first")):
        monkeypatch.setattr("time.time", lambda: 4e9)  # this machine lives a hundred years ahead
        with pytest.raises(LeaseHeldError):
            acquire(db, "work", Holder("second"))


def test_the_heartbeat_keeps_a_short_lease_alive(db):
    with acquire(db, "work", Holder("first"), ttl=0.6) as lease:
        first = document(db)["expires_at"]
        until(lambda: document(db)["expires_at"] > first + timedelta(seconds=1.2), "three renewals", 20)
        lease.check()
        write(db, lease, "late but ours")
    assert document(db)["released"] is True
    assert show(db, "work") is None


def test_without_heartbeat_a_short_lease_lapses(db):
    lease = acquire(db, "work", Holder("first"), ttl=0.3)
    until(lambda: show(db, "work") is None, "the lease lapses", 10)
    with pytest.raises(LeaseLostError):
        lease.check()


def test_a_lost_lease_is_noticed_by_the_heartbeat_and_never_renewed(db):
    with acquire(db, "work", Holder("first"), ttl=0.6) as lease:
        unlock(db, "work", force=True)
        with acquire(db, "work", Holder("second")) as second:
            until(lease._lost.is_set, "the heartbeat notices", 10)
            with pytest.raises(LeaseLostError):
                lease.check()
            assert second.epoch == 3
    assert document(db)["owner"] == "second"


def test_work_that_no_transaction_guards_keeps_renewing_the_lease(db):
    lease = acquire(db, "work", Holder("first"), ttl=60)
    term = document(db)["expires_at"]
    with lease.renewing():
        until(lambda: document(db)["expires_at"] > term, "a renewal long before the heartbeat's", 10)

    term = document(db)["expires_at"]
    write(db, lease, "no renewal is under way any more")
    assert document(db)["expires_at"] >= term
    assert not [thread for thread in threading.enumerate() if thread.name == "lease work, renewing"]


def test_renewing_never_brings_a_lost_lease_back(db):
    lease = acquire(db, "work", Holder("first"))
    unlock(db, "work", force=True)
    with acquire(db, "work", Holder("second")) as second:
        term = document(db)["expires_at"]
        with lease.renewing():
            until(lease._lost.is_set, "it notices", 10)
        with pytest.raises(LeaseLostError):
            lease.check()
        assert (document(db)["expires_at"], document(db)["epoch"]) == (term, second.epoch)


def test_unlock_refuses_a_live_lease_without_force(db):
    lease = acquire(db, "work", Holder("first"))

    with pytest.raises(LeaseHeldError, match="first"):
        unlock(db, "work")
    write(db, lease, 1)
    assert unlock(db, "work", force=True)["owner"] == "first"
    with pytest.raises(LeaseLostError):
        write(db, lease, 2)
    assert unlock(db, "work") is None
    assert unlock(db, "never taken") is None
    assert db.log.distinct("_id") == [1]


def test_a_run_whose_lease_was_taken_away_gets_it_never_again(db):
    """An Airflow run's retry comes with the same owner, seconds later."""
    acquire(db, "work", Holder("run 1"))
    unlock(db, "work", force=True)

    with pytest.raises(
        LeaseTakenAwayError, match=r"taken away by `mongo-ops unlock` .*run 1.*; start a new run"
    ) as caught:
        acquire(db, "work", Holder("run 1", host="another", pid=8), wait=5)
    assert isinstance(caught.value, PlanError)
    assert (caught.value.resource, caught.value.owner) == ("work", "run 1")

    acquire(db, "other", Holder("run 1"))  # another resource is another matter
    acquire(db, "work", Holder("run 2"))
    with pytest.raises(LeaseTakenAwayError):  # also while somebody else holds it
        acquire(db, "work", Holder("run 1"))
    unlock(db, "work", force=True)
    assert document(db)["evicted"] == ["run 1", "run 2"]
    for evicted in ("run 1", "run 2"):
        with pytest.raises(LeaseTakenAwayError):
            acquire(db, "work", Holder(evicted))
    assert acquire(db, "work", Holder("run 3")).epoch == 5


def test_free_gives_up_only_what_is_the_owners(db):
    acquire(db, "work", Holder("first"))

    assert free(db, "work", "second") is False
    assert free(db, "work", "first") is True
    assert free(db, "work", "first") is False
    assert acquire(db, "work", Holder("second")).epoch == 3


def test_an_exception_releases_the_lease(db):
    with pytest.raises(ZeroDivisionError), acquire(db, "work", Holder("first")):
        raise ZeroDivisionError
    assert show(db, "work") is None
    with acquire(db, "work", Holder("second")) as lease:
        assert lease.epoch == 2


def test_an_error_of_the_work_is_not_hidden_by_a_release_that_fails(db, replica_set, monkeypatch):
    with MongoClient(replica_set.uri) as client, pytest.raises(ZeroDivisionError):
        with acquire(client[db.name], "work", Holder("first")) as lease:
            monkeypatch.setattr(lease, "release", lambda: client["\0"])
            monkeypatch.setattr(leases, "RELEASE_SECONDS", 1.0)
            raise ZeroDivisionError


@pytest.mark.parametrize("attempt", range(3))
def test_of_eight_at_once_exactly_one_gets_it(db, attempt):
    start, won, lost = threading.Barrier(8), [], []

    def compete(number):
        start.wait()
        try:
            won.append(acquire(db, "work", Holder(f"run {number}")))
        except LeaseHeldError as error:
            lost.append(error.owner)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert lost == [won[0].holder.owner] * 7
    assert (won[0].epoch, document(db)["epoch"]) == (1, 1)


def test_waiting_gets_the_lease_when_it_is_given_up(db):
    holder = acquire(db, "work", Holder("first"))
    got = []
    thread = threading.Thread(target=lambda: got.append(acquire(db, "work", Holder("second"), wait=20)))
    thread.start()
    holder.release()
    thread.join(20)
    assert [lease.epoch for lease in got] == [2]


def test_a_lease_that_had_to_wait_for_a_dead_runs_transaction_is_not_born_expired(db):
    """kill -9 leaves a transaction open on the server until its lifetime ends; the next run waits for it."""
    dead = acquire(db, "work", Holder("run 1"))
    got = []
    with db.client.start_session() as session:
        session.start_transaction()
        db[LEASES].update_one(dead._ours(), dead._renewal(), session=session)
        thread = threading.Thread(target=lambda: got.append(acquire(db, "work", Holder("run 1"), ttl=0.5)))
        thread.start()
        until(lambda: waiting(db), "the retry waits")
        began = db.client.admin.command("hello")["localTime"]
        until(lambda: db.client.admin.command("hello")["localTime"] > began + timedelta(seconds=0.6), "its term passes")
        session.abort_transaction()
    thread.join(20)

    [lease] = got
    lease.check()
    write(db, lease, "alive")
    assert lease.epoch == 2
