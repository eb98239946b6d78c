"""Uploads that killed processes left unfinished in an object store: find and abort them. Never touches a finished object."""

from __future__ import annotations

import contextlib

from mongo_ops.storage.paths import Folder, telling


def abort(place: Folder) -> int:
    """Abort the unfinished multipart uploads at ``place`` and below it; return how many there were.

    Stores without such uploads (a disk) have none. Only uploads of keys that begin with the place are touched; call it when
    no process writes there any more.
    """
    listing = getattr(place.fs, "list_multipart_uploads", None)
    if listing is None:
        return 0
    bucket, _, key = place.path.strip("/").partition("/")
    done = 0
    with telling(place):
        for upload in listing(bucket):
            if upload["Key"] == key or upload["Key"].startswith(f"{key}/"):
                with contextlib.suppress(FileNotFoundError):  # it finished or was aborted meanwhile
                    place.fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
                    done += 1
    return done
