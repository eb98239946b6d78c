"""Walk the documents of a finished export, a piece per transaction, exactly once: the work on a piece and its checkpoint commit together.

An export's files are read in their order and cut the same way each time. So a retry skips what its checkpoint has behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from mongo_ops import storage
from mongo_ops.mongo.batches import CHECKPOINTS, BudgetSpentError, is_too_much
from mongo_ops.mongo.throttle import LagProbe, hold_back
from mongo_ops.transfer import verify
from mongo_ops.transfer.compression import Reader
from mongo_ops.transfer.export_run import Teller
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.formats.base import Chunk
from mongo_ops.transfer.manifest import ManifestModel, PartModel
from mongo_ops.transfer.place import below

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.lease import Lease
    from mongo_ops.partitions.work import Work
    from mongo_ops.storage import Folder

Treat = Callable[["ClientSession", Sequence[bytes]], Mapping[str, int]]
"""The work on some documents (BSON) inside a transaction: returns what it did, by name. May be called again."""
PIECE = 1000


@dataclass(frozen=True)
class FileWalk:
    """A walk through one collection of an export. ``id`` names its checkpoints: one walk, whichever process goes on with it."""

    work: Work
    lease: Lease
    folder: Folder
    id: str

    def run(self, found: ManifestModel, collection: str, treat: Treat) -> Counter[str]:
        """Treat every document and return the totals, earlier tries included.

        Raises:
            ExportCorruptError: a file is not what was written; nothing of it was treated.
            BudgetSpentError: run again.
            LeaseLostError: another process took over.
        """
        total: Counter[str] = Counter()
        pace = _Pace(self.work, self.lease)
        for number, part in enumerate(found.collection(collection).parts):
            total += self._part(found, number, part, treat, pace)
        return total

    def _part(self, found: ManifestModel, number: int, part: PartModel, treat: Treat, pace: _Pace) -> Counter[str]:
        key = f"{self.id}/{number:05d}"
        point = self.work.db[CHECKPOINTS].find_one({"_id": key}) or _start(key)
        if point["finished"]:
            return Counter(point["counts"])
        verify.check_bytes(self.folder, part.file, part.bytes, part.sha256)
        teller = Teller(f"{self.id} {part.file}", part.content.count, self.work.report)
        for chunk in self._chunks(found, part):
            if chunk.number < point["chunk"]:
                continue
            pace.wait(teller, point["done"])
            point = self._chunk(chunk, point, treat)
            teller.tell(point["done"])
        point = self._moved(point, {"finished": True}, None)
        teller.tell(point["done"], last=True)
        return Counter(point["counts"])

    def _chunks(self, found: ManifestModel, part: PartModel) -> Iterator[Chunk]:
        with storage.reading(below(self.folder, part.file)) as source:
            reader = Reader(source, found.compression, part.file, part.content.bytes)
            yield from registry.decoder(found.file_format, (), strict=False)(reader, part.file)

    def _chunk(self, chunk: Chunk, point: dict[str, Any], treat: Treat) -> dict[str, Any]:
        """Treat what is left of a chunk, in pieces; a piece that does not commit at its size is halved."""
        start = point["within"] if point["chunk"] == chunk.number else 0
        size = PIECE
        while start < len(chunk.documents):
            some = chunk.documents[start : start + size]
            after = {"chunk": chunk.number, "within": start + len(some), "done": point["done"] + len(some)}
            try:
                point = self._moved(point, after, lambda session, some=some: treat(session, some))  # type: ignore[misc]
            except PyMongoError as error:
                if size == 1 or not is_too_much(error):
                    raise
                size //= 2
                continue
            start += len(some)
        return point

    def _moved(
        self, point: dict[str, Any], after: Mapping[str, Any], act: Callable[[ClientSession], Mapping[str, int]] | None
    ) -> dict[str, Any]:
        def body(session: ClientSession) -> dict[str, Any]:
            counts = Counter(point["counts"])
            counts.update(act(session) if act is not None else {})
            saved = {**point, **after, "counts": dict(counts), "epoch": self.lease.epoch}
            self.work.db[CHECKPOINTS].replace_one({"_id": point["_id"]}, saved, upsert=True, session=session)
            return saved

        return self.lease.transaction(body)


def _start(key: str) -> dict[str, Any]:
    return {"_id": key, "chunk": 0, "within": 0, "done": 0, "counts": {}, "finished": False}


class _Pace:
    """Holds back while the secondaries are behind, and ends a try whose time is used up."""

    def __init__(self, work: Work, lease: Lease) -> None:
        self._limits, self._lease = work.limits, lease
        self._probe = LagProbe(work.db.client)
        self._began = work.clock()
        self._clock = work.clock

    def wait(self, teller: Teller, done: int) -> None:
        """Wait while there is a reason to."""
        self._check(done)
        hold_back(self._probe, self._limits, lambda: self._check(done), lambda reason: teller.wait(done, reason))

    def _check(self, done: int) -> None:
        budget = self._limits.budget
        if budget is not None and self._clock() - self._began > budget:
            raise BudgetSpentError(
                f"The time budget of {budget:g} s is spent after {done:,} documents of this file. Run again to go on from there."
            )
        self._lease.check()
