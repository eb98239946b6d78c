"""The tasks of mongo_online_migration. Each does one bounded slice of the engine's work and comes again, so that none holds a worker.

The engine keeps everything in ``ops_online``; what passes between tasks is digests and counts. A run has two holders of the lease: the
one that acts, and the one that follows the change stream meanwhile. Who acts waits for who follows; of two that act, one is refused.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from mongo_ops.orchestration.approval import PlanApprovalOperator
from mongo_ops.orchestration.evidence import insist_on_approval
from mongo_ops.orchestration.lineage import namespace
from mongo_ops.orchestration.operators import TracedOperator, holder_of, occasion_of, show_progress
from mongo_ops.orchestration.targets import open_target
from mongo_ops.settings import include_folder

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mongo_ops.online.engine import Engine
    from mongo_ops.online.model import SliceResult, SpecFile

START, PAUSE, RESUME, ABORT, CUT_OVER, ROLLBACK, CONTRACT = ACTIONS = (
    "start", "pause", "resume", "abort", "cut_over", "rollback", "contract",
)  # fmt: skip
FOLLOWING = " (following the change stream)"
SLICE_SECONDS = 20.0
FOLLOW_SECONDS = 5.0
SOON, WAITING, FOLLOW = timedelta(seconds=1), timedelta(seconds=10), timedelta(seconds=5)


def names() -> list[str]:
    """Return the names of the spec files. Read at parse time."""
    return sorted(path.stem for path in (include_folder() / "online").glob("[0-9]*.py"))


def come_again(after: timedelta) -> NoReturn:
    """Give the worker back and come again."""
    raise AirflowRescheduleException(datetime.now(UTC) + after) from None  # type: ignore[no-untyped-call]


class OnlineOperator(TracedOperator):
    """A task that has something to do in some actions, and perhaps only in one of the modes; else it is skipped.

    Args:
        actions: the values of the run's ``action`` in which it works.
        modes: the modes of migrations that it is for.
        **kwargs: as every operator takes them.
    """

    following = False

    def __init__(self, *, actions: Sequence[str], modes: Sequence[str] = ("in_place", "ghost"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = tuple(actions)
        self.modes = tuple(modes)

    def work(self, context: Context) -> Any:
        """Act where it is this task's turn; wait for who follows the stream."""
        from mongo_ops.mongo.lease import LeaseHeldError  # noqa: PLC0415

        params = context["params"]
        if params["plan_only"]:
            raise AirflowSkipException("Plan only: nothing is done.")
        spec = spec_of(context)
        if str(params["action"]) not in self.actions or spec.migration.mode not in self.modes:
            raise AirflowSkipException(
                f"Nothing to do here for {params['action']} of a migration {spec.migration.mode}."
            )
        try:
            with self.engine(context, spec) as engine:
                return self.act(context, engine)
        except LeaseHeldError as error:
            if not (self.following or error.owner.endswith(FOLLOWING)):
                raise
            self.log.info("%s", error)
            come_again(SOON)

    @contextmanager
    def engine(self, context: Context, spec: SpecFile) -> Iterator[Engine]:
        """Yield the engine on the run's environment."""
        from mongo_ops.mongo.lease import Holder  # noqa: PLC0415
        from mongo_ops.online.engine import Engine  # noqa: PLC0415

        owner = holder_of(context).owner + (FOLLOWING if self.following else "")
        with open_target(self.environment_of(context)) as target:
            yield Engine(target, spec, occasion_of(context), holder=Holder(owner), report=self.log.info)

    @abstractmethod
    def act(self, context: Context, engine: Engine) -> Any:
        """Do the task."""

    def until_done(self, context: Context, made: SliceResult, pause: timedelta = SOON) -> SliceResult:
        """Return a slice that ended its phase; after any other give the worker back and come again."""
        self.log.info("%s", made)
        show_progress(context, {"step": str(made.phase), "waiting": made.waiting, **made.progress})
        if not made.done:
            come_again(WAITING if made.waiting else pause)
        return made

    def remember(self, engine: Engine, spec: SpecFile, counts: dict[str, int]) -> None:
        """Note what OpenLineage shall know."""
        target, name = engine.target, spec.migration.collection
        self.lineage = {
            "namespace": namespace(target), "database": target.database, "reads": [name], "writes": [name], "counts": counts,
        }  # fmt: skip


