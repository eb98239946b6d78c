"""Tombstones: what was erased, as keyed hashes outside of the database, so that what a restore brings back is erased again.

Files of JSON lines in object storage, each written whole and never changed. They hold no identifier; whoever lacks the tombstone key
can neither make nor read one. Kept as long as the oldest backup, then ``expire`` removes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from mongo_ops.erasure.keys import Keyring
from mongo_ops.erasure.references import TOMBSTONE_BYTES, tombstone_hash
from mongo_ops.errors import PlanError
from mongo_ops.storage import AlreadyWrittenError, Folder, reading, writing
from mongo_ops.storage.paths import show, telling

PLACE = ("erasure", "tombstones")
FORMAT, VERSION = "mongo-ops tombstones", 1
LINES_PER_FILE = 10_000
SUFFIX = ".jsonl"
_FIRST = 2  # bytes of a hash that choose its drawer
_REST, _NUMBER = TOMBSTONE_BYTES - _FIRST, 4


class TombstonesDamagedError(PlanError):
    """A file of tombstones is not what was written."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One erased value. ``hash`` is from ``references.tombstone_hash``: ``th<epoch>_<32 hexadecimal digits>``."""

    hash: str
    identifier: str
    subject_ref: str
    request_id: str
    erased_at: datetime


class Tombstones:
    """Erased values, in memory: about 40 bytes each (2.1 million: 82 MB), and a reference per person."""

    def __init__(self) -> None:
        self._drawers: dict[tuple[int, bytes], bytearray] = {}
        self._people: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self.epochs: set[int] = set()

    def __len__(self) -> int:
        return sum(len(drawer) for drawer in self._drawers.values()) // (_REST + _NUMBER)

    def add(self, hash: str, subject_ref: str, request_id: str) -> None:
        """Add one; a second time changes nothing."""
        epoch, key = _split(hash)
        if self._find(epoch, key) is not None:
            return
        person = (subject_ref, request_id)
        number = self._numbers.setdefault(person, len(self._people))
        if number == len(self._people):
            self._people.append(person)
        self._drawers.setdefault((epoch, key[:_FIRST]), bytearray()).extend(
            key[_FIRST:] + number.to_bytes(_NUMBER, "big")
        )
        self.epochs.add(epoch)

    def hit(self, keyring: Keyring, identifier: str, value: Any) -> str | None:
        """Return the reference of the person whose value it was, or None when it was never erased.

        Args:
            keyring: needs `tombstone`, with the keys of all ``epochs``.
            identifier: the identifier's name in the data map.
            value: a value from the database; compared in exactly this form.

        Raises:
            KeyMissingError: the key of an epoch is gone, so nobody can tell whether the value was erased.
        """
        found = self.request_of(keyring, identifier, value)
        return found[0] if found else None

    def request_of(self, keyring: Keyring, identifier: str, value: Any) -> tuple[str, str] | None:
        """Return (reference, request id) of the erasure that took the value, or None."""
        for epoch in sorted(self.epochs, reverse=True):
            number = self._find(*_split(tombstone_hash(keyring, identifier, value, epoch=epoch)))
            if number is not None:
                return self._people[number]
        return None

    def _find(self, epoch: int, key: bytes) -> int | None:
        drawer = self._drawers.get((epoch, key[:_FIRST]))
        if drawer is None:
            return None
        at = drawer.find(key[_FIRST:])
        while at >= 0 and at % (_REST + _NUMBER):  # by chance across two entries
            at = drawer.find(key[_FIRST:], at + 1)
        return None if at < 0 else int.from_bytes(drawer[at + _REST : at + _REST + _NUMBER], "big")


def at(storage: Folder) -> Folder:
    """Return the folder of the tombstones in an environment's storage."""
    return storage / PLACE[0] / PLACE[1]


def write(folder: Folder, run_id: str, lines: Iterable[Tombstone]) -> int:
    """Write a run's tombstones, in files of up to 10,000, and return how many there are. To write the same again changes nothing.

    Write them before the data goes: a tombstone too many erases nothing that is not there, one too few lets a restore bring it back.

    Args:
        folder: from ``at``.
        run_id: the run, for the files' names.
        lines: in an order that a retry repeats.

    Raises:
        StorageDeniedError, StorageFailedError: the store failed.
    """
    source, written = iter(lines), 0
    while some := list(islice(source, LINES_PER_FILE)):
        _write_file(folder, run_id, some)
        written += len(some)
    return written


def load(folder: Folder) -> Tombstones:
    """Read all tombstones, each file checked against its digest.

    Raises:
        TombstonesDamagedError: a file was cut or changed.
        StorageDeniedError, StorageFailedError: the store failed.
    """
    found = Tombstones()
    for path in _files(folder):
        for line in _read_file(path)[1]:
            found.add(line["hash"], line["subject_ref"], line["request_id"])
    return found


def expire(folder: Folder, before: datetime) -> int:
    """Remove the files whose tombstones are all older; return how many files. For when no backup is that old any more."""
    removed = 0
    for path in _files(folder):
        if datetime.fromisoformat(_read_file(path)[0]["newest"]) < before:
            with telling(path):
                path.fs.rm(path.path)
            removed += 1
    return removed


def _write_file(folder: Folder, run_id: str, some: Sequence[Tombstone]) -> None:
    identity = sorted((one.hash, one.identifier, one.subject_ref, one.request_id) for one in some)
    name = f"{_hex(run_id)[:16]}-{_hex(json.dumps(identity))[:32]}{SUFFIX}"
    body = "".join(f"{json.dumps(_line(one))}\n" for one in some)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "run_id": run_id,
        "count": len(some),
        "newest": max(one.erased_at for one in some).isoformat(),
        "sha256": _hex(body),
    }
    try:
        with writing(folder / name) as sink:
            sink.write(f"{json.dumps(head)}\n{body}".encode())
    except AlreadyWrittenError:  # by a try that was killed afterwards; the name says that it holds the same
        return


def _line(one: Tombstone) -> Mapping[str, str]:
    return {
        "hash": one.hash,
        "identifier": one.identifier,
        "subject_ref": one.subject_ref,
        "request_id": one.request_id,
        "erased_at": one.erased_at.isoformat(),
    }


def _read_file(path: Folder) -> tuple[Mapping[str, Any], list[Mapping[str, str]]]:
    with reading(path) as source:
        content = bytearray()
        while part := source.read(1024 * 1024):
            content += part
    head_line, _, body = bytes(content).partition(b"\n")
    try:
        head = json.loads(head_line)
        known = head["format"] == FORMAT and head["version"] == VERSION
        lines = [json.loads(line) for line in body.splitlines()]
        whole = known and head["sha256"] == hashlib.sha256(body).hexdigest() and head["count"] == len(lines)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise TombstonesDamagedError(
            f"{show(path)} is not what was written: it was cut or changed. Restore that file from a copy of the storage; without it a "
            "restored backup could bring erased people back unnoticed."
        )
    return head, lines


def _files(folder: Folder) -> Iterator[Folder]:
    with telling(folder):
        folder.fs.invalidate_cache(folder.path)
        paths = sorted(folder.fs.find(folder.path)) if folder.exists() else []
    for path in paths:
        name = path.rpartition("/")[2]
        if name.endswith(SUFFIX) and not name.startswith("."):
            yield folder / name


def _split(hash: str) -> tuple[int, bytes]:
    epoch, _, text = hash.removeprefix("th").partition("_")
    return int(epoch), bytes.fromhex(text)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
