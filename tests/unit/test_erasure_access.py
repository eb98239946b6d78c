"""Which parts of somebody else's document an export shows."""

from __future__ import annotations

import pytest
from bson import ObjectId

from mongo_ops.erasure.portions import differences

A, B, C = (ObjectId(digit * 24) for digit in "abc")
REF = "sr1_" + "a" * 26


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, None),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": None}}, {"a": {"y": 2}}),
        ({"list": [A, B, C]}, {"list": [A, C]}, {"list": [B]}),
        ({"list": [A, A, B]}, {"list": [A, B]}, {"list": [A]}),
        ({"list": [{"n": "x", "u": A}, {"n": "y", "u": B}]}, {"list": [{"n": "x", "u": A}, {"n": "y"}]}, {"list": [{"u": B}]}),
        ({"likes": {"a": 1, "b": 2}}, {"likes": {"a": 1}}, {"likes": {"b": 2}}),
        ({"gone": None, "x": 1}, {"x": 1}, {"gone": None}),
        ({"n": 1}, {"n": True}, {"n": 1}),
        ({"t": "mail a@x.org now"}, {"t": f"mail {REF} now"}, {"t": "a@x.org"}),
        ({"t": "a@x.org and b@x.org and A@X.org"}, {"t": f"{REF} and b@x.org and {REF}"}, {"t": "a@x.org … A@X.org"}),
        ({"t": "a@x.org"}, {"t": REF}, {"t": "a@x.org"}),
        ({"t": "Bob Ray, Ann Lee"}, {"t": "Bob Ray, Former artist"}, {"t": "Ann Lee"}),
        ({"t": "Ann, Ann"}, {"t": ""}, {"t": "Ann, Ann"}),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_an_erasure_would_take_is_shown(before, after, shown):
    assert differences(before, after) == shown
