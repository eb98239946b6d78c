"""Whom an export's filter names."""

from __future__ import annotations

import pytest
from bson import ObjectId
from tests.people import keyring

from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.references import subject_reference
from mongo_ops.erasure.tags import subjects_named

KEYS, MAP = keyring(), load_map()
ANN, BOB = ObjectId(), ObjectId()
REFERENCES = {who: subject_reference(KEYS, "user_id", who) for who in (ANN, BOB)}


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ({"user_id": ANN}, {"analytics": [ANN]}),
        ({"user_id": {"$eq": ANN}, "ts": {"$gt": 1}}, {"analytics": [ANN]}),
        ({"user_id": {"$in": [ANN, BOB]}}, {"analytics": [ANN, BOB]}),
        ({"$and": [{"user_id": ANN}, {"event_type": "play"}]}, {"analytics": [ANN]}),
        ({"_id": ANN}, {"users": [ANN]}),
        ({"user_id": None}, {}),
        ({"user_id": {"$ne": ANN}}, {}),
        ({"$or": [{"user_id": ANN}, {"country": "DE"}]}, {}),
        ({"country": "DE"}, {}),
        ({}, {}),
    ],
)
def test_people_whom_a_filter_demands_are_named_by_reference(where, named):
    found = subjects_named(MAP, KEYS, ("users", "analytics", "notes"), where)

    assert found == {name: sorted(REFERENCES[who] for who in whom) for name, whom in named.items()}


def test_without_keys_nobody_is_known():
    assert subjects_named(MAP, Keyring({}), ("users",), {"_id": ANN}) == {}
