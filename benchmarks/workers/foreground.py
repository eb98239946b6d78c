"""A collection's everyday traffic in a process of its own: reads and majority writes by key at a steady pace, each one timed.

``python foreground.py URI DATABASE COLLECTION KEYS THREADS PAUSE``. Reads ``begin`` (forget what was timed) and ``end`` (answers
``{"operations": ..., "p50": ..., "p99": ..., "worst": ..., "refused": ...}``, milliseconds) until its input ends. A write that a fence
refuses is sent again until it is taken; the time from its first refusal is ``refused``, not part of any latency.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

import pymongo
from pymongo.errors import OperationFailure

FENCED = frozenset({13, 166, 371})


class Traffic:
    """Threads that read and write, and what they timed."""

    def __init__(self, collection: Any, keys: int, pause: float) -> None:
        self._collection, self._keys, self._pause = collection, keys, pause
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self._refused = 0.0

    def run(self) -> None:
        """Read or write, and rest, for ever."""
        while True:
            self._one(random.randrange(self._keys))
            time.sleep(self._pause)

    def _one(self, key: int) -> None:
        began, refused = time.perf_counter(), None
        writes = random.random() < 0.5  # noqa: PLR2004 - half and half
        while True:
            try:
                if writes:
                    self._collection.update_one({"_id": key}, {"$set": {"ms": random.randrange(300_000)}})
                else:
                    self._collection.find_one({"_id": key})
                break
            except OperationFailure as error:
                if error.code not in FENCED:
                    raise
                refused = refused or time.perf_counter()
                time.sleep(0.0005)
        ended = time.perf_counter()
        with self._lock:
            if refused is None:
                self._seconds.append(ended - began)
            else:
                self._refused = max(self._refused, ended - refused)

    def begin(self) -> None:
        """Forget what was timed."""
        with self._lock:
            self._seconds, self._refused = [], 0.0

    def end(self) -> dict[str, float]:
        """Return what was timed since."""
        with self._lock:
            seconds, refused = sorted(self._seconds), self._refused
        at = {name: seconds[int(share * (len(seconds) - 1))] for name, share in (("p50", 0.5), ("p99", 0.99))}
        at |= {"worst": seconds[-1], "refused": refused}
        return {"operations": len(seconds), **{name: 1000 * value for name, value in at.items()}}


def main() -> None:
    """Serve until the input ends."""
    uri, database, name, keys, threads, pause = sys.argv[1:]
    client: Any = pymongo.MongoClient(uri)
    traffic = Traffic(client[database][name], int(keys), float(pause))
    for _ in range(int(threads)):
        threading.Thread(target=traffic.run, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "begin":
            traffic.begin()
        else:
            print(json.dumps(traffic.end()), flush=True)


if __name__ == "__main__":
    main()
