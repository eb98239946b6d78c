"""The change stream of the database, narrowed to the collections of one migration. Yields keys, never documents.

A stream of the whole database outlives renames of its collections. Its place is a token of the server, which is stored as it is.
A mark is a write of ours to ``ops_online_marks`` that comes back in the stream: everything written before it has been seen by then.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import bson
from bson import Timestamp
from pymongo.errors import OperationFailure

from mongo_ops.mongo.documents import CODEC
from mongo_ops.online import names
from mongo_ops.online.errors import TokenExpiredError

if TYPE_CHECKING:
    from types import TracebackType

    from pymongo.change_stream import DatabaseChangeStream

    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.work import Work

CHANGES = ("insert", "update", "replace", "delete")
DEFINITIONS = ("drop", "rename", "dropDatabase", "invalidate")
ENDING = ("dropDatabase", "invalidate")
LOST = frozenset({136, 222, 260, 280, 286})
"""CappedPositionLost, CloseChangeStream, InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost."""
BATCH = 1000
AWAIT_MS = 100
PASSED = 10


def key_bytes(key: Any) -> bytes:
    """Return a key as bytes, so that keys of any type can be told apart."""
    return bson.encode({"": key}, codec_options=CODEC)


@dataclass(frozen=True)
class Seen:
    """What was read: the keys that changed by collection, each once and in order of first mention, and where the stream is now.

    ``reached`` says whether the mark was seen, ``events`` how many changes there were, ``defined`` which collections were
    dropped or renamed.
    """

    changed: Mapping[str, tuple[Any, ...]]
    token: Mapping[str, Any]
    at: Timestamp | None
    reached: bool
    events: int
    defined: tuple[str, ...]
    idle: bool


class Stream:
    """An open stream. Use it as a context manager. ``place`` is the token behind what was read last.

    Without ``own``, what this process has written in place itself is passed over.
    """

    def __init__(
        self, work: Work, collections: Sequence[str], token: Mapping[str, Any] | None, *, own: bool = True
    ) -> None:
        self._own = own
        self._work, self._collections = work, tuple(collections)
        self._token: Mapping[str, Any] | None = token
        self.place: Mapping[str, Any] = token or {}
        self._cursor: DatabaseChangeStream[Document] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cursor is not None:
            self._cursor.close()

    def begin(self) -> Mapping[str, Any]:
        """Return the token of this moment, of a stream that has none yet."""
        try:
            cursor = self._open()
            while cursor.resume_token is None:
                cursor.try_next()
        except OperationFailure as error:
            raise self._lost(error) from None
        return dict(cursor.resume_token)

    def read(self, *, mark: str | None = None, most: int = BATCH, seconds: float = 1.0) -> Seen:
        """Read until ``most`` changes, the mark, or the time is over; without a mark until nothing more is there.

        Raises:
            TokenExpiredError: the server cannot go on from the token.
        """
        try:
            return self._read(mark, most, seconds)
        except OperationFailure as error:
            raise self._lost(error) from None

    def _read(self, mark: str | None, most: int, seconds: float) -> Seen:
        cursor, ends = self._open(), time.monotonic() + seconds
        changed: dict[str, dict[bytes, Any]] = {}
        defined: list[str] = []
        events, passed, at, reached, idle = 0, 0, None, False, False
        while events < most and passed < PASSED * most and not reached:
            event = cursor.try_next()
            if event is None:
                idle = True
                if mark is None or time.monotonic() >= ends:
                    break
                continue
            at, kind = event.get("clusterTime"), event["operationType"]
            if kind in DEFINITIONS:
                defined.append(event.get("ns", {}).get("coll", ""))
                if kind in ENDING:
                    break
            elif event["ns"]["coll"] == names.MARKS:
                reached = mark is not None and event.get("fullDocument", {}).get("ops_mark") == mark
            elif not self._own and self._work.own.made(event):
                passed += 1
            else:
                key, events = event["documentKey"]["_id"], events + 1
                changed.setdefault(event["ns"]["coll"], {}).setdefault(key_bytes(key), key)
        token = self.place = dict(cursor.resume_token or self.place)
        found = {name: tuple(keys.values()) for name, keys in changed.items()}
        return Seen(found, token, at, reached, events, tuple(defined), idle)

    def _open(self) -> DatabaseChangeStream[Document]:
        if self._cursor is None:
            self._cursor = self._work.db.watch(
                self._pipeline(), resume_after=self._token, max_await_time_ms=AWAIT_MS, batch_size=BATCH,
                session=self._work.session,
            )  # fmt: skip
        return self._cursor

    def _pipeline(self) -> list[Document]:
        ours = {"ns.coll": {"$in": list(self._collections)}, "operationType": {"$in": [*CHANGES, *DEFINITIONS]}}
        marks = {"ns.coll": names.MARKS, "documentKey._id": self._work.name}
        fields = {"operationType": 1, "ns.coll": 1, "documentKey": 1, "clusterTime": 1, "fullDocument.ops_mark": 1}
        fields |= {} if self._own else {"lsid.id": 1, "txnNumber": 1}
        whole = {"operationType": {"$in": list(ENDING)}}
        # Own writes are passed over here, not there: of filters by lsid and txnNumber, 6.0 fails to optimize some (code 2).
        return [{"$match": {"$or": [ours, marks, whole]}}, {"$project": fields}]

    def _lost(self, error: OperationFailure) -> Exception:
        if error.code in LOST or error.has_error_label("NonResumableChangeStreamError"):
            return TokenExpiredError(
                f"{self._work.name} cannot go on: the oplog no longer holds what the change stream has to read next (code {error.code}). "
                "Nothing was skipped. Give it up with `mongo-ops online abort`, make the oplog larger, start again."
            )
        return error


def mark(work: Work) -> str:
    """Write a mark and return it."""
    made = uuid.uuid4().hex
    work.lease.transaction(
        lambda session: work.db[names.MARKS].replace_one(
            {"_id": work.name}, {"ops_mark": made}, upsert=True, session=session
        )
    )
    return made
