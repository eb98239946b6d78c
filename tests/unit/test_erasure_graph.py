"""The map as a whole: what leads where, in which order, and which maps are refused before anything runs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.erasure_maps import chinook

from mongo_ops import settings
from mongo_ops.erasure.graph import DataMapError, check, faults, order
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.model import Change, Identifier, Retention, Waiver

MAP = load_map(settings.PROJECT / "include")


def chain(*links):
    """Identifiers, each looked up by the one after the arrow: ``a<b`` needs b."""
    found = {}
    for link in links:
        name, _, needed = link.partition("<")
        where = {path: f"${one}" for path, one in zip("xyz", needed.split("+"), strict=False) if one}
        found[name] = Identifier(name, "c", "p", where)
    return found


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (["s"], "s"),
        (["c<b", "b<a", "a<s", "s"], "sabc"),
        (["s", "d<b+c", "c<s", "b<s"], "scbd"),
    ],
)
def test_each_identifier_comes_after_those_it_needs(links, expected):
    assert "".join(one.name for one in order(chain(*links), "s")) == expected


@pytest.mark.parametrize(
    ("links", "said"),
    [
        (["s", "a<b", "b<a"], "a: cannot be reached from $s; it waits for $b (a circle"),
        (["s", "a<a"], "a: cannot be reached"),
        (["s", "a<b", "b<c", "c<b"], "a: cannot be reached"),
        (["s", "a<nobody"], "$nobody is no identifier"),
        (["s", "a"], "`where` must lead from another"),
        (["s<a", "a<s"], "s: the subject's own identifier needs no `where`"),
        (["a<s"], "subject s is not among"),
    ],
)
def test_a_graph_that_leads_nowhere_is_refused(links, said):
    with pytest.raises(DataMapError) as caught:
        order(chain(*links), "s")
    assert said in str(caught.value)


@given(st.permutations(range(8)), st.data())
def test_any_tree_is_put_in_order(names, data):
    identifiers = {"i0": Identifier("i0", "c", "p")}
    for number in range(1, 8):
        parent = data.draw(st.integers(0, number - 1))
        identifiers[f"i{number}"] = Identifier(f"i{number}", "c", "p", {"x": f"$i{parent}"})
    shuffled = {f"i{number}": identifiers[f"i{number}"] for number in names}

    found = [one.name for one in order(shuffled, "i0")]

    assert sorted(found) == sorted(identifiers)
    for name, one in identifiers.items():
        assert all(found.index(needed[1:]) < found.index(name) for needed in one.where.values())


def test_the_reference_map_resolves_in_an_order_that_its_lookups_need():
    names = [one.name for one in order(MAP.identifiers, MAP.subject)]

    assert names[0] == "user_id"
    assert len(names) == len(MAP.identifiers)
    assert names.index("artist_id") < names.index("track_id") < names.index("asset_key")


def with_rule(rule_id, **changes):
    """The reference map with one rule changed."""
    collection = MAP.rule(rule_id).collection
    entry = MAP.collections[collection]
    rules = tuple(dataclasses.replace(rule, **changes) if rule.id == rule_id else rule for rule in entry.rules)
    return with_entry(collection, rules=rules)


def with_entry(collection, **changes):
    entry = dataclasses.replace(MAP.collections[collection], **changes)
    return dataclasses.replace(MAP, collections={**MAP.collections, collection: entry})


def with_identifier(name, **changes):
    return dataclasses.replace(
        MAP, identifiers={**MAP.identifiers, name: dataclasses.replace(MAP.identifiers[name], **changes)}
    )


def without(rule_id, number):
    rule = MAP.rule(rule_id)
    return with_rule(rule_id, changes=rule.changes[:number] + rule.changes[number + 1 :])


def test_the_maps_of_the_project_have_no_faults():
    assert faults(MAP) == faults(chinook.data_map()) == []
    check(MAP)


FAULTY = {
    "unknown identifier": (with_rule("analytics.events", select={"user_id": "$nobody"}), "$nobody is no identifier"),
    "unknown in anywhere": (with_rule("versioning.mentions", select={"anywhere": ["nobody"]}), "$nobody is no identifier"),
    "unknown in an element": (
        with_rule("playlists.collaborator", changes=(Change("collaborators[]", "pull", where="$nobody"),)), "$nobody",
    ),
    "everybody": (with_rule("analytics.events", select={"device": "phone"}), "selects by no $identifier"),
    "everybody by an alternative": (
        with_rule("analytics.events", select={"any": [{"user_id": "$user_id"}, {"device": "tv"}]}), "selects by no $identifier",
    ),
    "an identifier beside anywhere": (
        with_rule("versioning.mentions", select={"anywhere": ["email"], "changed_by": "$user_id"}), "stands with constants only",
    ),
    "unknown selected path": (with_rule("analytics.events", select={"userid": "$user_id"}), "analytics.userid is not among"),
    "unknown changed path": (
        with_rule("artists.profile", changes=(*MAP.rule("artists.profile").changes, Change("biography", "unset"))),
        "artists.biography is not among its fields",
    ),
    "no why": (with_rule("artists.profile", why=" "), "`why` must say why not"),
    "no ground": (with_rule("consent.evidence", ground=None), "needs a `ground`"),
    "no changes": (with_rule("artists.profile", changes=()), "anonymize needs changes"),
    "changes of a deletion": (with_rule("analytics.events", changes=(Change("device", "unset"),)), "takes no changes"),
    "retain without ground": (with_rule("analytics.events", action="retain", why="x"), "needs a `ground`"),
    "left behind": (without("artists.profile", 1), "artists.profile: selects by user_id, and no change takes $user_id out"),
    "left in an array": (without("playlists.added_by", 0), "no change takes $user_id out"),
    "left beside a reference": (without("consent.evidence", 1), "no change takes $user_id out"),
    "left anywhere": (
        with_rule("versioning.mentions", changes=(Change("reason", "unset"),)), "selects by anywhere, and no change redacts",
    ),
    "pull without pull": (
        with_rule("playlists.collaborator", changes=(Change("collaborators[]", "set", "x", where="$user_id"),)), "op: pull",
    ),
    "pull of no element": (
        with_rule("playlists.collaborator", changes=(Change("collaborators", "pull"),)), "pull needs a path that ends in []",
    ),
    "unset of an element": (
        with_rule("playlists.collaborator", changes=(Change("collaborators[]", "unset"),)), "use pull",
    ),
    "where without elements": (
        with_rule("artists.profile", changes=(Change("user_id", "unset", where={"a": "$user_id"}),)), "goes through no array",
    ),
    "an _id": (
        with_rule("analytics.events", action="anonymize", why="x", changes=(Change("_id", "unset"),)), "an _id cannot be changed",
    ),
    "of elsewhere": (
        with_rule("security_events.events", changes=(Change("subject_ref", "reference", of="details.user_id"),)), "must stand beside",
    ),
    "of nobody": (
        with_rule("playlists.owned", changes=(Change("name", "redact", of="title"),)), "redact takes the name of an identifier",
    ),
    "a value for unset": (
        with_rule("playlists.owned", changes=(Change("owner_id", "unset", "x"),)), "`value` is for set and redact",
    ),
    "key in the middle": (
        with_rule("versioning.mentions", select={"snapshot.{user_id}.x": "exists"}), "must come last",
    ),
    "key below an array": (
        with_rule("versioning.mentions", select={"diff[].value.{user_id}": "exists"}), "not below an array",
    ),
    "arrays in arrays": (with_rule("versioning.mentions", select={"snapshot.a[][]": "$user_id"}), "cannot be asked for"),
    "root too early": (with_rule("users.account", stage="leaves"), "users holds the people themselves, so its stage is root"),
    "source before its users": (
        with_rule("playlists.private", stage="objects"), "playlists.private: deletes where $private_playlist_id is read from",
    ),
    "personal without a rule": (with_entry("analytics", rules=()), "analytics: classifies event_type as personal and has no rule"),
    "root without a rule": (with_entry("users", rules=()), "users: holds the people themselves and has no rule"),
    "a rule twice": (with_entry("analytics", rules=MAP.collections["analytics"].rules * 2), "rule analytics.events: the id is there twice"),
    "unknown recipient": (with_entry("users", recipients=("nobody",)), "recipient nobody is not among"),
    "retention of a field that is not there": (
        with_entry("analytics", retention=(Retention("analytics.x", "analytics", "made_at", "P1Y", "delete"),)), "analytics.made_at",
    ),
    "retention of one person": (
        with_entry("analytics", retention=(Retention("analytics.x", "analytics", "ts", "P1Y", "delete", {"user_id": "$user_id"}),)),
        "goes by age, not by person",
    ),
    "retention without changes": (
        with_entry("analytics", retention=(Retention("analytics.x", "analytics", "ts", "P1Y", "anonymize"),)), "needs changes",
    ),
    "identifier of no collection": (with_identifier("email", collection="people"), "the map has no collection people"),
    "identifier of no field": (with_identifier("email", path="mail"), "users.mail is not among its fields"),
    "untraced without a reason": (with_identifier("track_id", why=""), "track_id: is not traced everywhere"),
    "remains without a reason": (with_identifier("artist_id", why=""), "artist_id: is not traced everywhere"),
    "remains nowhere": (with_identifier("artist_id", remains=("tracks.artist",)), "remains in tracks.artist, which is no field"),
    "an int that is traced": (with_identifier("email", types=("int",)), "set `trace: false`"),
    "a waiver for good": (
        dataclasses.replace(MAP, waivers=(Waiver("x", "w", "o", "forever"),)), "waiver x: `until` must be a day",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
def test_a_map_that_cannot_be_followed_is_refused(fault):
    data_map, said = FAULTY[fault]

    assert [one for one in faults(data_map) if said in one], faults(data_map)
    with pytest.raises(DataMapError) as caught:
        check(data_map)
    assert all(one in str(caught.value) for one in faults(data_map))


def test_a_waiver_stands_in_for_a_rule():
    waived = dataclasses.replace(
        with_entry("analytics", rules=()), waivers=(Waiver("analytics", "w", "o", "2027-01-01"),)
    )
    assert faults(waived) == []


def test_dropping_any_change_of_a_rule_that_selects_by_it_is_noticed():
    """Each change that takes the selected identifier out is needed: without it the map itself is refused."""
    noticed = {
        (rule.id, change.path)
        for rule in MAP.rules
        for number, change in enumerate(rule.changes)
        if len(rule.changes) > 1 and faults(without(rule.id, number))
    }
    assert {
        ("artists.profile", "user_id"), ("tracks.authorship", "credits[].user_id"), ("playlists.owned", "owner_id"),
        ("playlists.added_by", "tracks[].added_by"), ("consent.evidence", "user_id"), ("security_events.events", "user_id"),
    } <= noticed  # fmt: skip


def test_a_rule_may_remove_what_it_selects_by_from_above():
    above = with_rule("tracks.authorship", changes=(Change("credits", "unset"),))
    assert faults(above) == []


def test_every_rule_is_in_the_order_of_its_stage():
    stages = [rule.stage for rule in MAP.rules]
    assert [stage for stage, _ in itertools.groupby(stages)] == ["leaves", "parents", "root"]
