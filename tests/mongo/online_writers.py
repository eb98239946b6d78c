"""Foreground writers with a ledger: what they were told is written must be there in the end, and nothing else."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern


class Writers:
    """Threads that insert, update and delete documents {_id, ms, n}; each key belongs to one thread.

    A write that fails is repeated until it succeeds, so that the ledger is certain. ``shape`` makes the fields of a value.
    """

    def __init__(self, uri: str, database: str, collection: str, seed: int = 1, threads: int = 2, keys: int = 1500):
        self._uri, self._database, self._collection = uri, database, collection
        self._stop = threading.Event()
        self._ledgers: list[dict[int, int | None]] = [{} for _ in range(threads)]
        self.failures: list[int] = [0] * threads
        self.writes: list[int] = [0] * threads
        self._keys = keys
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True) for number in range(threads)
        ]
        self.field, self.factor = "ms", 1000

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    @property
    def ledger(self) -> dict[int, int | None]:
        """The last acknowledged value of each key that was written; None for deleted."""
        return {key: value for one in self._ledgers for key, value in one.items()}

    def _run(self, number: int, seed: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        with MongoClient(self._uri, retryWrites=True) as client:
            collection = client[self._database].get_collection(self._collection, write_concern=WriteConcern("majority"))
            while not self._stop.is_set():
                key = dice.randrange(self._keys) * len(self._threads) + number
                value = None if dice.random() < 0.3 else dice.randrange(1_000_000)
                self._until_written(collection, number, key, value)
                self._ledgers[number][key] = value
                self.writes[number] += 1

    def _until_written(self, collection: Any, number: int, key: int, value: int | None) -> None:
        while True:
            with contextlib.suppress(PyMongoError):
                if value is None:
                    collection.delete_one({"_id": key})
                else:
                    collection.update_one({"_id": key}, {"$set": {self.field: value * self.factor}}, upsert=True)
                return
            self.failures[number] += 1
            self._stop.wait(0.002)


def wrong(db: Any, collection: str, ledger: dict[int, int | None], start: dict[int, int], field: str, factor: int):
    """The keys whose document is not what was last acknowledged (or was there at the start, when nobody wrote it)."""
    expected = {**start, **ledger}
    found = {row["_id"]: row.get(field) for row in db[collection].find({}, {field: 1})}
    keys = expected.keys() | found.keys()
    return {
        key: (expected.get(key), found.get(key))
        for key in keys
        if (None if expected.get(key) is None else expected[key] * factor) != found.get(key)
    }
