"""Remove files so that no version of them can be read again, and list what is there with all versions.

A store that keeps versions answers a plain delete with a marker: the file looks gone and every byte of it is still there. So each
version and each marker is removed by its id. Never follows a link, and never removes what it was not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mongo_ops.storage.paths import Folder, StorageDeniedError, StorageFailedError, fresh, is_local, show, telling

AT_ONCE = 1_000  # versions that S3 deletes in one call
UNVERSIONED = ("memory",)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file. ``path`` is the store's; ``id`` is None where the store keeps no versions; ``marker`` says "deleted"."""

    path: str
    id: str | None = None
    latest: bool = True
    marker: bool = False


def is_known(folder: Folder) -> bool:
    """Whether this code knows how the store keeps versions: a disk keeps none, S3 is asked. Of others nothing can be promised."""
    return is_local(folder) or folder.protocol in UNVERSIONED or _asks(folder) is not None


def of_file(path: Folder) -> tuple[Version, ...]:
    """Return every version and marker of one file; none when it was never there, or is a folder.

    Raises:
        StorageDeniedError, StorageFailedError: the store failed.
    """
    with telling(path):
        if _asks(path) is None:
            return (Version(path.path),) if fresh(path).fs.isfile(path.path) else ()
        bucket, key = _split(path)
        return tuple(one for one in _listed(path, bucket, key) if one.path == f"{bucket}/{key}")


def below(folder: Folder) -> Iterator[Version]:
    """Yield every version and marker below a folder, ordered by path.

    Raises:
        StorageDeniedError, StorageFailedError: the store failed.
    """
    with telling(folder):
        if _asks(folder) is None:
            there = fresh(folder).exists()
            for path in sorted(folder.fs.find(folder.path)) if there else ():
                yield Version(path)
            return
        bucket, key = _split(folder)
        yield from _listed(folder, bucket, f"{key}/" if key else "")


def remove(folder: Folder, versions: Iterable[Version]) -> int:
    """Remove versions and markers for good; return how many versions that were, markers left out. One that is gone is no fault.

    Args:
        folder: gives the store; the versions' own paths say where they are.
        versions: from ``of_file`` or ``below``.

    Raises:
        StorageDeniedError: the store does not let one go (rights, or a lock); others may be gone.
        StorageFailedError: the store failed.
    """
    rest, done = iter(versions), 0
    while some := list(islice(rest, AT_ONCE)):
        with telling(folder):
            if _asks(folder) is None:
                _remove_files(folder, some)
            else:
                _remove_versions(folder, some)
            fresh(folder)
        done += sum(1 for one in some if not one.marker)
    return done


def _remove_files(folder: Folder, some: Iterable[Version]) -> None:
    for one in some:
        if folder.fs.exists(one.path):
            folder.fs.rm_file(one.path)


def _remove_versions(folder: Folder, some: Iterable[Version]) -> None:
    by_bucket: dict[str, list[dict[str, str]]] = {}
    for one in some:
        bucket, _, key = one.path.partition("/")
        by_bucket.setdefault(bucket, []).append({"Key": key} | ({"VersionId": one.id} if one.id else {}))
    for bucket, keys in by_bucket.items():
        answer = folder.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        refused = {str(fault.get("Code")) for fault in answer.get("Errors", ())} - {"NoSuchKey", "NoSuchVersion"}
        if refused & {"AccessDenied", "MethodNotAllowed"}:
            raise StorageDeniedError(
                f"{show(folder)}: the store does not let versions of files be removed. The user needs `s3:DeleteObjectVersion`, and a "
                "locked object stays until its lock ends."
            )
        if refused:
            raise StorageFailedError(
                f"{show(folder)}: versions of files were not removed ({', '.join(sorted(refused))})."
            )


def _listed(folder: Folder, bucket: str, prefix: str) -> Iterator[Version]:
    """List by S3's ListObjectVersions: by key, the newest version first."""
    marks: dict[str, str] = {}
    while True:
        page: Mapping[str, Any] = folder.fs.call_s3("list_object_versions", Bucket=bucket, Prefix=prefix, **marks)
        found = [(one, False) for one in page.get("Versions") or ()]
        found += [(one, True) for one in page.get("DeleteMarkers") or ()]
        for one, marker in sorted(found, key=lambda pair: str(pair[0]["Key"])):
            yield Version(f"{bucket}/{one['Key']}", one.get("VersionId"), bool(one.get("IsLatest", True)), marker)
        if not page.get("IsTruncated"):
            return
        marks = {"KeyMarker": page["NextKeyMarker"]}
        if page.get("NextVersionIdMarker"):
            marks["VersionIdMarker"] = page["NextVersionIdMarker"]


def _asks(folder: Folder) -> Any:
    return getattr(folder.fs, "call_s3", None)


def _split(path: Folder) -> tuple[str, str]:
    bucket, _, key = path.path.strip("/").partition("/")
    return bucket, key.rstrip("/")
