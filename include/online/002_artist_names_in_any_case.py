"""Give `artists` a collation, so that names are found and sorted whatever their case and accents; that needs another collection.

Meanwhile: everybody goes on with `artists`. The copy is filled beside it, kept in step, and takes the name when somebody approves; writes
are refused for a moment then. Indexes of names compare without case afterwards. A rollback within two days loses nothing.
"""

from mongo_ops.online import OnlineMigration, TargetOptions

migration = OnlineMigration(
    collection="artists",
    mode="ghost",
    target=TargetOptions(collation={"locale": "en", "strength": 1}),
    soak_hours=48,
)
