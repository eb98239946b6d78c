"""Before-images: what a walk changed, written in the same transaction as the change, and forgotten as it is undone.

One document per changed document, under the same ``_id``, in the operation's own collection. So the images say at any
instant exactly what is left to undo, whatever a kill has cut short, and undoing is a walk over the images. Four shapes:

- ``{_id}``: the document was changed; the operation knows how to undo it.
- ``{_id, made}``: the same, and ``made`` is the outermost embedded document that had to be made for a dotted field.
- ``{_id, had, value}``: one field's value before.
- ``{_id, before}``: some top-level fields, or the whole document, before.

Images hold personal values wherever the documents do: an erasure must visit them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from bson.raw_bson import RawBSONDocument

from mongo_ops.migrations.operations.base import apply_update
from mongo_ops.migrations.operations.fields import is_plain, parents
from mongo_ops.mongo.documents import CODEC

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from mongo_ops.migrations.operations.base import Bench
    from mongo_ops.migrations.operations.fields import Filter, Update
    from mongo_ops.mongo.batches import Counts

T = TypeVar("T")
NAMESPACE_EXISTS = 48
BY_ID = [("_id", 1)]
CHUNK = 1000
"""Documents held in memory at once, and ids named in one filter (1,000 ids of 1 KB each stay far below 16 MB)."""
ONE_ANSWER = CHUNK + 1
"""A batch size that shows with the last document of a chunk whether there are more, instead of in an answer of its own."""

IDS: Mapping[str, Any] = {"_id": 1}
"""Projection for images that only say which documents were changed."""


def raw(collection: Collection[Any]) -> Collection[RawBSONDocument]:
    """Return the collection so that it reads and writes documents as bytes: nothing in them can change on the way."""
    return collection.with_options(codec_options=CODEC.with_options(document_class=RawBSONDocument))


def of_value(path: str) -> Mapping[str, Any]:
    """Return the projection for images of one field that is there."""
    return {"_id": 1, "had": {"$literal": True}, "value": f"${path}"}


def of_fields(names: Iterable[str] | None) -> Mapping[str, Any]:
    """Return the projection for images of top-level fields; of the whole document for None."""
    return {"_id": 1, "before": "$$ROOT" if names is None else {name: f"${name}" for name in names}}


def of_making(path: str) -> Mapping[str, Any]:
    """Return the projection for images of documents that get the path: which parent will be made, if any."""
    ways = [{"case": {"$eq": [{"$type": f"${parent}"}, "missing"]}, "then": parent} for parent in parents(path)]
    return {"_id": 1, "made": {"$switch": {"branches": ways, "default": None}}} if ways else IDS


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield the items in lists of at most ``size``."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def prepare(at: Bench, *names: str) -> None:
    """Make the images' collection, and others by name, before any transaction writes to them."""
    from pymongo import WriteConcern  # noqa: PLC0415 - keeps pymongo out of the parse path
    from pymongo.errors import OperationFailure  # noqa: PLC0415

    at.check()
    quick = at.db.with_options(write_concern=WriteConcern(w=1))  # the batches' majority commits wait for it
    for name in sorted({at.images.name, *names}):
        try:
            quick.create_collection(name, check_exists=False)
        except OperationFailure as error:
            if error.code != NAMESPACE_EXISTS:
                raise


def change(
    at: Bench, collection: str, where: Filter, update: Update, *, image: Mapping[str, Any], digest: str
) -> Counts:
    """Apply an update to the matching documents in exactly-once batches, each with its before-images.

    Args:
        at: where to work.
        collection: what to walk.
        where: whom to change, besides the batch's range.
        update: operators or a pipeline.
        image: the projection that makes an image of a document.
        digest: the step's digest.
    """
    prepare(at)
    write = apply_update(at.db, collection, update)
    source, images = raw(at.db[collection]), raw(at.images)

    def apply(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        for some in chunks(source.find(selected, image, session=session, hint=BY_ID, batch_size=ONE_ANSWER)):
            images.insert_many(some, session=session)
        return write(session, selected)

    return at.batches(collection, where, apply, digest)


def undo(at: Bench, digest: str, act: Callable[[ClientSession, Sequence[Mapping[str, Any]]], Counts]) -> Counts:
    """Walk the images in exactly-once batches; ``act`` undoes some of them, then they are forgotten."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    def apply(session: ClientSession, selected: Mapping[str, Any]) -> Counts:
        done = Counts()
        for some in chunks(raw(at.images).find(selected, session=session, batch_size=ONE_ANSWER)):
            done += act(session, some)
        at.images.delete_many(selected, session=session)
        return done

    return at.batches(at.images.name, {}, apply, digest)


def undo_update(at: Bench, collection: str, where: Filter, update: Update, digest: str, *, unmake: str = "") -> Counts:
    """Undo by one update on the documents that were changed, as far as they still match ``where``.

    Args:
        at: where to work.
        collection: whose documents were changed.
        where: which of them the update can still undo.
        update: operators or a pipeline.
        digest: the step's digest.
        unmake: the dotted field whose parents were made for it; they go if they are empty now.
    """

    def act(session: ClientSession, images: Sequence[Mapping[str, Any]]) -> Counts:
        write = apply_update(at.db, collection, update)
        done = write(session, {"$and": [{"_id": {"$in": [image["_id"] for image in images]}}, dict(where)]})
        for parent in reversed(parents(unmake)):
            made = [image["_id"] for image in images if image["made"] and f"{parent}.".startswith(f"{image['made']}.")]
            empty = {parent: {"$eq": {}, **is_plain(parent)[parent]}}
            if made:
                at.db[collection].update_many(
                    {"_id": {"$in": made}, **empty}, {"$unset": {parent: ""}}, session=session
                )
        return done

    return undo(at, digest, act)


def restore(at: Bench, collection: str, write_for: Callable[[Mapping[str, Any]], Any], digest: str) -> Counts:
    """Undo by one write per image: ``write_for`` returns pymongo's UpdateOne or ReplaceOne for it."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    def act(session: ClientSession, images: Sequence[Mapping[str, Any]]) -> Counts:
        done = at.db[collection].bulk_write([write_for(image) for image in images], ordered=False, session=session)
        return Counts(matched=done.matched_count, modified=done.modified_count)

    return undo(at, digest, act)
