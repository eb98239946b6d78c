"""The demo's music on the reference model: every document passes the validators, loading is repeatable, 007 has work to do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from demo import music
from tests.mongo.bench import Workshop

from mongo_ops.migrations.discover import discover
from mongo_ops.mongo.documents import set_digest

FILES = {file.version: file for file in discover(Path(__file__).parents[2] / "include" / "migrations")}
COLLECTIONS = ("users", "artists", "tracks", "playlists", "analytics")
REAL = {"users": 59, "artists": 275, "tracks": 3_503, "playlists": 18, "playlist_entries": 8_715}


@pytest.fixture
def workshop(db):
    """The model up to 006, strict validators and all."""
    ready = Workshop(db)
    for version in sorted(FILES)[:6]:
        for operation in FILES[version].migration.operations:
            ready.forward(operation)
    return ready


def state(db):
    return {name: set_digest(db[name].find()) for name in COLLECTIONS}


def values_in(db, collection, array, field=""):
    """Every value in an array. (``distinct`` answers from the index, where an empty array is a null.)"""
    pipeline = [{"$unwind": f"${array}"}, {"$group": {"_id": f"${array}{field}"}}]
    return {found["_id"] for found in db[collection].aggregate(pipeline)}


def plays(count, seed=2026):
    chinook = music.read_chinook()
    return list(music.synthetic_plays(list(music.users_of(chinook)), list(music.tracks_of(chinook)), count, seed))


def test_the_music_is_all_there_and_a_second_load_changes_nothing(db, workshop):
    counts = music.load(db, plays=2_000)

    assert counts == {**REAL, "plays": 2_000}
    assert {name: db[name].count_documents({}) for name in COLLECTIONS} == {
        "users": 59,
        "artists": 275,
        "tracks": 3_503,
        "playlists": 18,
        "analytics": 2_000,
    }
    assert sum(len(playlist["tracks"]) for playlist in db.playlists.find()) == 8_715
    first = state(db)

    assert music.load(db, plays=2_000) == counts
    assert state(db) == first


def test_every_document_conforms_to_the_validator_in_force(db, workshop):
    music.load(db, plays=500)

    for found in db.list_collections(filter={"name": {"$in": list(COLLECTIONS)}}):
        assert db[found["name"]].count_documents({"$nor": [found["options"]["validator"]]}) == 0


def test_references_lead_somewhere(db, workshop):
    music.load(db, plays=500)

    artists, tracks, users = (set(db[name].distinct("_id")) for name in ("artists", "tracks", "users"))
    assert set(db.tracks.distinct("artist_id")) <= artists
    assert values_in(db, "playlists", "tracks", ".track_id") <= tracks
    assert set(db.analytics.distinct("track_id")) <= tracks
    assert set(db.analytics.distinct("user_id")) <= users


def test_what_chinook_says_of_one_track_its_artist_and_one_customer_is_kept(db, workshop):
    music.load(db, plays=0)

    track = db.tracks.find_one({"source.id": 1})
    assert track["title"] == "For Those About To Rock (We Salute You)"
    assert track["album"]["title"] == "For Those About To Rock We Salute You"
    assert track["composer"] == "Angus Young, Malcolm Young, Brian Johnson"
    assert (track["duration_ms"], track["price"]) == (343_719, {"cents": 99, "currency": "USD"})
    assert db.artists.find_one({"_id": track["artist_id"]})["name"] == "AC/DC"
    assert db.tracks.count_documents({"composer": {"$exists": False}}) == 977

    user = db.users.find_one({"email": "luisg@embraer.com.br"})
    assert (user["display_name"], user["country"], user["address"]["city"]) == (
        "Luís Gonçalves",
        "BR",
        "São José dos Campos",
    )
    assert set(user["consents"].values()) == {False}


def test_playlists_of_the_same_name_stay_apart(db, workshop):
    music.load(db, plays=0)

    named = Counter(playlist["name"] for playlist in db.playlists.find())
    assert {name for name, count in named.items() if count == 2} == {"Music", "Movies", "TV Shows", "Audiobooks"}
    assert [len(found["tracks"]) for found in db.playlists.find({"name": "Music"})] == [3_290, 3_290]


def test_007_lower_cases_the_genres_its_reverse_restores_them_and_a_later_load_leaves_them(db, workshop):
    music.load(db, plays=0)
    before = set_digest(db.artists.find())
    assert "R&B/Soul" in values_in(db, "artists", "genres")
    (normalise,) = FILES["007"].migration.operations

    counts = workshop.forward(normalise)

    assert (counts.matched, counts.modified) == (204, 204)  # the other 71 artists have no tracks
    genres = values_in(db, "artists", "genres")
    assert {genre for genre in genres if genre != genre.lower()} == set()
    assert "r&b/soul" in genres
    normalised = set_digest(db.artists.find())
    music.load(db, plays=0)
    assert set_digest(db.artists.find()) == normalised

    workshop.reverse(normalise)
    assert set_digest(db.artists.find()) == before


def test_plays_are_labelled_seeded_and_extended_not_replaced():
    few, many = plays(200), plays(400)

    assert many[:200] == few
    assert len({play["_id"] for play in many}) == 400
    assert all(play["synthetic"] is True for play in many)
    assert not {play["_id"] for play in plays(200, seed=1)} & {play["_id"] for play in few}


def test_plays_are_plausible():
    made = plays(20_000)

    heard = Counter(play["track_id"] for play in made).most_common()
    top, hundredth = heard[0][1], heard[99][1]
    assert 40 <= top / hundredth <= 250  # Zipf: 100, give or take chance
    hours = Counter(play["ts"].hour for play in made)
    assert hours[19] > 3 * hours[3]
    assert {play["ts"].year for play in made} == {2025}
    lengths = {track["_id"]: track["duration_ms"] for track in music.tracks_of(music.read_chinook())}
    assert all(0 <= play["ms_played"] <= lengths[play["track_id"]] for play in made)
    skips = [play for play in made if play["event_type"] == "skip"]
    assert 0.02 < len(skips) / len(made) < 0.2
    assert all(play["ms_played"] < 30_000 for play in skips)
