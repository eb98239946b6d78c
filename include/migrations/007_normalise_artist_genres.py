"""Lower-case artist genres, so that search and recommendations agree.

Readers may see both spellings until this has run. Reversible only from the snapshot taken before it.
An artist who has `Rock` and `rock` keeps one of them: the validator wants genres to differ.
"""

from mongo_ops.migrations import Backfill, Migration

SPELLED_WITH_CAPITALS = {"genres": {"$elemMatch": {"$regex": "[A-Z]"}}}
LOWER = {"$toLower": "$$this"}
LOWER_ONCE = {"$cond": [{"$in": [LOWER, "$$value"]}, "$$value", {"$concatArrays": ["$$value", [LOWER]]}]}

migration = Migration(
    tags=("core",),
    operations=[
        Backfill(
            "artists",
            where=SPELLED_WITH_CAPITALS,
            update=[{"$set": {"genres": {"$reduce": {"input": "$genres", "initialValue": [], "in": LOWER_ONCE}}}}],
            revert="snapshot",
        ),
    ],
)
