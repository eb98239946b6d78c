"""Begin: the stream's place first, then the record, then the target or the loose validator, then the bounds of the backfill.

A change that comes at any moment is either in the stream or was there when the backfill reads. What a kill leaves is done again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongo_ops.migrations.operations import catalogue
from mongo_ops.mongo.batches import BATCH_BYTES, CHECKPOINTS
from mongo_ops.online import backfill, collecting, names, pace, rights, steps, ttl, views
from mongo_ops.online import plan as planner
from mongo_ops.online.errors import SourceChangedError, SpecError
from mongo_ops.online.model import Phase
from mongo_ops.online.stream import Stream
from mongo_ops.online.work import server_time, taken_by_another

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.client_session import ClientSession

    from mongo_ops.migrations.operations.catalogue import Listed
    from mongo_ops.mongo.documents import Document
    from mongo_ops.online.work import Work


def open_stream_first(work: Work) -> Mapping[str, Any]:
    """Return the stream's place of this moment. Everything that changes later will be seen."""
    with Stream(work, [work.spec.collection], None) as stream:
        return stream.begin()


def record(work: Work, attempt: int, parts: int) -> None:
    """Write the state of a new attempt."""
    token = open_stream_first(work)
    steps.reached("start.token")
    source = _source(work)
    state: Document = {
        "_id": work.name, "collection": work.spec.collection, "mode": work.spec.mode, "checksum": work.file.checksum,
        "phase": Phase.BACKFILL.value, "prepared": False, "attempt": attempt, "parts": parts, "token": dict(token),
        "token_at": server_time(work.db), "control": pace.first_control(work.spec.limits), "counts": {},
        "undo": _undo(work), "largest": _largest(work),
        "source": {
            "uuid": source.uuid, "capped": bool(source.options.get("capped")), "ttl": ttl.of(work, source.name),
            "definition": definition(work, source.name), "options": catalogue.note(source.options),
        },
    }  # fmt: skip

    def body(session: ClientSession) -> None:
        work.db[names.STATES].replace_one({"_id": work.name}, state, upsert=True, session=session)
        work.state = dict(state)
        work.save(session, started_run=work.occasion.run_id)
        work.note(session, "started", {"mode": work.spec.mode, "attempt": attempt})

    work.lease.transaction(body)


def _largest(work: Work) -> int:
    """Return how many documents of average size one transaction takes at most."""
    size = catalogue.storage(work.db, work.spec.collection)
    return max(1, int(BATCH_BYTES * size["count"] / size["size"])) if size["size"] else BATCH_BYTES


def _undo(work: Work) -> Document:
    """Return what an abort has to take back, so that it can even after the spec was edited."""
    spec = work.spec
    return {
        "fields": list(spec.fields), "views": [name for name in (spec.views.new, spec.views.old) if name],
        "validator": spec.validator is not None or spec.contract.validator is not None,
        "loose": None if spec.validator is None else catalogue.note(spec.validator),
    }  # fmt: skip


def expand(work: Work) -> None:
    """Make what the new shape needs, then fix where the backfill ends. Done again from the beginning after a kill."""
    if work.spec.ghost:
        _make_target(work)
        collecting.prepare(work)
    elif work.spec.validator is not None:
        change = {
            "collMod": work.spec.collection,
            "validator": dict(work.spec.validator),
            "validationLevel": "moderate",
        }
        catalogue.carry_out(work.db, change, f"The validator of {work.spec.collection}")
    views.create(work)
    steps.reached("start.target")
    points = backfill.first_points(work, work.walk_prefix, int(work.state["parts"]))

    def body(session: ClientSession) -> None:
        for point in points:
            work.db[CHECKPOINTS].replace_one({"_id": point["_id"]}, point, upsert=True, session=session)
        fields: Document = {"prepared": True, "parts": len(points)}
        if work.spec.ghost:
            name = names.ghost(work.spec.collection)
            fields["target"] = {"uuid": catalogue.identity(work.db, name), "ttl": _wanted_ttl(work)}
        work.save(session, **fields)

    work.lease.transaction(body)
    steps.reached("start.recorded")


