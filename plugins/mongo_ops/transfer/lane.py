"""One of several writers of a part: each chunk's documents and the checkpoint behind them commit together, under a lease.

Chunk ``n`` of a file always belongs to lane ``n % lanes``, and chunks are cut the same way each time. So a retry reads the file
from its beginning, skips the chunks that a lane's checkpoint has behind it, and goes on; nothing is doubled or missed. Where the
server has no transactions (time series, capped collections) documents get an ``_id`` made from their place in the file, and the
first write of a retry leaves out what is there already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import bson
from pymongo.errors import OperationFailure

from mongo_ops.mongo import faults
from mongo_ops.mongo.batches import CHECKPOINTS, TOO_MUCH, TOO_MUCH_NAMES
from mongo_ops.mongo.documents import CODEC
from mongo_ops.transfer import content, rejects, writes
from mongo_ops.transfer.formats.base import Chunk, Reject
from mongo_ops.transfer.import_model import ImportPart, ImportRequest, Tally
from mongo_ops.transfer.place import PlanChangedError
from mongo_ops.transfer.raw import value, with_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.lease import Lease

NOT_ENTERED = -1  # of a chunk: its rows that are no documents are not noted yet
Refuse = Callable[[bytes], bool]
"""A tombstone's question: must this document (BSON) stay out?"""


class _BadRowError(Exception):
    """One document of a chunk is refused. Never leaves this module."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(at)
        self.at, self.reason = at, reason


def checkpoint_id(run_id: str, part: int, lane: int) -> str:
    """Return the name of a lane's lease and checkpoint."""
    return f"transfer/{run_id}/{part:05d}/{lane:02d}"


