"""Load the demo's music: Chinook's customers, artists, tracks and playlists, and plays made up with a seed.

Real is what Chinook holds (demo/data/chinook, with its licence). Made up are the plays, each labelled ``synthetic``. Every `_id`
follows from Chinook's number or the seed, and only what is missing is inserted: loading twice changes nothing, and a document that
a migration has changed since stays as it is.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bson import ObjectId
from pymongo import UpdateOne

if TYPE_CHECKING:
    from pymongo.database import Database

Document = dict[str, Any]
Row = Mapping[str, Any]
Choice = TypeVar("Choice")

CHINOOK = Path(__file__).parent / "data" / "chinook" / "ChinookData.json"
BATCH = 1_000
CATALOGUE_AT = datetime(2021, 1, 1, tzinfo=UTC)
"""When artists, tracks and playlists came into being: the day of Chinook's first invoice, as it records nothing better."""

CURRENCY = "USD"
"""Chinook names no currency; its prices of 0.99 and 1.99 are read as US dollars."""

COUNTRIES = {
    "Argentina": "AR",
    "Australia": "AU",
    "Austria": "AT",
    "Belgium": "BE",
    "Brazil": "BR",
    "Canada": "CA",
    "Chile": "CL",
    "Czech Republic": "CZ",
    "Denmark": "DK",
    "Finland": "FI",
    "France": "FR",
    "Germany": "DE",
    "Hungary": "HU",
    "India": "IN",
    "Ireland": "IE",
    "Italy": "IT",
    "Netherlands": "NL",
    "Norway": "NO",
    "Poland": "PL",
    "Portugal": "PT",
    "Spain": "ES",
    "Sweden": "SE",
    "USA": "US",
    "United Kingdom": "GB",
}
NO_CONSENT = dict.fromkeys(("analytics", "marketing", "personalisation", "third_party_sharing", "ai_training"), False)

PLAYS_FROM = datetime(2025, 10, 1, tzinfo=UTC)
PLAYS_DAYS = 92
HOURS = (2, 1, 1, 1, 1, 2, 4, 7, 8, 7, 6, 6, 7, 7, 6, 6, 7, 9, 10, 10, 9, 8, 6, 4)
"""How much is listened to in each hour of the day (relative)."""

WEEKDAYS = (9, 9, 9, 10, 12, 12, 10)
DEVICES = {"phone": 55, "desktop": 18, "speaker": 12, "car": 8, "web": 5, "tv": 2}
FINISHED = 0.78
SKIPPED_UNDER_MS = 30_000
"""A track left within its first 30 seconds counts as a skip, as streaming services count."""


def load(db: Database[Document], *, plays: int = 20_000, seed: int = 2026) -> dict[str, int]:
    """Insert what is missing and return how many documents of each kind are then in place.

    Args:
        db: a database with the reference model's collections (migrations 001 to 004 at least).
        plays: how many plays to make up; a larger number begins with the same plays as a smaller one.
        seed: decides which; another seed adds other plays.

    Returns:
        Counts for ``users``, ``artists``, ``tracks``, ``playlists``, ``playlist_entries`` and ``plays``.
    """
    chinook = read_chinook()
    tracks = list(tracks_of(chinook))
    users = list(users_of(chinook))
    playlists = list(playlists_of(chinook))
    return {
        "users": _insert_missing(db, "users", users),
        "artists": _insert_missing(db, "artists", artists_of(chinook)),
        "tracks": _insert_missing(db, "tracks", tracks),
        "playlists": _insert_missing(db, "playlists", playlists),
        "playlist_entries": sum(len(playlist["tracks"]) for playlist in playlists),
        "plays": _insert_missing(db, "analytics", synthetic_plays(users, tracks, plays, seed)),
    }


def read_chinook(path: Path = CHINOOK) -> dict[str, list[Row]]:
    """Return Chinook's tables by name. The file starts with a byte-order mark."""
    with path.open(encoding="utf-8-sig") as file:
        tables: dict[str, list[Row]] = json.load(file)
    return tables


def users_of(chinook: Mapping[str, Sequence[Row]]) -> Iterator[Document]:
    """Yield a user for each customer, there since the first invoice, with consent to nothing (nobody asked them)."""
    since: dict[int, str] = {}
    for invoice in chinook["Invoice"]:
        key = invoice["CustomerId"]
        since[key] = min(invoice["InvoiceDate"], since.get(key, invoice["InvoiceDate"]))
    for row in chinook["Customer"]:
        address = {
            "street": row["Address"],
            "city": row["City"],
            "region": row["State"],
            "postal_code": row["PostalCode"],
        }
        user = {
            "email": row["Email"].lower(),
            "display_name": f"{row['FirstName']} {row['LastName']}",
            "given_name": row["FirstName"],
            "family_name": row["LastName"],
            "company": row["Company"],
            "phone": row["Phone"],
            "country": COUNTRIES[row["Country"]],
        }
        yield {
            "_id": key_of("user", row["CustomerId"]),
            **_known(user),
            "address": _known(address),
            "consents": dict(NO_CONSENT),
            "status": "active",
            "subscription_type": "free",
            "source": _source(row["CustomerId"]),
            "created_at": datetime.fromisoformat(since[row["CustomerId"]]).replace(tzinfo=UTC),
        }


def artists_of(chinook: Mapping[str, Sequence[Row]]) -> Iterator[Document]:
    """Yield the artists, each with the genres of their tracks, spelled as Chinook spells them."""
    names = {row["GenreId"]: row["Name"] for row in chinook["Genre"]}
    artist_of = {row["AlbumId"]: row["ArtistId"] for row in chinook["Album"]}
    genres: defaultdict[int, set[str]] = defaultdict(set)
    for row in chinook["Track"]:
        genres[artist_of[row["AlbumId"]]].add(names[row["GenreId"]])
    for row in chinook["Artist"]:
        yield {
            "_id": key_of("artist", row["ArtistId"]),
            "name": row["Name"],
            "genres": sorted(genres[row["ArtistId"]]),
            "source": _source(row["ArtistId"]),
            "created_at": CATALOGUE_AT,
        }


