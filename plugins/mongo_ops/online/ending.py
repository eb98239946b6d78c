"""Abort and contract, in bounded slices. An abort leaves the source as its writers know it; a contract cannot be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongo_ops.migrations.operations import catalogue
from mongo_ops.mongo.batches import Counts
from mongo_ops.online import names, replay, steps, verify, views, walk
from mongo_ops.online.model import Phase

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.mongo.documents import Document
    from mongo_ops.mongo.keyrange import KeyRange
    from mongo_ops.online.pace import Pace
    from mongo_ops.online.walk import SavePoint, Walked
    from mongo_ops.online.work import Budget, Work


def begin_abort(work: Work, reason: str) -> None:
    """Record that the migration is given up. From here on nothing is replayed."""
    if work.phase is not Phase.ABORTING:
        work.move(Phase.ABORTING, "aborting", {"reason": reason})
        steps.reached("abort.recorded")


def abort(work: Work, pace: Pace, budget: Budget) -> Walked | None:
    """Remove what the migration has made; None when that is over at once."""
    walked, undo = None, work.state["undo"]
    if work.state["mode"] == "ghost":
        _drop_copies(work, names.ghost(work.spec.collection))
    elif undo["fields"]:
        _loose_validator(work)  # a killed contract may have left the strict one, which holds on to the fields
        walked = _unset(work, pace, budget, "abort", tuple(undo["fields"]))
        if not walked.done:
            return walked
    if undo["validator"]:
        _set_former_validator(work)
    views.drop(work, undo["views"])
    steps.reached("abort.cleaned")
    end(work, Phase.ABORTED, "aborted")
    return walked


def end_rollback(work: Work) -> None:
    """After a rollback the target is of no use: all that was written to it is in the source again."""
    _drop_copies(work, names.ghost(work.spec.collection))
    views.drop(work, work.state["undo"]["views"])
    work.lease.transaction(lambda session: _forget(work, session))


def contract_ghost(work: Work) -> None:
    """Drop the old collection; from here on there is no way back."""
    work.move(Phase.CONTRACTING, "contracting")
    steps.reached("contract.recorded")
    finish_ghost(work)


def finish_ghost(work: Work) -> None:
    """Do what is left of a ghost migration's contract."""
    _drop_copies(work, names.old(work.spec.collection))
    views.contracted(work)
    steps.reached("contract.dropped")
    end(work, Phase.DONE, "done")


def begin_contract(work: Work) -> None:
    """Demand the new shape of every writer, then verify for the last time; old-shape writers fail from here on.

    Raises:
        DifferencesError: something differs; the validator is as it was.
    """
    strict = work.spec.contract.validator
    if strict is not None:
        _set_validator(work, dict(strict), "strict")
    steps.reached("contract.strict")
    try:
        verify.delta(work)
    except BaseException:
        _loose_validator(work)
        raise
    steps.reached("contract.verified")
    work.move(Phase.CONTRACTING, "contracting")
    steps.reached("contract.recorded")


def contract(work: Work, pace: Pace, budget: Budget) -> Walked | None:
    """Remove the old fields; None when there are none."""
    walked = None
    if work.spec.contract.drop:
        walked = _unset(work, pace, budget, "contract", tuple(work.spec.contract.drop))
        if not walked.done:
            return walked
    views.contracted(work)
    steps.reached("contract.dropped")
    end(work, Phase.DONE, "done")
    return walked


def end(work: Work, phase: Phase, event: str) -> None:
    """Enter a last phase."""

    def body(session: ClientSession) -> None:
        _forget(work, session)
        work.save(session, phase=phase.value)
        work.note(session, event, {})

    work.lease.transaction(body)
    work.report(f"{work.name}: {event}")


def _forget(work: Work, session: ClientSession) -> None:
    """Remove what is of no use after the end. Checkpoints name documents."""
    walk.forget(work, session)
    work.db[names.MARKS].delete_one({"_id": work.name}, session=session)
    work.save(session, token=None, delta_token=None)


def _drop_copies(work: Work, name: str) -> None:
    """Drop the copy that is not needed any more, and what was kept about keys. Never what has the collection's name."""
    work.lease.check()
    for copy in (name, names.ids(work.spec.collection), names.kept(work.spec.collection)):
        work.db.drop_collection(copy)


def _unset(work: Work, pace: Pace, budget: Budget, what: str, fields: tuple[str, ...]) -> Walked:
    name = f"{work.walk_prefix}{what}"
    walk.begin(work, name, work.spec.collection)
    there = {"$or": [{field: {"$exists": True}} for field in fields]}

    def chunk(span: KeyRange, save: SavePoint, divisible: bool) -> None:  # noqa: FBT001 - walk calls it
        def apply(session: ClientSession) -> Counts:
            where = {"$and": [span.filter, there]}
            done = work.db[work.spec.collection].update_many(
                where, {"$unset": dict.fromkeys(fields, "")}, session=session
            )
            return Counts(matched=done.matched_count, modified=done.modified_count)

        replay.commit(work, apply, save, divisible=divisible)

    return walk.advance(work, pace, budget, name, chunk)


def _set_former_validator(work: Work) -> None:
    """Put the validator back that the source had before."""
    options = catalogue.recall(work.state["source"]["options"])
    _set_validator(work, options.get("validator", {}), options.get("validationLevel", "strict"))


def _loose_validator(work: Work) -> None:
    """Put the validator back that lets both shapes in."""
    undo = work.state["undo"]
    if undo["loose"] is not None:
        _set_validator(work, catalogue.recall(undo["loose"]), "moderate")
    elif undo["validator"]:
        _set_former_validator(work)


def _set_validator(work: Work, validator: Document, level: str) -> None:
    work.lease.check()
    change = {"collMod": work.spec.collection, "validator": validator, "validationLevel": level}
    catalogue.carry_out(work.db, change, f"The validator of {work.spec.collection}")