class PlanOnlineOperator(TracedOperator):
    """Check the spec file and show what the action would do. Reads only."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return {digest, plan, markdown, empty}; ``empty`` where no second person is needed to go on."""
        from mongo_ops.mongo.lease import Holder  # noqa: PLC0415
        from mongo_ops.online.engine import Engine  # noqa: PLC0415
        from mongo_ops.online.errors import SpecError  # noqa: PLC0415
        from mongo_ops.online.report import plan_as_markdown, plan_as_text  # noqa: PLC0415

        action, spec = str(context["params"]["action"]), spec_of(context)
        with open_target(self.environment_of(context), read_only=True) as target:
            plan = Engine(target, spec, occasion_of(context), holder=Holder(holder_of(context).owner)).plan()
        self.log.info("Action: %s\n%s", action, plan_as_text(plan))
        if action == START and plan.stops and not context["params"]["plan_only"]:
            raise SpecError(f"{spec.name} cannot start: {'; '.join(plan.stops)}.")
        return {
            "digest": digest_for(action, plan.digest), "plan": plan.digest, "empty": action not in (START, ROLLBACK),
            "markdown": f"Action: **{action}**\n\n{plan_as_markdown(plan)}",
        }  # fmt: skip


class SteerOperator(OnlineOperator):
    """Pause, resume, abort or roll back."""

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return what it came to."""
        action = str(context["params"]["action"])
        if action == PAUSE:
            engine.pause()
        elif action == RESUME:
            engine.resume()
        elif action == ROLLBACK:
            insist_on_approval(context, engine.target, approved_digest(context, "plan"))
            return {"action": action, **_plain(engine.rollback().as_dict())}
        else:
            reason = str(context["params"].get("reason") or "asked for in Airflow")
            self.until_done(context, engine.abort(reason))
        return {"action": action, "phase": str(engine.status()["phase"])}


class ExpandOperator(OnlineOperator):
    """Save the place in the change stream, then make the new shape possible. A retry finishes it."""

    def act(self, context: Context, engine: Engine) -> list[int]:
        """Return the numbers of the key ranges, one for each task of the backfill."""
        insist_on_approval(context, engine.target, approved_digest(context, "plan"))
        approved = str(context["ti"].xcom_pull(task_ids="plan")["plan"])
        engine.start(approved, parts=int(context["params"]["parts"]))
        return list(range(engine.parts()))


class BackfillOperator(OnlineOperator):
    """Fill one key range, a slice at a time."""

    def __init__(self, *, part: int, **kwargs: Any) -> None:
        super().__init__(actions=(START,), **kwargs)
        self.part = part

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return the range's counts."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        made = self.until_done(context, engine.advance(Phase.BACKFILL, SLICE_SECONDS, part=int(self.part)))
        self.remember(engine, spec_of(context), {name: int(value) for name, value in made.progress.items()})
        return _plain(made.progress)


class CatchUpOperator(OnlineOperator):
    """Replay what was written meanwhile, until the stream's end is near."""

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return the counts."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        return _plain(self.until_done(context, engine.advance(Phase.CATCH_UP, SLICE_SECONDS)).progress)


class VerifyOnlineOperator(OnlineOperator):
    """Compare all documents with what the transform makes of them."""

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return {digest, markdown, empty}: what a person approves before the cut-over, or before the contract."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        if str(context["params"]["action"]) == CONTRACT and spec_of(context).migration.ghost:
            raise AirflowSkipException("The ghost was verified at its cut-over.")
        self.until_done(context, engine.advance(Phase.VERIFY, SLICE_SECONDS))
        seen = engine.verification()
        if seen is None:  # something came in between
            come_again(SOON)
        return {"digest": seen.digest, "markdown": verified_text(spec_of(context), seen.as_dict()), "empty": False}


class FollowOperator(OnlineOperator):
    """Keep the target up to date while people decide, however long that takes."""

    following = True

    def act(self, context: Context, engine: Engine) -> dict[str, str]:
        """Return {phase}: what ended the waiting."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        if engine.status()["phase"] == Phase.READY:
            made = engine.advance(Phase.READY, FOLLOW_SECONDS)
            self.until_done(context, made, FOLLOW)
        return {"phase": str(engine.status()["phase"])}


class PersonOperator(PlanApprovalOperator):
    """Ask a person, in every environment. A refusal postpones: what follows is skipped, the migration stays as it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(always=True, **kwargs)

    def refuse(self, why: str) -> NoReturn:
        """Postpone."""
        raise AirflowSkipException(f"Postponed: {why}. Trigger the action by itself when it is time.") from None


