"""The front of erasure: plan, begin, carry out rule by rule, sweep, verify, conclude. Airflow and the CLI both enter here.

A run is known by the id of a request or of a batch, and nothing else about a person ever leaves this process unsealed. Every step may
be killed and called again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongo_ops.erasure import beginning, checkpoints, closure, conclusion, objects, planning, requests, run, survey
from mongo_ops.erasure import verify as verification
from mongo_ops.erasure.conclusion import Concluded
from mongo_ops.erasure.inspection import inspect
from mongo_ops.erasure.model import STAGES, Actor, DataMap, Plan, State, Tally
from mongo_ops.erasure.objects import Erased, Stores
from mongo_ops.erasure.plan import insist_on_whole
from mongo_ops.erasure.run import Handling
from mongo_ops.erasure.verify import Verification
from mongo_ops.erasure.work import Work
from mongo_ops.errors import PlanError
from mongo_ops.mongo.batches import Reporter, log_progress
from mongo_ops.mongo.lease import Holder, Lease, acquire, free, show
from mongo_ops.mongo.throttle import Limits

if TYPE_CHECKING:
    from mongo_ops.erasure.exports import Exports
    from mongo_ops.erasure.keys import Keyring
    from mongo_ops.mongo.connection import Target
    from mongo_ops.storage import Folder

RESOURCE = "erasure"
MIGRATIONS = "migrations"
UNFINISHED = (State.APPROVED, State.EXECUTING, State.VERIFYING)
RUN_SECONDS = 900.0
"""How long a run keeps others out after its last step, if nobody releases it. What protects the data are the leases of its parts."""

SWEEP = "sweep"
SWEEPS = 3
"""How often late writers are cleaned up after before the run gives up on them."""


class MigrationsRunningError(PlanError):
    """A migration is under way; the data map may not fit what it makes of the database."""


@dataclass(frozen=True)
class Engine:
    """Erasure on one environment.

    Attributes:
        target: the environment.
        data_map, keyring: what is erased, and with which keys.
        folder: the environment's storage.
        holder: who holds the leases: the Airflow run, or the command.
        actor: who triggered it.
        report: gets the progress.
        assets: the product's own objects, which documents name by their keys; None where the environment configures none.
        exports: the environment's exports, wherever they are; None leaves them as they are, as backups.
    """

    target: Target
    data_map: DataMap
    keyring: Keyring
    folder: Folder
    holder: Holder
    actor: Actor
    report: Reporter = field(default=log_progress, repr=False)
    assets: Folder | None = None
    exports: Exports | None = None
    _known: dict[str, Work] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The plans' people whose closures this process has opened; opening 10,000 takes seconds."""

    @property
    def stores(self) -> Stores:
        """Where files of people may be."""
        return Stores(self.folder, self.assets, self.exports)

    @property
    def run_id(self) -> str:
        """The Airflow run, or the command."""
        return self.holder.owner

    def plan(self, request_id: str, *, only: bool = False) -> Plan:
        """Plan a request or a batch. With ``only`` nothing is written; otherwise the closures are kept, sealed.

        Raises:
            NobodyError, PlanStoppedError: unless ``only``: the plan cannot be carried out.
        """
        requests.prepare(self.target.db, self.keyring)
        if not only:
            self._give_up_killed(request_id)
        planned = planning.plan_run(self.target, self.data_map, self.keyring, request_id, self.stores)
        if not only:
            beginning.record_plan(planned, self.keyring, self.run_id, self.actor)
            self._known[planned.plan.digest] = planned.work
        return planned.plan

    def _give_up_killed(self, request_id: str) -> None:
        """Say of requests that a killed run was erasing that it failed, so that they can be planned again.

        Raises:
            LeaseHeldError: that run is alive; nothing was written.
        """
        db = self.target.db
        members = requests.members(db, request_id)
        killed = [one.id for one in requests.load_all(db, members) if one.state in UNFINISHED]
        if killed:
            with self.lease() as lease:
                lease.transaction(lambda session: requests.transition_all(db, session, killed, State.FAILED))
            self.release()

    def begin(self, plan: Plan) -> None:
        """Begin a plan, or begin it again after a kill.

        Raises:
            PlanChangedError: what would be done now is not what was planned; nothing was written.
        """
        insist_on_whole(plan, self.data_map.digest)
        busy = show(self.target.db, MIGRATIONS)
        if busy is not None:
            raise MigrationsRunningError(
                f"Migrations run on this database ({busy['owner']}). Erase when they are through."
            )
        if beginning.is_begun(self.target.db, plan, self.run_id):
            return
        known = self.work(plan)
        now = planning.plan_run(self.target, self.data_map, self.keyring, plan.run_id, known=known)
        with self.lease() as lease:
            beginning.begin_run(now.work, now.plan, plan, lease, self.folder, self.run_id, self.actor)

    def carry_out(self, plan: Plan, rule_id: str, sweep: int = 0) -> Tally:
        """Carry out one rule; a retry goes on where a killed try stopped."""
        rule, work = self.data_map.rule(rule_id), self.work(plan)
        there = survey.collections(self.target.db, [rule])
        with self.lease(rule_id) as lease:
            return Handling(work, lease, plan.digest, self._limits(), self.report, sweep).carry_out(rule, there)

    def erase_objects(self, plan: Plan) -> Erased:
        """Erase the people's objects, and take them out of what this package wrote to storage; a retry finishes."""
        work = self.work(plan)
        with self.lease(objects.OBJECTS) as lease:
            return objects.erase(
                work, self.stores, lease, plan.digest, lambda: show(self.target.db, MIGRATIONS) is not None
            )

    def sweep(self, plan: Plan) -> int:
        """Carry all rules out again, for what others wrote meanwhile; return how many documents that were."""
        work, late = self.work(plan), 0
        there = survey.collections(self.target.db, self.data_map.rules)
        with self.lease(SWEEP) as lease:
            for number in range(1, SWEEPS + 1):
                handling = Handling(work, lease, plan.digest, self._limits(), self.report, number)
                for rule in self.data_map.rules:
                    handling.carry_out(rule, there)
                new = run.documents_done(work, plan.digest, number)  # by killed tries too
                late += new
                if not new:
                    break
            checkpoints.forget(work, lease)
        return late

    def verify(self, plan: Plan, report: Callable[[str], None] = lambda _: None) -> Verification:
        """Look whether the erasure is complete, and keep what was seen for the conclusion."""
        work = self.work(plan)
        seen = verification.verify(work, self._traces(work), report)
        report("residual scan: objects and snapshots in storage")
        seen = inspect(work, self.stores).added_to(seen)
        with self.lease() as lease:
            lease.transaction(lambda session: conclusion.keep(self.target.db, session, plan, seen))
        return seen

    def conclude(self, plan: Plan) -> Concluded:
        """Issue certificates and say what each request came to.

        Raises:
            NotVerifiedError: this plan was not verified; nothing was written.
        """
        insist_on_whole(plan, self.data_map.digest)
        self._known.clear()
        seen = conclusion.kept(self.target.db, plan)
        members = self._members(plan)
        work = self._opened(plan, members)
        with self.lease() as lease:
            return conclusion.conclude(work, plan, members, seen, self._traces(work), lease, self.folder, self.run_id)

    def carry_through(self, plan: Plan) -> Concluded:
        """Carry a plan through in one process, from its lease to its certificates."""
        self.hold()
        try:
            self.begin(plan)
            self.erase_objects(plan)
            for rule in (rule for stage in STAGES for rule in plan.stage(stage)):
                self.carry_out(plan, rule)
            self.sweep(plan)
            self.verify(plan)
            return self.conclude(plan)
        finally:
            self.release()

    def _traces(self, work: Work) -> dict[str, int]:
        return closure.traces(self.target.db, [one.request_id for one in work.subjects])

    def work(self, plan: Plan) -> Work:
        """Open the closures of the plan's people.

        Raises:
            PlanChangedError: the plan or the data map was edited.
            RunChangedError: the plan was only looked at, or is concluded: the closures are not there.
        """
        insist_on_whole(plan, self.data_map.digest)
        if plan.digest in self._known:
            return self._known[plan.digest]
        work = self._opened(plan, self._members(plan))
        if len(work.subjects) != plan.requests:
            raise run.RunChangedError(
                f"What {plan.run_id} leads to is kept for {len(work.subjects):,} of {plan.requests:,} people: the plan was made to be "
                "looked at only, or is concluded. Plan again to go on."
            )
        self._known[plan.digest] = work
        return work

    def _members(self, plan: Plan) -> list[str]:
        return [one for one in requests.members(self.target.db, plan.run_id) if one not in plan.excluded]

    def _opened(self, plan: Plan, members: Sequence[str]) -> Work:
        subjects = closure.load(self.target.db, self.keyring, members)
        return Work(self.target, self.data_map, self.keyring, subjects, plan.run_id)

    @contextmanager
    def lease(self, part: str = "") -> Iterator[Lease]:
        """Work under a lease: of one part, given back at the end, or of the whole run, left to its next step (``hold``)."""
        if part:
            ttl = self.target.environment.lease_ttl
            with acquire(self.target.db, f"{RESOURCE}.{part}", self.holder, ttl=ttl) as lease:
                yield lease
            return
        lease = acquire(self.target.db, RESOURCE, self.holder, ttl=RUN_SECONDS)
        lease.start()
        try:
            yield lease
        finally:
            lease.let_go()

    def hold(self, wait: float = 0.0) -> int:
        """Take the run's lease, for all its steps; return its epoch. ``release`` gives it back."""
        return acquire(self.target.db, RESOURCE, self.holder, ttl=RUN_SECONDS, wait=wait).epoch

    def release(self) -> bool:
        """Give the run's lease back; say whether it was held."""
        return free(self.target.db, RESOURCE, self.holder.owner)

    def _limits(self) -> Limits:
        at = self.target.environment
        return Limits(max_lag=at.max_lag, batch_seconds=at.batch_seconds, budget=at.budget)
