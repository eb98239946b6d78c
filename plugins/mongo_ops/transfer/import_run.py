"""Load one file: one reader, several lanes that write."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mongo_ops import storage
from mongo_ops.mongo import lease as leases
from mongo_ops.mongo.batches import Reporter
from mongo_ops.mongo.lease import Holder
from mongo_ops.storage import Folder
from mongo_ops.transfer import catalogue, place, sources, verify
from mongo_ops.transfer.compression import Reader
from mongo_ops.transfer.export_run import Teller
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.formats.base import Chunk
from mongo_ops.transfer.import_model import ImportPart, ImportPlan, ImportTarget, Tally
from mongo_ops.transfer.lane import Lane, Refuse, checkpoint_id
from mongo_ops.transfer.pace import Pace

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

WAITING = 1  # chunks that may wait for each lane; one may hold a document of 16 MB on top of its 4


def prepare(target: Target, plan: ImportPlan, part: ImportPart) -> ImportTarget:
    """Make the part's collection if it is not there, with its indexes if they come first."""
    loading = plan.target(part.collection)
    catalogue.create(target.db, loading)
    if plan.request.indexes == "before":
        catalogue.build_indexes(target.db, loading)
    return loading


def load_part(
    target: Target,
    folder: Folder,
    plan: ImportPlan,
    part: ImportPart,
    run_id: str,
    report: Reporter,
    refuse: Refuse | None,
) -> Tally:
    """Load a file, going on where an earlier try of the run stopped; return what all tries did.

    Raises:
        ExportCorruptError: the file is not what the manifest says; nothing of it was loaded.
        BrokenFileError, CompressionError: the file cannot be read to its end.
        RowRefusedError, TooManyRejectsError: bad rows.
        LeaseHeldError, LeaseLostError: another run or process is at it.
        BudgetSpentError: the environment's time budget is used up; run again.
    """
    loading = prepare(target, plan, part)
    with ExitStack() as stack:
        if plan.request.adds_by_key and not catalogue.is_unique(target.db, part.collection, plan.request.keys):
            alone = f"transfer/{part.collection}"  # two writers at once would both find nothing, and both add
            holder = Holder(checkpoint_id(run_id, part.number, 0))
            stack.enter_context(leases.acquire(target.db, alone, holder, ttl=target.environment.lease_ttl))
        mark = None if part.sha256 is not None else sources.mark(place.below(folder, part.file))
        lanes = [
            _lane(target, plan, part, loading, run_id, number, refuse, mark, stack)
            for number in range(_count(plan, loading))
        ]
        if not all(lane.finished for lane in lanes):
            if part.sha256 is not None:
                verify.check_bytes(folder, part.file, part.bytes or 0, part.sha256)
            step = f"{part.collection} {part.file}"
            teller = Teller(step, part.count or 0, report)
            pace = Pace(target, step, lanes, lambda reason: teller.wait(_rows(lanes), reason))
            with storage.reading(place.below(folder, part.file)) as source:
                reader = Reader(source, part.compression, part.file, part.content_bytes)
                decoder = registry.decoder(part.format, part.columns, strict=part.sha256 is None)
                _distribute(pace.let(decoder(reader, part.file)), lanes, teller)
            pace.insist_on_end()
            for lane in lanes:
                lane.finish()
        return sum((lane.tally for lane in lanes), Tally())


def _count(plan: ImportPlan, loading: ImportTarget) -> int:
    """Return how many: one where the order of rows matters, since of two with the same key the last one stands."""
    return plan.request.lanes if loading.kind == "collection" and plan.request.mode == "insert" else 1


def _lane(
    target: Target,
    plan: ImportPlan,
    part: ImportPart,
    loading: ImportTarget,
    run_id: str,
    number: int,
    refuse: Refuse | None,
    source: str | None,
    stack: ExitStack,
) -> Lane:
    resource = checkpoint_id(run_id, part.number, number)
    lease = stack.enter_context(leases.acquire(target.db, resource, Holder(run_id), ttl=target.environment.lease_ttl))
    lane = Lane(
        lease=lease,
        run_id=run_id,
        plan_digest=plan.digest,
        part=part,
        request=plan.request,
        uuid=catalogue.uuid_of(target.db, part.collection),
        transactional=loading.kind == "collection",
        time_field=loading.options.get("timeseries", {}).get("timeField"),
        refuse=refuse,
        source=source,
    )
    lane.open()
    return lane


def _distribute(chunks: Iterator[Chunk], lanes: Sequence[Lane], teller: Teller) -> None:
    """Give each lane its chunks. The first error of any lane ends it all and is raised."""
    if len(lanes) == 1:
        for chunk in chunks:
            lanes[0].write(chunk)
            teller.tell(lanes[0].tally.rows)
        return
    with _threads(lanes) as crew:
        for chunk in chunks:
            crew.give(chunk)
            teller.tell(_rows(lanes))
    teller.tell(_rows(lanes), last=True)


def _rows(lanes: Sequence[Lane]) -> int:
    return sum(lane.tally.rows for lane in lanes)


class _Crew:
    """Lanes in threads, each with a short queue."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.queues: list[queue.Queue[Chunk | None]] = [queue.Queue(maxsize=WAITING) for _ in lanes]
        self.error: BaseException | None = None
        self.threads = [
            threading.Thread(target=self._work, args=pair, name=f"lane {number}", daemon=True)
            for number, pair in enumerate(zip(lanes, self.queues, strict=True))
        ]

    def give(self, chunk: Chunk) -> None:
        """Hand a chunk to its lane."""
        self._put(self.queues[chunk.number % len(self.queues)], chunk)

    def end(self) -> None:
        """Tell every lane that there are no more chunks."""
        for waiting in self.queues:
            self._put(waiting, None)

    def _put(self, waiting: queue.Queue[Chunk | None], chunk: Chunk | None) -> None:
        while True:
            if self.error is not None:
                raise self.error
            try:
                waiting.put(chunk, timeout=0.2)
            except queue.Full:
                continue
            return

    def _work(self, lane: Lane, waiting: queue.Queue[Chunk | None]) -> None:
        try:
            while (chunk := waiting.get()) is not None and self.error is None:
                lane.write(chunk)
        except BaseException as error:  # noqa: BLE001 - it is raised where the chunks come from
            self.error = self.error or error


@contextmanager
def _threads(lanes: Sequence[Lane]) -> Iterator[_Crew]:
    crew = _Crew(lanes)
    for thread in crew.threads:
        thread.start()
    try:
        yield crew
        crew.end()
    except BaseException as error:
        crew.error = crew.error or error
        for waiting in crew.queues:  # whoever waits for a chunk must wake up
            _push_out(waiting)
        raise
    finally:
        for thread in crew.threads:
            thread.join()
    if crew.error is not None:
        raise crew.error


def _push_out(waiting: queue.Queue[Chunk | None]) -> None:
    while True:
        try:
            waiting.put_nowait(None)
        except queue.Full:
            try:
                waiting.get_nowait()
            except queue.Empty:
                continue
            continue
        return
