"""The project's own environments name what erasure and retention need."""

from __future__ import annotations

from mongo_ops.settings import PROJECT, load_environments


def test_each_environment_has_assets_apart_from_its_storage_and_one_is_nightly():
    found = load_environments(PROJECT / "include")

    assert [name for name, one in found.items() if one.nightly] == ["development"]
    places = [one.assets for one in found.values()] + [one.storage for one in found.values()]
    assert len(set(places)) == 2 * len(found)
    for one in places:
        assert one is not None
        assert not any(other is not one and str(other).startswith(f"{one}/") for other in places)