@dataclass
class Lane:
    """Writes its chunks of one part. ``time_field`` is set for a time series, ``transactional`` is not for it and capped ones.

    ``source`` tells a file from one that took its place, where no manifest says its digest.
    """

    lease: Lease
    run_id: str
    plan_digest: str
    part: ImportPart
    request: ImportRequest
    uuid: str | None
    transactional: bool = True
    time_field: str | None = None
    refuse: Refuse | None = None
    source: str | None = None
    chunk: int = field(default=0, init=False)
    within: int = field(default=NOT_ENTERED, init=False)
    tally: Tally = field(default_factory=Tally, init=False)
    finished: bool = field(default=False, init=False)
    _in_doubt: bool = field(default=True, init=False)

    def open(self) -> None:
        """Read the checkpoint, or make it.

        Raises:
            PlanChangedError: the run began with another plan, or the collection was dropped since.
            TooManyRejectsError: an earlier try rejected more than the run allows.
        """
        found = self.lease.db[CHECKPOINTS].find_one({"_id": self.lease.resource})
        if found is None:
            self._move(self.chunk, self.within, self.tally)
            return
        if found["source"] != self.source:
            raise PlanChangedError(
                f"{self.part.file} is not the file any more that run {self.run_id} began to load. Which rows of it are loaded cannot be "
                "said; look, then start a new run."
            )
        if (found["plan_digest"], found["uuid"]) != (self.plan_digest, self.uuid):
            raise PlanChangedError(
                f"Run {self.run_id} began to load {self.part.collection} with another plan, or the collection was dropped and "
                "made again since. Start a new run."
            )
        self.chunk, self.within = found["chunk"], found["within"]
        self.tally, self.finished = Tally.of(found["tally"]), found["finished"]
        if self.tally.rejected:  # an earlier try may have ended for that
            rejects.insist_on_limits(self.lease.db, self.run_id, self.request, self.tally.rejected, self.tally.rows)

    def wants(self, chunk: Chunk) -> bool:
        """Whether anything of a chunk of this lane is left to do."""
        begun = chunk.number == self.chunk and self.within < len(chunk.documents)
        return not self.finished and (begun or chunk.number > self.chunk)

    def write(self, chunk: Chunk) -> None:
        """Write a chunk; what is done of it already is left out.

        Raises:
            RowRefusedError, TooManyRejectsError: the run stops here.
            LeaseLostError: another process took over; nothing more was written.
            PyMongoError: the server went away, or refuses everything.
        """
        if not self.wants(chunk):
            return
        if chunk.number > self.chunk:
            self.chunk, self.within = chunk.number, NOT_ENTERED
        if self.within == NOT_ENTERED:
            self._reject(chunk.rejects, 0)
        pieces = [(self.within, len(chunk.documents))]
        while pieces:
            start, stop = pieces.pop()
            if start < stop:
                pieces += self._piece(chunk, start, stop)

    def finish(self) -> None:
        """Note that the file has no more chunks for this lane."""
        if not self.finished:
            self.finished = True
            self._move(self.chunk, self.within, self.tally)

    def _piece(self, chunk: Chunk, start: int, stop: int) -> list[tuple[int, int]]:
        """Write some documents of a chunk; return the pieces to try next, the nearest last, when one is in the way."""
        try:
            (self._commit if self.transactional else self._commit_plainly)(chunk, start, stop)
        except _BadRowError as bad:
            if self.within < bad.at:  # a transaction took back what was before it
                return [(bad.at, stop), (start, bad.at)]
            self._reject([Reject(*chunk.places[bad.at], bad.reason)], bad.at + 1)
            return [(bad.at + 1, stop)]
        except OperationFailure as error:
            size = error.code in TOO_MUCH or (error.details or {}).get("codeName") in TOO_MUCH_NAMES
            if (faults.may_pass(error) and not size) or error.code == faults.UNAUTHORIZED:
                raise
            if stop - start > 1:  # the whole command was refused; which document it was is found by halves
                middle = (start + stop) // 2
                return [(middle, stop), (start, middle)]
            self._reject([Reject(*chunk.places[start], faults.describe(error))], stop)
        return []

    def _commit(self, chunk: Chunk, start: int, stop: int) -> None:
        """Write documents and checkpoint in one transaction."""
        places = self._wanted(chunk.documents, start, stop)
        kept = [chunk.documents[at] for at in places]
        sent = Tally(erased=stop - start - len(kept), content=content.of_documents(kept))

        def body(session: ClientSession) -> Tally:
            done = self.tally + sent
            if kept:
                reply = self.lease.db.command(writes.command(self.part.collection, self.request, kept), session=session)
                done += writes.tally(self.request, len(kept), reply)
            self._save(session, chunk.number, stop, done)
            return done

        try:
            self.tally = self.lease.transaction(body)
        except writes.RefusedError as error:
            raise _BadRowError(places[error.index], error.reason) from None
        self.within = stop

    def _commit_plainly(self, chunk: Chunk, start: int, stop: int) -> None:
        """Write without a transaction: documents first, the checkpoint behind them."""
        places = self._wanted(chunk.documents, start, stop)
        kept = [self._identified(chunk, at) for at in places]
        present = self._present(kept) if self._in_doubt else set()
        fresh = [at for at, one in zip(places, kept, strict=True) if _id_bytes(one) not in present]
        self.lease.check()
        refused = None
        if fresh:
            documents = [self._identified(chunk, at) for at in fresh]
            try:
                command = writes.command(self.part.collection, self.request, documents)
                writes.tally(
                    self.request, len(documents), self.lease.db.command(command, writeConcern={"w": "majority"})
                )
            except writes.RefusedError as error:
                refused = _BadRowError(fresh[error.index], error.reason)
        reached = stop if refused is None else refused.at
        done = [one for at, one in zip(places, kept, strict=True) if at < reached]
        erased = reached - start - len(done)
        total = self.tally + Tally(inserted=len(done), erased=erased, content=content.of_documents(done))
        self._move(chunk.number, reached, total)
        self.tally, self.within, self._in_doubt = total, reached, False
        if refused is not None:
            raise refused

    def _wanted(self, documents: list[bytes], start: int, stop: int) -> list[int]:
        """Return the places of the documents that no tombstone keeps out."""
        if self.refuse is None:
            return list(range(start, stop))
        return [at for at in range(start, stop) if not self.refuse(documents[at])]

    def _identified(self, chunk: Chunk, at: int) -> bytes:
        document = chunk.documents[at]
        if value(document, b"_id") is not None:
            return document
        seed = f"{self.run_id}/{self.part.number}/{chunk.places[at][0]}"
        return with_id(document, hashlib.sha256(seed.encode()).digest()[:12])

    def _present(self, documents: list[bytes]) -> set[bytes]:
        """Return the ``_id`` of those that a killed try wrote."""
        decoded = [bson.decode(one, CODEC) for one in documents]
        query: Document = {"_id": {"$in": [one["_id"] for one in decoded]}}
        if self.time_field is not None:
            times = [one[self.time_field] for one in decoded if self.time_field in one]
            query[self.time_field] = {"$gte": min(times), "$lte": max(times)} if times else {"$exists": False}
        found = self.lease.db[self.part.collection].find(query, {"_id": 1})
        return {bson.encode({"_id": row["_id"]}, codec_options=CODEC) for row in found}

    def _reject(self, found: list[Reject], within: int) -> None:
        """Note rejected rows and move the checkpoint past them, in one transaction."""
        if found and self.request.on_error == "stop":
            raise rejects.stop_at(self.part, found[0])
        done = self.tally + Tally(rejected=len(found))

        def body(session: ClientSession) -> None:
            rejects.keep(self.lease.db, session, self.run_id, self.part, found)
            self._save(session, self.chunk, within, done)

        if found:
            self.lease.transaction(body)
        self.tally, self.within = done, within
        if found:
            rejects.insist_on_limits(self.lease.db, self.run_id, self.request, done.rejected, done.rows)

    def _move(self, chunk: int, within: int, tally: Tally) -> None:
        self.lease.transaction(lambda session: self._save(session, chunk, within, tally))

    def _save(self, session: ClientSession, chunk: int, within: int, tally: Tally) -> None:
        point = {
            "_id": self.lease.resource,
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "source": self.source,
            "uuid": self.uuid,
            "collection": self.part.collection,
            "chunk": chunk,
            "within": within,
            "tally": tally.as_value(),
            "finished": self.finished,
            "epoch": self.lease.epoch,
        }
        self.lease.db[CHECKPOINTS].replace_one({"_id": self.lease.resource}, point, upsert=True, session=session)


def _id_bytes(document: bytes) -> bytes:
    return bson.encode({"_id": bson.decode(document, CODEC)["_id"]}, codec_options=CODEC)