class CutOverOperator(OnlineOperator):
    """Refuse writes for a moment, look once more, swap the two collections, let writers go on."""

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return {refused_ms, reads_gap_ms, drained, fence}."""
        digest = approved_digest(context, "approve_verified")
        insist_on_approval(context, engine.target, digest, always=True)
        made = engine.cut_over(digest)
        self.log.info("Writes were refused for %.0f ms (%s).", made.refused_ms, made.fence)
        self.remember(engine, spec_of(context), {"modified": made.drained})
        return _plain(made.as_dict())


class SoakOperator(OnlineOperator):
    """Keep the old collection up to date, so that a rollback loses nothing, until its window is over."""

    following = True

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return {digest, markdown, empty}: what a person approves before the old collection goes."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        early = str(context["params"]["action"]) == CONTRACT and context["params"]["early"]
        self.insist_on_soak(engine)
        if not early:
            self.until_done(context, engine.advance(Phase.SOAK, FOLLOW_SECONDS), FOLLOW)
            self.insist_on_soak(engine)  # or somebody rolled back meanwhile
        seen, spec = engine.verification(), spec_of(context)
        digest = digest_for(CONTRACT, seen.digest if seen else spec.checksum)
        text = f"Drop the old collection of **{spec.name}**? No rollback is possible after that."
        return {"digest": digest, "markdown": text, "empty": False}

    def insist_on_soak(self, engine: Engine) -> None:
        """Skip where there is no old collection to keep."""
        from mongo_ops.online.model import Phase  # noqa: PLC0415

        phase = engine.status()["phase"]
        if phase != Phase.SOAK:
            raise AirflowSkipException(f"The migration is in phase {phase}: nothing to contract.")


class ContractOperator(OnlineOperator):
    """End the migration: the strict validator and the old fields, or the old collection. There is no way back from here."""

    def act(self, context: Context, engine: Engine) -> dict[str, Any]:
        """Return the counts."""
        ghost = spec_of(context).migration.ghost
        digest = approved_digest(context, "approve_contract" if ghost else "approve_verified")
        insist_on_approval(context, engine.target, digest, always=True)
        early = bool(context["params"]["early"])
        made = engine.contract(None, early=early) if ghost else engine.contract(digest)
        return _plain(self.until_done(context, made).progress)


class ReportOnlineOperator(TracedOperator):
    """Say where the migration is."""

    def work(self, context: Context) -> dict[str, Any]:
        """Return the engine's status: phase, counts, timings; no personal values."""
        from mongo_ops.mongo.lease import Holder  # noqa: PLC0415
        from mongo_ops.online.engine import Engine  # noqa: PLC0415

        with open_target(self.environment_of(context), read_only=True) as target:
            engine = Engine(target, spec_of(context), occasion_of(context), holder=Holder(holder_of(context).owner))
            return _plain(engine.status())


def spec_of(context: Context) -> SpecFile:
    """Load the run's spec file."""
    from mongo_ops.online.discover import find  # noqa: PLC0415

    return find(include_folder(), str(context["params"]["name"]))


def digest_for(action: str, digest: str) -> str:
    """Return a digest that an approval of one action can be told by from that of another."""
    return hashlib.sha256(f"{action} {digest}".encode()).hexdigest()


def approved_digest(context: Context, task_id: str) -> str:
    """Return the digest that a task handed on; skip where that task had nothing to ask, or was told to postpone."""
    seen = context["ti"].xcom_pull(task_ids=task_id)
    if seen is None:
        raise AirflowSkipException("Nobody has approved it.")
    return str(seen["digest"])


def verified_text(spec: SpecFile, seen: dict[str, Any]) -> str:
    """Return what a person reads before the decision."""
    next_step = (
        "cut over to the new collection" if spec.migration.ghost else "contract: strict validator, old fields dropped"
    )
    return (
        f"**{spec.name}**: {spec.title}\n\n"
        f"{seen['documents']:,} documents compared, {seen['differing']:,} differ, {seen['moving']:,} were being written meanwhile.\n\n"
        f"Approve to {next_step}. Reject to postpone."
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as XCom takes them: text for what JSON does not know."""
    return {str(key): _plain_value(one) for key, one in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
