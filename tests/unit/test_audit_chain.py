"""Sealing and walking without a database."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import pytest
from bson import ObjectId

from mongo_ops.audit import AuditEntry, Verification
from mongo_ops.audit.chain import GENESIS, altered_values, commit, entry_hash, erased_values, seal
from mongo_ops.audit.model import Fault, Head
from mongo_ops.audit.walk import MAX_FAULTS, Walk

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENTRY = AuditEntry(
    action="a",
    entity_type="t",
    environment="e",
    result="r",
    actor="Ada",
    details={"b": 1, "a": 2},
    personal={"mail": "x@y"},
)
SALTS = {"actor": b"1" * 32, "mail": b"2" * 32}


def sealed(n=1, previous=GENESIS):
    return seal(ENTRY, ObjectId(f"{n:024x}"), previous, AT, SALTS)


def chain(count):
    head = GENESIS
    for n in range(1, count + 1):
        document = sealed(n, head)
        head = Head(n, document["chain"]["hash"])
        yield document


def test_the_scheme_does_not_change_under_the_feet_of_stored_logs():
    assert commit(b"0" * 32, "Ada") == "d86295165fe9bad67221a2732dbc9d0e4ebc6710b59760136c695cc4284b98f7"
    assert sealed()["chain"]["hash"] == "b8acdc6d05916274cdc9632b4b1ae755b565634ccef39202c2ed049139c42109"


def test_the_hash_ignores_the_order_of_fields_and_the_personal_values():
    document = sealed()
    shuffled = {name: document[name] for name in reversed(document)} | {"personal": {}}
    assert entry_hash(shuffled) == document["chain"]["hash"]


@pytest.mark.parametrize("name", sorted(sealed().keys() - {"personal"}))
def test_the_hash_covers_every_other_field(name):
    document = sealed()
    assert entry_hash({**document, name: "other"}) != document["chain"]["hash"]
    assert entry_hash({key: value for key, value in document.items() if key != name}) != document["chain"]["hash"]


def test_no_personal_value_is_found_outside_of_personal():
    document = sealed()
    del document["personal"]
    assert "Ada" not in str(document)
    assert "x@y" not in str(document)


def test_the_same_value_commits_differently_each_time():
    assert commit(b"1" * 32, "Ada") != commit(b"2" * 32, "Ada")


def test_values_of_different_types_commit_differently():
    assert len({commit(b"1" * 32, value) for value in (1, 1.0, "1", True, None, [1])}) == 6


def test_erased_values_are_counted_and_no_fault():
    document = sealed()
    del document["personal"]["mail"]
    assert erased_values(document) == 1
    assert altered_values(document) == ()
    del document["personal"]
    assert erased_values(document) == 2
    assert altered_values(document) == ()


@pytest.mark.parametrize(
    "opened",
    [None, "x@y", {}, {"value": "x@y"}, {"salt": "2" * 32, "value": "x@y"}, {"salt": b"2" * 32, "value": "x@z"}],
)
def test_a_value_that_does_not_open_its_commitment_is_altered(opened):
    document = sealed()
    document["personal"]["mail"] = opened
    assert altered_values(document) == ("mail",)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"action": ""}, ValueError),
        ({"result": None}, ValueError),
        ({"entity_id": 1.5}, TypeError),
        ({"entity_id": True}, TypeError),
        ({"entity_id": 2**31}, ValueError),
        ({"personal": {"actor": "x"}}, ValueError),
        ({"personal": {"a.b": "x"}}, ValueError),
        ({"personal": {"$a": "x"}}, ValueError),
        ({"personal": {"": "x"}}, ValueError),
    ],
)
def test_an_entry_that_could_not_be_stored_or_erased_is_refused(changes, error):
    with pytest.raises(error, match="AuditEntry"):
        AuditEntry(**{"action": "a", "entity_type": "t", "environment": "e", "result": "r", **changes})


def test_a_long_walk_stays_small():
    tracemalloc.start()
    walk = Walk(None)
    for n, document in enumerate(chain(3000)):
        if n == 100:
            first = tracemalloc.get_traced_memory()[0]
        walk.step(document | {"result": "edited"})
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()

    faults = walk.finish(walk.last)

    assert len(faults) == MAX_FAULTS
    assert walk.more_faults == 3000 - MAX_FAULTS
    assert grown < 1_000_000


def test_a_whole_chain_has_no_faults():
    walk = Walk(None)
    for document in chain(10):
        walk.step(document)
    assert walk.finish(walk.last) == ()
    assert (walk.entries, walk.last.seq) == (10, 10)


def test_a_verification_reads_as_one_sentence():
    fault = Fault("deleted", 3, "Entry 3 is missing.")
    text = str(Verification(1200, 0, 2, (fault,), 1201, "0" * 64, 4))
    assert text == (
        "The audit chain has 5 faults (1,200 chained entries, 2 personal values erased): Entry 3 is missing."
    )
