"""Byte patterns in a buffer: every one that stands for itself, none that is a part of somebody else's."""

from __future__ import annotations

import random

import pytest
from bson import ObjectId

from mongo_ops.erasure.needles import WINDOW, Needles


def starts(buffer, *patterns):
    return [(one.start, one.pattern) for one in Needles(patterns).find(buffer)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ann@x.org", True),
        ("ANN@X.ORG", True),
        ("<ann@x.org>", True),
        ("mailto:ann@x.org?x", True),
        ("ann@x.org.", True),
        ("ann@x.org, bob", True),
        ("请联系ann@x.org谢谢", True),
        ("joann@x.org", False),
        ("jo.ann@x.org", False),
        ("jo+ann@x.org", False),
        ("joéann@x.org", False),
        ("ann@x.org.uk", False),
        ("ann@x.organic", False),
        ("ann@x.org-y.net", False),
    ],
)
def test_an_address_stands_for_itself(text, found):
    assert bool(starts(text.encode(), b"ann@x.org")) is found


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("+49 170 1234567", "call +49 170 1234567 now", True),
        ("+49 170 1234567", "+49 170 12345678", False),
        ("491701234567", "x491701234567", False),
        ("zoë quinn", "chloë zoë quinn", True),
        ("zoë quinn", "zoë quinné", False),
        ("6b0a41c30000000000004101", "u6b0a41c30000000000004101z", True),  # an id is never by chance a part of a word
        ("a" * 32, "00" + "a" * 32 + "ff", True),
    ],
)
def test_words_and_ids(pattern, text, found):
    assert bool(starts(text.encode(), pattern.encode())) is found


def test_an_id_in_binary_is_found_wherever_it_is_and_as_it_is():
    key = ObjectId("6b0a41c3ffeeddccbbaa4141")
    (found,) = Needles([key.binary.lower()]).find(b"\x07_id\x00" + key.binary + b"\x00")

    assert (found.start, found.exact) == (5, key.binary)
    assert key.binary != key.binary.lower()  # the caller tells twins apart by the exact bytes


def test_it_finds_what_a_plain_search_finds():
    dice = random.Random(7)
    letters = b"abcdef \x00\x01\xff"
    for _ in range(40):
        buffer = bytes(dice.choices(letters, k=dice.randrange(400)))
        cut = [dice.randrange(max(1, len(buffer) - 12)) for _ in range(6)]
        patterns = {b"\x00" + buffer[at : at + dice.randrange(WINDOW, 14)] for at in cut}
        patterns = {one for one in patterns if len(one) >= WINDOW}

        expected = sorted((at, one) for one in patterns for at in range(len(buffer)) if buffer.startswith(one, at))
        assert starts(buffer, *patterns) == expected


def test_nothing_to_look_for_and_nothing_to_look_in():
    assert Needles([]).find(b"anything") == []
    assert starts(b"", b"ann@x.org") == []
    assert starts(b"short", b"ann@x.org") == []


@pytest.mark.parametrize("pattern", [b"1234567", b"ANN@X.ORG"])
def test_patterns_that_cannot_be_found_are_refused(pattern):
    with pytest.raises(ValueError, match="lower case and at least 8"):
        Needles([pattern])