def definition(work: Work, name: str) -> str:
    """Return a digest of a collection's options and indexes."""
    return planner.definition_digest(work.db, name)


def insist_on_definition(work: Work) -> None:
    """Refuse when somebody changed options or indexes of the source: the target would not have that.

    Raises:
        SourceChangedError: they did.
    """
    if work.spec.ghost and definition(work, work.spec.collection) != work.state["source"]["definition"]:
        raise SourceChangedError(
            f"{work.name}: options or indexes of {work.spec.collection} were changed since this migration began; its target lacks that. "
            "Change them back, or abort and start again."
        )


def _source(work: Work) -> Listed:
    found = catalogue.collection(work.db, work.spec.collection)
    if found is None or found.uuid is None:
        raise SpecError(f"{work.name}: there is no collection {work.spec.collection} on {work.db.name}.")
    return found


def _make_target(work: Work) -> None:
    """Create the empty target with its options and indexes; remove what a killed start has left."""
    source, name = _source(work), names.ghost(work.spec.collection)
    for leftover in (name, names.ids(work.spec.collection)):
        work.db.drop_collection(leftover)
    wanted = target_options(work, source)
    catalogue.carry_out(work.db, {"create": name, **wanted}, f"The target of {work.name}")
    if work.spec.target.shard_key is not None:
        if not rights.read(work.db).sharded:
            raise SpecError(f"{work.name}: a shard key needs a sharded cluster.")
        key = {"key": dict(work.spec.target.shard_key), "unique": work.spec.target.shard_unique}
        work.target.client.admin.command({"shardCollection": f"{work.db.name}.{name}", **key})
    specs = [ttl.held(spec) for spec in target_indexes(work, source)]
    if specs:
        catalogue.carry_out(work.db, {"createIndexes": name, "indexes": specs}, f"The indexes of {work.name}'s target")
    if work.spec.changes_id:
        with taken_by_another():
            work.db.create_collection(names.ids(work.spec.collection), check_exists=False)
        work.db[names.ids(work.spec.collection)].create_index([("to", 1)], unique=True)


def target_options(work: Work, source: Listed) -> Document:
    """Return the options with which the target is created: the source's, as far as the spec does not say otherwise."""
    target, options = work.spec.target, catalogue.recreate_options(source.options)
    for name in ("capped", "size", "max"):  # no transaction writes to a capped collection
        options.pop(name, None)
    if target.validator is not None:
        options |= {"validator": dict(target.validator)}
    if target.level is not None:
        options |= {"validationLevel": target.level}
    if target.collation is not None:
        options["collation"] = dict(target.collation)
        if catalogue.collation_form(options["collation"]) is None:
            del options["collation"]
    return {name: value for name, value in options.items() if value not in ({}, None)}


def target_indexes(work: Work, source: Listed) -> list[Document]:
    """Return the definitions of the target's indexes besides ``_id``."""
    if work.spec.target.indexes is not None:
        return [dict(one) for one in work.spec.target.indexes]
    listed = catalogue.indexes(work.db, source.name)
    before, after = source.options.get("collation"), target_options(work, source).get("collation")
    collated = catalogue.collation_form(before) is None and catalogue.collation_form(after) is not None
    specs = [catalogue.rebuild_spec(one.spec, collated=False) for one in listed if one.name != "_id_"]
    if (
        collated or work.spec.target.collation is not None
    ):  # an index that had the collection's collation gets the new one
        for spec in specs:
            if catalogue.collation_form(spec.get("collation")) == catalogue.collation_form(before):
                spec.pop("collation", None)
    return specs


def _wanted_ttl(work: Work) -> Document:
    found = target_indexes(work, _source(work))
    return {spec["name"]: spec[ttl.EXPIRES] for spec in found if ttl.EXPIRES in spec}
