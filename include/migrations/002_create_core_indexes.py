"""Index the core collections for the product's own questions, and make an e-mail address unique whatever its case.

Meanwhile: reads and writes go on during each build; once the index on e-mail is there, a second account with the same address is
refused (code 11000). Undone by dropping the indexes.

`users.email` is compared without case (collation `en`, strength 2), as people do. A query uses this index only when it names the
same collation. Every other index serves a query of docs/model.md; an index nobody asks for still costs every write.
"""

from mongo_ops.migrations import CollectionExists, CreateIndex, IndexExists, Migration

IGNORING_CASE = {"locale": "en", "strength": 2}
CORE = ("users", "artists", "tracks", "playlists", "analytics")

migration = Migration(
    tags=("core",),
    requires=[
        CollectionExists(name) for name in CORE
    ],  # an index on a collection that is not there would create it, bare
    ensures=[IndexExists("users", "email_unique")],
    operations=[
        CreateIndex("users", keys=[("email", 1)], name="email_unique", unique=True, collation=IGNORING_CASE),
        CreateIndex("artists", keys=[("name", 1)], name="name"),
        CreateIndex("artists", keys=[("genres", 1)], name="genres"),
        CreateIndex("artists", keys=[("user_id", 1)], name="user", sparse=True),
        CreateIndex("tracks", keys=[("artist_id", 1), ("album.title", 1)], name="artist_album"),
        CreateIndex("tracks", keys=[("genre", 1)], name="genre"),
        CreateIndex("tracks", keys=[("isrc", 1)], name="isrc_unique", unique=True, sparse=True),
        CreateIndex("tracks", keys=[("credits.user_id", 1)], name="credited_user", sparse=True),
        CreateIndex("playlists", keys=[("owner_id", 1)], name="owner"),
        CreateIndex("playlists", keys=[("collaborators", 1)], name="collaborators", sparse=True),
        CreateIndex("playlists", keys=[("tracks.track_id", 1)], name="track"),
        CreateIndex("analytics", keys=[("user_id", 1), ("ts", -1)], name="user_time"),
        CreateIndex("analytics", keys=[("track_id", 1), ("ts", -1)], name="track_time"),
        CreateIndex("analytics", keys=[("ts", 1)], name="time"),
    ],
)
