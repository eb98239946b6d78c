"""The front of the online engine: plan, start, one bounded slice at a time, cut over, roll back, contract, abort. CLI and DAG enter here.

Every call takes the lease of the collection, brings to an end what a killed call left half done, and does its own part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from mongo_ops.audit import AuditEntry, record
from mongo_ops.migrations.faults import explain
from mongo_ops.mongo.lease import Holder, acquire, free
from mongo_ops.online import ending, exchange, fence, names, pace, slices, starting, verify
from mongo_ops.online import plan as planner
from mongo_ops.online.errors import (
    ChecksumChangedError,
    CriticalLoadError,
    NotApprovedError,
    SpecError,
    WindowOpenError,
    WrongPhaseError,
)
from mongo_ops.online.model import ABORTABLE, ENDED, CutOver, FenceKind, Phase, SliceResult, SpecFile, Verification
from mongo_ops.online.plan import OnlinePlan
from mongo_ops.online.work import Budget, OwnWrites, Reporter, Work, load, now, prepare

if TYPE_CHECKING:
    from mongo_ops.migrations.history import Occasion
    from mongo_ops.mongo.connection import Target
    from mongo_ops.mongo.documents import Document


def _silent(line: str) -> None:
    del line


@dataclass
class Engine:
    """One online migration on one environment, on somebody's behalf.

    Attributes:
        target: where.
        file: the spec.
        occasion: on whose behalf, in which run.
        holder: of the lease; processes of one owner take over from each other.
        keep_lease: leave the lease to the run's next call; ``release`` gives it back.
        report: gets a line for people now and then.
    """

    target: Target
    file: SpecFile
    occasion: Occasion
    holder: Holder
    keep_lease: bool = False
    report: Reporter = field(default=_silent)
    own: OwnWrites = field(default_factory=OwnWrites, init=False, repr=False)

    # Looking -------------------------------------------------------------------------------------------------------------

    def plan(self) -> OnlinePlan:
        """Return what would be done. Reads only."""
        return planner.make(self.target, self.file)

    def status(self) -> Document:
        """Return where the migration is, as JSON-able values. Reads only; nothing in it comes from a document.

        Raises:
            NotStartedError: it was not started on this database.
        """
        state = load(self.target.db, self.file.name)
        found = verify.last(state)
        shown = ("collection", "mode", "phase", "attempt", "parts", "control", "counts", "measured", "soak_until")
        return {
            "name": self.file.name, **{name: state[name] for name in shown if name in state},
            "edited": state["checksum"] != self.file.checksum,
            "writes_refused_by": (state.get("fence") or {}).get("kind"),
            "verification": found.as_dict() if found else None,
        }  # fmt: skip

    def verification(self) -> Verification | None:
        """Return the last complete verification, or None."""
        return verify.last(load(self.target.db, self.file.name))

    def parts(self) -> int:
        """Return into how many parts the backfill is cut."""
        return int(load(self.target.db, self.file.name)["parts"])

    # Steering, beside a run ----------------------------------------------------------------------------------------------

    def control(self, **settings: Any) -> Document:
        """Change the control document, which a run reads at every chunk; return it as it is now.

        Raises:
            ControlError: a setting is not valid.
        """
        load(self.target.db, self.file.name)
        values = {f"control.{name}": value for name, value in pace.checked(settings).items()}
        states = self.target.db[names.STATES]
        if values:
            states.update_one({"_id": self.file.name}, {"$set": values})
            self._audit("control", {name: str(value) for name, value in settings.items()})
        return dict(load(self.target.db, self.file.name)["control"])

    def pause(self) -> None:
        """Let a run wait from its next chunk on."""
        self.control(command="pause")

    def resume(self) -> None:
        """Let it go on."""
        self.control(command="run")

    def release(self) -> bool:
        """Give a kept lease back; say whether this run still had it."""
        return free(self.target.db, names.resource(self.file.migration.collection), self.holder.owner)

    # Going on ------------------------------------------------------------------------------------------------------------

    def start(self, approved_plan: str | None = None, *, parts: int = 1) -> SliceResult:
        """Begin, or go on with a start that was killed. The stream's place is saved before anything else.

        Raises:
            NotApprovedError: the plan is not the approved one.
            SpecError: something speaks against it; the plan says what.
        """
        plan = self.plan()
        if approved_plan is not None and approved_plan != plan.digest:
            raise NotApprovedError(
                f"The plan is not the approved one (now {plan.digest}). Look at it and approve that."
            )
        if plan.stops:
            raise SpecError(f"{self.file.name} cannot start: {'; '.join(plan.stops)}.")
        prepare(self.target.db)
        with self._open(must_be_started=False) as work:
            if not work.state or work.phase in ENDED:
                starting.record(work, int(work.state.get("attempt", 0)) + 1 if work.state else 1, max(1, parts))
            if not work.state["prepared"]:
                starting.expand(work)
            return slices.result(work, work.phase, done=False)

    def advance(self, phase: Phase | None = None, budget: float = slices.SLICE_SECONDS, part: int = 0) -> SliceResult:
        """Work for one bounded slice on the phase that is on, or on ``phase``.

        Returns:
            ``done`` at once when the migration is past that phase; ``waiting`` when it has not come to it, is paused or held back.

        Raises:
            DifferencesError: the verification found documents that differ for good.
            CriticalLoadError, PausedTooLongError, TokenExpiredError, SourceChangedError: a person must act.
        """
        state = load(self.target.db, self.file.name)
        filling = Phase(state["phase"]) is Phase.BACKFILL and state["prepared"] and int(state["parts"]) > 1
        inner = filling and phase in (None, Phase.BACKFILL)
        with self._open(part=part if inner else None) as work:
            if phase is not None and work.phase is not phase:
                return slices.elsewhere(work, phase)
            return slices.one(work, Budget(budget), part)

    def cut_over(self, approved: str) -> CutOver:
        """Swap the collections. Writers are refused for the moment; the result says for how long.

        Args:
            approved: the digest of the verification that a person has approved.

        Raises:
            NotApprovedError: that is not the last verification, or it was not clean.
            DifferencesError, NotDrainedError: nothing was swapped, writes go on.
        """
        with self._open() as work:
            if work.phase is Phase.SOAK:  # a retry of one that was killed after the swap
                return self._measured(work, "cut_over")
            self._insist_phase(work, Phase.READY)
            found = verify.last(work.state)
            if found is None or not found.clean or found.digest != approved:
                raise NotApprovedError(
                    f"{work.name}: the approved verification is not the last clean one ({found.digest if found else 'none'}). Look at it anew."
                )
            starting.insist_on_definition(work)
            kind = fence.preflight(work.db, work.spec).insist()
            self._insist_running(work)
            return exchange.exchange(work, exchange.FORWARD, kind)

    def rollback(self) -> CutOver:
        """Swap back, with all that was written since the cut-over.

        Raises:
            DifferencesError, NotDrainedError: nothing was swapped, writes go on.
        """
        with self._open() as work:
            if work.phase is not Phase.ROLLED_BACK:
                self._insist_phase(work, Phase.SOAK)
                kind = fence.preflight(work.db, work.spec).insist()
                came_to = exchange.exchange(work, exchange.BACK, kind)
            else:  # a retry of one that was killed after the swap
                came_to = self._measured(work, "rollback")
            if work.state.get("token") is not None:
                ending.end_rollback(work)
            return came_to

    def contract(
        self, approved: str | None = None, *, early: bool = False, budget: float = slices.SLICE_SECONDS
    ) -> SliceResult:
        """End the migration for good: old fields or the old collection go. There is no way back from here.

        Args:
            approved: in place, the digest of the approved verification.
            early: end the rollback window of a ghost migration now.
            budget: seconds of this slice.

        Raises:
            WindowOpenError: the window is open and ``early`` is not said.
            NotApprovedError: the verification is not the approved one.
        """
        with self._open() as work:
            if work.phase is Phase.DONE:
                return slices.result(work, Phase.CONTRACTING, done=True)
            if work.phase is not Phase.CONTRACTING:
                self._begin_contract(work, approved, early=early)
            return slices.contract(work, Budget(budget))

    def abort(self, reason: str = "asked for", *, budget: float = slices.SLICE_SECONDS) -> SliceResult:
        """Give the migration up; the source is then as its writers know it. Possible until the swap; afterwards there is ``rollback``.

        Raises:
            WrongPhaseError: it has been swapped, or has ended otherwise.
        """
        with self._open(edited=True) as work:
            if work.phase is Phase.ABORTED:
                return slices.result(work, Phase.ABORTING, done=True)
            if work.phase not in ABORTABLE:
                raise WrongPhaseError(f"{work.name} is in {work.phase}; {_instead(work.phase)}")
            slices.fence_parts(work)
            ending.begin_abort(work, reason)
            return slices.abort(work, Budget(budget))

    # Inside --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, *, part: int | None = None, must_be_started: bool = True, edited: bool = False) -> Iterator[Work]:
        """Yield the tools under the lease, after what a killed call left half done was brought to an end."""
        db, collection = self.target.db, self.file.migration.collection
        resource = names.resource(collection) if part is None else f"{names.resource(collection)}#{part}"
        lease = acquire(db, resource, self.holder, ttl=self.target.environment.lease_ttl)
        with ExitStack() as stack:
            if self.keep_lease and part is None:
                lease.start()
                stack.callback(lease.let_go)
            else:
                stack.enter_context(lease)
            session = stack.enter_context(self.target.client.start_session(causal_consistency=True))
            work = Work(self.target, self.file, lease, self.occasion, session, self.report, self.own)
            try:
                self._load(work, part, must_be_started=must_be_started, edited=edited)
                yield work
            except CriticalLoadError:
                self._give_up(work)
                raise
            except PyMongoError as error:
                raise explain(error, self.file.name) from None

    def _load(self, work: Work, part: int | None, *, must_be_started: bool, edited: bool) -> None:
        found = work.db[names.STATES].find_one({"_id": self.file.name}, session=work.session)
        if found is not None:
            work.state = found
            self._ready_to_go_on(work, part, edited=edited)
        elif must_be_started:
            load(work.db, self.file.name)

    def _ready_to_go_on(self, work: Work, part: int | None, *, edited: bool) -> None:
        if work.phase in ENDED:
            return
        elsewhere = work.state["collection"] != work.spec.collection
        if elsewhere or (work.state["checksum"] != self.file.checksum and not edited):
            raise ChecksumChangedError(
                f"{self.file.name} was edited while it is under way. Put it back as it was, or abort and start anew."
            )
        if part is None and work.state["prepared"]:
            exchange.recover(work)
        elif not work.state["prepared"] and not edited:
            starting.expand(work)

    def _give_up(self, work: Work) -> None:
        work.reload()
        if work.phase in ABORTABLE and work.phase is not Phase.CUT_OVER:
            ending.begin_abort(work, "critical load")

    def _begin_contract(self, work: Work, approved: str | None, *, early: bool) -> None:
        if not work.spec.ghost:
            self._insist_phase(work, Phase.READY)
            found = verify.last(work.state)
            if found is None or not found.clean or approved not in (None, found.digest):
                raise NotApprovedError(
                    f"{work.name}: the approved verification is not the last clean one ({found.digest if found else 'none'})."
                )
            self._insist_running(work)
            ending.begin_contract(work)
            return
        self._insist_phase(work, Phase.SOAK)
        if not early and now(work.db) < work.state["soak_until"]:
            raise WindowOpenError(
                f"{work.name}: the rollback window is open until {work.state['soak_until']:%Y-%m-%d %H:%M} UTC. Wait, or say so (--early)."
            )
        ending.contract_ghost(work)

    def _insist_phase(self, work: Work, phase: Phase) -> None:
        if work.phase is not phase:
            raise WrongPhaseError(f"{work.name} is in {work.phase}; this is possible in {phase} only.")

    def _insist_running(self, work: Work) -> None:
        reason = pace.Pace(work).look()
        if reason is not None:
            raise WrongPhaseError(f"{work.name}: not now: {reason}.")

    def _measured(self, work: Work, name: str) -> CutOver:
        found = work.state["measured"][name]
        return CutOver(**{**found, "fence": FenceKind(found["fence"])})

    def _audit(self, what: str, details: dict[str, Any]) -> None:
        entry = AuditEntry(
            action=f"online.{what}", entity_type="collection", entity_id=self.file.migration.collection,
            actor=self.occasion.actor.name, actor_kind=self.occasion.actor.kind, environment=self.target.environment.name,
            run_id=self.occasion.run_id, result=what, details={"migration": self.file.name, **details},
        )  # fmt: skip
        record(self.target.db, entry)


def _instead(phase: Phase) -> str:
    return "roll it back instead (`mongo-ops online rollback`)." if phase is Phase.SOAK else "it cannot be aborted."
