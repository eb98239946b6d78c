"""Where a run's files are in storage, ``health/<day>/<run>/``, and their end: they hold keys of documents, so they are not kept for ever."""

from __future__ import annotations

from datetime import date, timedelta

from mongo_ops.storage import Folder
from mongo_ops.storage.versions import below, remove

FOLDER = "health"


def place(storage: Folder, day: date, run_id: str) -> Folder:
    """Return a run's folder; Airflow's ids hold colons and pluses, which no file name should."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in run_id)
    return storage / FOLDER / day.isoformat() / name


def forget(storage: Folder, today: date, days: int) -> int:
    """Remove the files of runs that are more than ``days`` old, every version of them; return how many files.

    Raises:
        StorageDeniedError, StorageFailedError: the store failed.
    """
    oldest = today - timedelta(days=days)
    old = [one for one in below(storage / FOLDER) if (day := _day(one.path)) is not None and day < oldest]
    return remove(storage, old)


def _day(path: str) -> date | None:
    """Return the day of a run's file: the folder above the run's own."""
    try:
        return date.fromisoformat(path.split("/")[-3])
    except (ValueError, IndexError):
        return None
