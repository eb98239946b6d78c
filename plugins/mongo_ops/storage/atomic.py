"""Write a file so that readers see all of it or none of it, and know its digest.

On a local file system the bytes go to a hidden file beside it, which is renamed when it is whole and on disk. In an object
store the upload becomes visible when it is completed. A finished file is never overwritten without being told to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mongo_ops.errors import PlanError
from mongo_ops.storage.paths import Folder, is_local, show, telling

CHUNK = 1024 * 1024
CREATING = ("s3", "s3a", "memory")  # file systems whose pipe_file knows mode="create"
STALE_SECONDS = 3600.0  # a hidden file nobody has written to for so long belongs to a process that was killed


class AlreadyWrittenError(PlanError):
    """A finished file of that name exists."""


class Sink:
    """Passes bytes on and keeps their number and SHA-256."""

    def __init__(self, path: Folder, handle: IO[bytes]) -> None:
        self._path, self._handle, self._hash = path, handle, hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Write ``data``."""
        with telling(self._path):
            self._handle.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, 64 hex digits."""
        return self._hash.hexdigest()


class Source:
    """Reads bytes and keeps their number and SHA-256."""

    def __init__(self, path: Folder, handle: IO[bytes]) -> None:
        self._path, self._handle, self._hash = path, handle, hashlib.sha256()
        self.bytes = 0

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes; fewer only at the end of the file."""
        parts, wanted = [], size
        while wanted > 0:
            with telling(self._path):
                part: bytes = self._handle.read(min(wanted, CHUNK))  # a buffer of that size is made
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        data = b"".join(parts)
        self._hash.update(data)
        self.bytes += len(data)
        return data

    @property
    def sha256(self) -> str:
        """The digest of what was read so far, 64 hex digits."""
        return self._hash.hexdigest()


@contextlib.contextmanager
def writing(path: Folder, *, overwrite: bool = False) -> Iterator[Sink]:
    """Yield a sink; the file appears when the block ends well, and not at all when it does not.

    Raises:
        AlreadyWrittenError: the file exists and ``overwrite`` is not given.
        StorageDeniedError, StorageFailedError: the store failed.
    """
    with telling(path):
        if not overwrite and path.exists():
            raise _already(path)
    opened = _local(path, overwrite=overwrite) if is_local(path) else _object(path)
    with opened as handle:
        yield Sink(path, handle)


@contextlib.contextmanager
def reading(path: Folder) -> Iterator[Source]:
    """Yield a source for the file."""
    with telling(path):
        handle = path.open("rb")
    with contextlib.closing(handle):
        yield Source(path, handle)


def create(path: Folder, data: bytes) -> None:
    """Write a small file that must not exist; of several writers at once exactly one succeeds.

    An object store decides by ``If-None-Match`` where its driver can send it (s3fs: ``mode="create"``).

    Raises:
        AlreadyWrittenError: it exists.
    """
    if is_local(path) or not _can_create(path):
        with writing(path) as sink:
            sink.write(data)
        return
    with telling(path):
        try:
            path.fs.pipe_file(path.path, data, mode="create")
        except FileExistsError:
            raise _already(path) from None
        except OSError as error:
            if error.errno != errno.EINVAL:  # what s3fs makes of 412 Precondition Failed
                raise
            raise _already(path) from None


def _can_create(path: Folder) -> bool:
    return path.protocol in CREATING


@contextlib.contextmanager
def _local(path: Folder, *, overwrite: bool) -> Iterator[IO[bytes]]:
    final = Path(path.path)
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
    try:
        with telling(path):
            final.parent.mkdir(parents=True, exist_ok=True)
            _sweep(final)
            handle = partial.open("xb")
        try:
            yield handle
            with telling(path):
                handle.flush()
                os.fsync(handle.fileno())
        finally:
            with telling(path):  # on a full disk, closing fails too
                handle.close()
        with telling(path):
            _reveal(path, partial, final, overwrite=overwrite)
    finally:
        with contextlib.suppress(
            OSError
        ):  # what is left is swept later; the error that brought us here is the one to tell
            partial.unlink(missing_ok=True)


def _reveal(path: Folder, partial: Path, final: Path, *, overwrite: bool) -> None:
    """Give the file its name. A hard link fails where a rename would overwrite what another process just finished."""
    if overwrite:
        partial.replace(final)
    else:
        try:
            final.hardlink_to(partial)
        except FileExistsError:
            raise _already(path) from None
        except OSError:  # a file system without hard links
            if final.exists():
                raise _already(path) from None
            partial.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sweep(final: Path) -> None:
    """Remove what killed processes left of this very file."""
    for left in final.parent.iterdir():
        if left.name.startswith(f".{final.name}.") and left.name.endswith(".partial"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()


@contextlib.contextmanager
def _object(path: Folder) -> Iterator[IO[bytes]]:
    """Upload without committing, then commit. fsspec would otherwise commit half a file when a block fails."""
    with telling(path):
        handle = path.fs.open(path.path, "wb", autocommit=False)
    try:
        yield handle
        with telling(path):
            handle.close()
            handle.commit()
    except BaseException:
        with contextlib.suppress(Exception):
            handle.discard()
        with contextlib.suppress(AttributeError):
            handle.closed = True  # or its destructor would upload the rest
        raise


def _already(path: Folder) -> AlreadyWrittenError:
    return AlreadyWrittenError(
        f"{show(path)} is finished already and is not overwritten. Choose another name, or remove it."
    )
