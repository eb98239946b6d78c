"""Object storage: folders, whole-or-nothing files, snapshots of collections with digests, and restoring them.

Takes any ``UPath``-like folder. Never imports Airflow, and never shows a credential or a value of a document.
"""

from mongo_ops.storage.atomic import AlreadyWrittenError, Sink, Source, create, reading, writing
from mongo_ops.storage.load import RestoreConflictError, Restored, RestoreRefusedError
from mongo_ops.storage.manifest import Snapshot, SnapshotCorruptError, SnapshotMissingError, finished
from mongo_ops.storage.paths import (
    Folder,
    InvalidStorageError,
    StorageDeniedError,
    StorageFailedError,
    fresh,
    is_local,
    open_folder,
    show,
    telling,
)
from mongo_ops.storage.restore import restore
from mongo_ops.storage.snapshots import (
    NotSnapshotableError,
    SnapshotDiffersError,
    SnapshotNameError,
    at,
    take,
    verify,
)

__all__ = [
    "AlreadyWrittenError",
    "Folder",
    "InvalidStorageError",
    "NotSnapshotableError",
    "RestoreConflictError",
    "RestoreRefusedError",
    "Restored",
    "Sink",
    "Snapshot",
    "SnapshotCorruptError",
    "SnapshotDiffersError",
    "SnapshotMissingError",
    "SnapshotNameError",
    "Source",
    "StorageDeniedError",
    "StorageFailedError",
    "at",
    "create",
    "finished",
    "fresh",
    "is_local",
    "open_folder",
    "reading",
    "restore",
    "show",
    "take",
    "telling",
    "verify",
    "writing",
]
