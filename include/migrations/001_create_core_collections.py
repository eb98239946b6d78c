"""Create users, artists, tracks, playlists and analytics, each with a validator, so that a wrong document never gets in.

Meanwhile: nothing reads or writes these collections before they exist. Undone by dropping them, documents included; a rollback
snapshots them first.

References are ObjectIds, dates are BSON dates, money is an integer of cents. A validator demands what the product cannot work
without and checks the form of everything else it names; `_shapes.py` says where unknown fields are allowed, and why.

`analytics` is an ordinary collection, not a time series: an erasure request must delete the events of one person in the same
transaction as its checkpoint, and a time-series collection of MongoDB 6 deletes only by its metadata field, updates hardly anything
and takes part in no such transaction. Disk space is cheaper than a request that cannot be fulfilled.

No collection keeps pre-images: they would hold every erased document for as long as they last.
"""

from mongo_ops.migrations import CreateCollection, Migration

from ._shapes import (
    BOOL,
    COUNT,
    COUNTRY,
    DATE,
    ISRC,
    LANGUAGE_TAG,
    OBJECT_ID,
    OBJECT_ID_OR_NULL,
    PRICE,
    SOURCE,
    USER,
    array,
    one_of,
    record,
    text,
    validator,
)

GENRE = text(60)
LONGEST_PLAYLIST = 10_000

artists = {
    "name": text(300),
    "genre": GENRE,  # one genre, from before there were several; 003 carries it over
    "genres": array(GENRE, 50, uniqueItems=True),
    "user_id": OBJECT_ID,  # the artist's own account; gone once that account is erased
    "country": COUNTRY,
    "bio": text(10_000),
    "links": array(text(2_000), 20),
    "image_key": text(1_024),
    "source": SOURCE,
    "created_at": DATE,
    "updated_at": DATE,
}

tracks = {
    "title": text(300),
    "artist_id": OBJECT_ID,
    "album": record({"album_id": OBJECT_ID, "title": text(300), "released_at": DATE}, ["title"]),
    "genre": GENRE,
    "composer": text(500),
    "credits": array(record({"name": text(200), "role": text(60), "user_id": OBJECT_ID}, ["name", "role"]), 200),
    "duration_ms": COUNT,
    "size_bytes": COUNT,
    "media_type": text(60),
    "isrc": ISRC,
    "language": LANGUAGE_TAG,
    "explicit": BOOL,
    "price": PRICE,
    "source": SOURCE,
    "created_at": DATE,
    "updated_at": DATE,
}

playlist_entry = record({"track_id": OBJECT_ID, "added_by": OBJECT_ID, "added_at": DATE}, ["track_id"])

playlists = {
    "name": text(200),
    "description": text(2_000),
    "owner_id": OBJECT_ID_OR_NULL,  # nobody: an editorial list, or one whose owner was erased
    "visibility": one_of("private", "shared", "public"),
    "collaborators": array(OBJECT_ID, 100, uniqueItems=True),
    "tracks": array(playlist_entry, LONGEST_PLAYLIST),
    "source": SOURCE,
    "created_at": DATE,
    "updated_at": DATE,
}

analytics = {
    "event_type": one_of("play", "skip", "save", "share"),
    "user_id": OBJECT_ID_OR_NULL,  # null: listened to while signed out
    "track_id": OBJECT_ID,
    "ts": DATE,
    "ms_played": COUNT,
    "country": COUNTRY,
    "device": one_of("phone", "desktop", "speaker", "car", "tv", "web"),
    "synthetic": BOOL,  # made by a generator, not by a listener
}

migration = Migration(
    tags=("core",),
    operations=[
        CreateCollection("users", validator=validator("A user", USER, ["email", "display_name"])),
        CreateCollection("artists", validator=validator("An artist", artists, ["name"])),
        CreateCollection("tracks", validator=validator("A track", tracks, ["title", "artist_id", "duration_ms"])),
        CreateCollection("playlists", validator=validator("A playlist", playlists, ["name", "visibility", "tracks"])),
        CreateCollection("analytics", validator=validator("An event", analytics, ["event_type", "track_id", "ts"])),
    ],
)
