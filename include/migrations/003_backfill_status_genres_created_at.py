"""Give every user a status, every artist a list of genres, and every document its time of creation, where they are missing.

Readers may meet documents with and without these fields until this has run; writers that already set them keep their values,
because only documents without the field are touched. Undone by taking the fields from exactly the documents that got them here.

The time of creation is read from the ObjectId, whose first four bytes are the second in which the driver made it. An artist's
single `genre` becomes the first of `genres`, and stays for readers that do not know the list yet.
"""

from mongo_ops.migrations import AddField, Migration, NoneMatch

FROM_ID = {"$toDate": "$_id"}
FROM_GENRE = {"$cond": [{"$eq": [{"$type": "$genre"}, "string"]}, ["$genre"], []]}
DATED = ("users", "artists", "tracks", "playlists")

migration = Migration(
    tags=("core",),
    operations=[
        AddField("users", "status", value="active"),
        AddField("artists", "genres", expression=FROM_GENRE),
        *(AddField(collection, "created_at", expression=FROM_ID) for collection in DATED),
    ],
    ensures=[
        NoneMatch("users", {"status": {"$exists": False}}),
        NoneMatch("artists", {"genres": {"$exists": False}}),
        *(NoneMatch(collection, {"created_at": {"$exists": False}}) for collection in DATED),
    ],
)
