"""Split a collection: over shards, into months, into a time series, or into what is hot and what is archived.

For writers: ``collection_for("events", moment)`` names the month collection that a document belongs to. It is pure, so that an
application can take it (or its one line) over. Nothing in this room drops a document that is not safe elsewhere or meant to go.
"""

from mongo_ops.partitions.months import Month, collection_for

__all__ = ["Month", "collection_for"]
