"""Keep a track's length in seconds beside its milliseconds, so that players that show seconds need not divide.

Meanwhile: old writers go on with `duration_ms` alone; the change stream keeps `duration_s` right. Readers may see tracks without it until
the verification is clean. An abort removes `duration_s` again. The contract demands `duration_s` of nobody and removes nothing.
"""

from mongo_ops.online import OnlineMigration

migration = OnlineMigration(
    collection="tracks",
    transform=[{"$set": {"duration_s": {"$toInt": {"$round": [{"$divide": ["$duration_ms", 1000]}, 0]}}}}],
    fields=("duration_s",),
)
