"""Where a key of an object leads to: below the folder, or nowhere."""

from __future__ import annotations

import pytest

from mongo_ops.erasure.assets import place_of
from mongo_ops.storage import open_folder


@pytest.mark.parametrize(
    "key",
    ["../x.png", "a/../../x.png", "/etc/passwd", "a//b", "a/", "a/./b", "..", "", "a\\..\\b", "a\0b", None, 7, b"a"],
)
@pytest.mark.parametrize("uri", ["file:///srv/assets", "memory://assets/below"])
def test_a_key_that_leads_out_or_is_none_is_not_followed(key, uri):
    assert place_of(open_folder(uri), key) is None


@pytest.mark.parametrize(
    "key", ["a.png", "users/65f0/portrait 1.png", "a/b/c..d/...e", "%2e%2e/x", "~root/x", "ümlaut.png"]
)
def test_any_other_key_is_below_the_folder(key, tmp_path):
    place = place_of(open_folder(tmp_path.as_uri()), key)

    assert place is not None
    assert place.path == str(tmp_path / key)


def test_a_link_that_leads_out_is_not_followed(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "out").symlink_to(tmp_path)
    (tmp_path / "assets" / "in").symlink_to(tmp_path / "assets")

    assert place_of(open_folder((tmp_path / "assets").as_uri()), "out/x.png") is None
    assert place_of(open_folder((tmp_path / "assets").as_uri()), "in/x.png") is not None
