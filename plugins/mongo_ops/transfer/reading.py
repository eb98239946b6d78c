"""Read documents from the server as it sends them: streams of concatenated BSON, never decoded.

The fast way sends ``find`` and ``getMore`` as plain commands, cuts the batch out of the reply and turns the array into a stream
with a function of pymongo's that is not public; everything that leans on it is in this file. The plain way makes
an object of each document: for clusters with several routers, and should a later pymongo lack the function.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import bson
from pymongo.errors import PyMongoError

from mongo_ops.storage.load import RAW
from mongo_ops.transfer.raw import ARRAY, DOCUMENT, INT64, elements

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document

BATCH_BYTES = 4 * 1024 * 1024
AHEAD = 2  # batches that are read before they are asked for
Find = Mapping[str, Any]
"""A ``find`` command with its read concern, without ``batchSize``."""

_to_stream: Callable[[bytes], bytes] | None = getattr(bson, "_array_of_documents_to_buffer", None)


def streams(db: Database[Document], find: Find, average: float) -> Iterator[bytes]:
    """Yield batches of about 4 MB (or one document, if larger) as streams of BSON.

    Args:
        db: the database; reads go to its primary.
        find: the command.
        average: a document's average size in bytes.
    """
    size = max(1, min(100_000, int(BATCH_BYTES / max(average, 16))))
    if _to_stream is not None and _one_server(db):
        return fast(db, find, size, _to_stream)
    return plain(db, find, size)


def fast(db: Database[Document], find: Find, size: int, to_stream: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Yield batches by plain commands, for a deployment with one server to ask."""
    name = find["find"]
    with db.client.start_session(causal_consistency=False) as session:
        cursor, array = _cut(_command(db, session, {**find, "batchSize": size}))
        try:
            while True:
                if stream := to_stream(array):
                    yield stream
                if not cursor:
                    return
                more = {"getMore": cursor, "collection": name, "batchSize": size}
                cursor, array = _cut(_command(db, session, more))
        finally:
            if cursor:
                db.command({"killCursors": name, "cursors": [cursor]}, session=session)


def plain(db: Database[Document], find: Find, size: int) -> Iterator[bytes]:
    """Yield batches with public functions of the driver only."""
    with db.client.start_session(causal_consistency=False) as session:
        raw: Any = db.with_options(codec_options=RAW)  # for getMore; the option of the call is for the first batch
        cursor = raw.cursor_command({**find, "batchSize": size}, codec_options=RAW, session=session)
        with closing(cursor):
            batch: list[bytes] = []
            held = 0
            for document in cursor:
                batch.append(document.raw)
                held += len(document.raw)
                if held >= BATCH_BYTES:
                    yield b"".join(batch)
                    batch, held = [], 0
            if batch:
                yield b"".join(batch)


class Ahead:
    """Reads in a thread of its own, at most two batches ahead; what reading raises is raised where the batch is taken.

    A context manager: its end stops the thread and closes the cursor.
    """

    def __init__(self, batches: Iterator[bytes]) -> None:
        self._batches = batches
        self._waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="reading ahead", daemon=True)

    def __enter__(self) -> Iterator[bytes]:
        self._thread.start()
        return iter(self._take())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _take(self) -> Iterator[bytes]:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        try:
            for batch in self._batches:
                if not self._put(batch):
                    break
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is taken
            self._put(error)
        finally:
            close = getattr(self._batches, "close", None)
            if close is not None:
                with contextlib.suppress(PyMongoError):  # the cursor lapses by itself
                    close()

    def _put(self, item: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._waiting.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _command(db: Database[Document], session: ClientSession, command: Mapping[str, Any]) -> bytes:
    reply: Any = db.command(dict(command), codec_options=RAW, session=session)
    return bytes(reply.raw)


def _cut(reply: bytes) -> tuple[int, bytes]:
    """Return the cursor's id (0 at its end) and the BSON array of its batch."""
    cursor, array = 0, b""
    for kind, name, start, stop in elements(reply):
        if kind == DOCUMENT and name == b"cursor":
            inner = reply[start:stop]
            for part, found, begin, end in elements(inner):
                if part == ARRAY and found in (b"firstBatch", b"nextBatch"):
                    array = inner[begin:end]
                elif part == INT64 and found == b"id":
                    cursor = int.from_bytes(inner[begin:end], "little", signed=True)
    return cursor, array


def _one_server(db: Database[Document]) -> bool:
    """Whether every command goes to the same server: a cursor lives on the router that opened it."""
    return db.client.primary is not None