def tracks_of(chinook: Mapping[str, Sequence[Row]]) -> Iterator[Document]:
    """Yield the tracks, each with its album inside."""
    genres = {row["GenreId"]: row["Name"] for row in chinook["Genre"]}
    media = {row["MediaTypeId"]: row["Name"] for row in chinook["MediaType"]}
    albums = {row["AlbumId"]: row for row in chinook["Album"]}
    for row in chinook["Track"]:
        album = albums[row["AlbumId"]]
        yield {
            "_id": key_of("track", row["TrackId"]),
            "title": row["Name"],
            "artist_id": key_of("artist", album["ArtistId"]),
            "album": {"album_id": key_of("album", album["AlbumId"]), "title": album["Title"]},
            "genre": genres[row["GenreId"]],
            **_known({"composer": row["Composer"]}),
            "duration_ms": row["Milliseconds"],
            "size_bytes": row["Bytes"],
            "media_type": media[row["MediaTypeId"]],
            "price": {"cents": round(row["UnitPrice"] * 100), "currency": CURRENCY},
            "source": _source(row["TrackId"]),
            "created_at": CATALOGUE_AT,
        }


def playlists_of(chinook: Mapping[str, Sequence[Row]]) -> Iterator[Document]:
    """Yield the playlists, in Chinook's order of tracks. Several share a name there, and stay apart here."""
    entries: defaultdict[int, list[Document]] = defaultdict(list)
    for row in chinook["PlaylistTrack"]:
        entries[row["PlaylistId"]].append({"track_id": key_of("track", row["TrackId"])})
    for row in chinook["Playlist"]:
        yield {
            "_id": key_of("playlist", row["PlaylistId"]),
            "name": row["Name"],
            "owner_id": None,  # Chinook's playlists belong to nobody
            "visibility": "public",
            "tracks": entries[row["PlaylistId"]],
            "source": _source(row["PlaylistId"]),
            "created_at": CATALOGUE_AT,
        }


def synthetic_plays(users: Sequence[Row], tracks: Sequence[Row], plays: int, seed: int) -> Iterator[Document]:
    """Yield made-up plays: a few tracks are heard much and most little (Zipf), evenings more than nights.

    Users differ too, though less. Three quarters of the plays run to the end; of the rest, those under 30 seconds are skips.
    """
    chance = random.Random(seed)
    track, user = _popularity(tracks, chance), _popularity(users, chance, steepness=0.5)
    day = _weighted(range(PLAYS_DAYS), [WEEKDAYS[(PLAYS_FROM.weekday() + n) % 7] for n in range(PLAYS_DAYS)], chance)
    hour = _weighted(range(24), HOURS, chance)
    device = _weighted(tuple(DEVICES), tuple(DEVICES.values()), chance)
    for number in range(plays):
        heard, listener = track(), user()
        at = PLAYS_FROM + timedelta(days=day(), hours=hour(), milliseconds=chance.randrange(3_600_000))
        whole = chance.random() < FINISHED
        played = heard["duration_ms"] if whole else int(chance.random() ** 2 * heard["duration_ms"])
        yield {
            "_id": _object_id(at, f"play{seed}", number),
            "event_type": "skip" if not whole and played < SKIPPED_UNDER_MS else "play",
            "user_id": listener["_id"],
            "track_id": heard["_id"],
            "ts": at,
            "ms_played": played,
            "country": listener["country"],
            "device": device(),
            "synthetic": True,
        }


def key_of(kind: str, number: int) -> ObjectId:
    """Return the `_id` of Chinook's thing of this kind and number: always the same."""
    return _object_id(CATALOGUE_AT, kind, number)


def _object_id(at: datetime, namespace: str, number: int) -> ObjectId:
    """Build an ObjectId as a driver does: seconds (4 bytes), a value of the maker (5), a counter (3)."""
    maker = random.Random(namespace).getrandbits(40)
    seconds = int(at.timestamp())
    return ObjectId(seconds.to_bytes(4, "big") + maker.to_bytes(5, "big") + number.to_bytes(3, "big"))


def _weighted(choices: Sequence[Choice], weights: Sequence[float], chance: random.Random) -> Callable[[], Choice]:
    cumulated = list(itertools.accumulate(weights))
    return lambda: chance.choices(choices, cum_weights=cumulated)[0]


def _popularity(things: Sequence[Row], chance: random.Random, steepness: float = 1.0) -> Callable[[], Row]:
    """Rank the things by chance and return a choice by Zipf's law: the n-th is chosen 1 / n**steepness as often as the first."""
    ranked = chance.sample(things, len(things))
    return _weighted(ranked, [rank**-steepness for rank in range(1, len(ranked) + 1)], chance)


def _known(values: Mapping[str, str]) -> Document:
    """Leave out what Chinook leaves empty."""
    return {name: value for name, value in values.items() if value}


def _source(number: int) -> Document:
    return {"name": "chinook", "id": number}


def _insert_missing(db: Database[Document], collection: str, documents: Iterable[Document]) -> int:
    """Insert the documents whose `_id` is not there yet, in bounded batches; return how many were given."""
    given, todo = 0, iter(documents)
    while batch := list(itertools.islice(todo, BATCH)):
        upserts = [UpdateOne({"_id": doc.pop("_id")}, {"$setOnInsert": doc}, upsert=True) for doc in map(dict, batch)]
        db[collection].bulk_write(upserts, ordered=False)
        given += len(batch)
    return given
