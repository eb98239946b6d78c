"""Read a database's catalogue (collection options, indexes) in normal form, compare it, and send catalogue commands.

Two definitions are equal in normal form exactly when the server treats them alike: its defaults are filled in, versions it
chooses itself are left out, the order of fields does not count. Never reads or shows a document.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bson
from bson import json_util

from mongo_ops.errors import MongoOpsError, RunError
from mongo_ops.migrations.operations.base import Fault, OperationError
from mongo_ops.mongo.documents import CODEC, as_stored

if TYPE_CHECKING:
    from pymongo.database import Database
    from pymongo.errors import OperationFailure

    from mongo_ops.mongo.batches import Counts
    from mongo_ops.mongo.documents import Document

UNAUTHORIZED = 13
NOT_FOUND = 26
COMMAND_ON_VIEW = 166
DUPLICATE_KEY = 11000
# LockTimeout, MaxTimeMSExpired, WriteConcernTimeout, ShutdownInProgress, WriteConflict, ConflictingOperationInProgress,
# ExceededTimeLimit, IndexBuildAborted, InterruptedAtShutdown, Interrupted, InterruptedDueToReplStateChange, background work.
PASSING = frozenset({24, 50, 64, 91, 112, 117, 262, 276, 11600, 11601, 11602, 12586, 12587, 12588})
# Codes whose text quotes the command or a definition, never a document.
ABOUT_THE_COMMAND = frozenset({2, 9, 13, 14, 20, 26, 27, 48, 59, 67, 72, 73, 85, 86, 166, 197, 40414, 40415})
SERVER_CHOICES = frozenset({"v", "ns", "name", "background", "textIndexVersion", "2dsphereIndexVersion", "clustered"})
OPTIONS_2D = {"bits": 26, "min": -180, "max": 180}
SIMPLE = {"locale": "simple"}
SHOWN = 8


@dataclass(frozen=True)
class Listed:
    """A collection, time-series collection or view as ``listCollections`` shows it."""

    name: str
    type: str
    options: Mapping[str, Any]
    uuid: str | None = None
    """Another one means that it was dropped and made again. None for a view."""


@dataclass(frozen=True)
class Index:
    """An index as ``listIndexes`` shows it; ``building`` while its build has not committed."""

    name: str
    spec: Mapping[str, Any]
    building: bool = False


@dataclass(frozen=True)
class Difference:
    """One place where a definition is not as wanted, named by its dotted path."""

    path: str
    wanted: Any
    actual: Any

    def __str__(self) -> str:
        return f"{self.path}: wanted {_shown(self.wanted)}, is {_shown(self.actual)}"


def collection(db: Database[Document], name: str) -> Listed | None:
    """Return the collection of this name, or None."""
    for found in db.list_collections(filter={"name": name}):
        uuid = found.get("info", {}).get("uuid")
        return Listed(found["name"], found["type"], found.get("options", {}), str(uuid) if uuid is not None else None)
    return None


def identity(db: Database[Document], name: str) -> str | None:
    """Return the collection's UUID as text. None for a view or nothing."""
    listed = collection(db, name)
    return listed.uuid if listed else None


def indexes(db: Database[Document], name: str) -> tuple[Index, ...]:
    """Return the indexes of a collection, unfinished ones included; none when it does not exist or is a view."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415 - keeps pymongo out of the parse path

    try:
        specs = [dict(spec) for spec in db[name].list_indexes()]
    except OperationFailure as error:
        if error.code in (NOT_FOUND, COMMAND_ON_VIEW):
            return ()
        raise
    building = set(storage(db, name).get("indexBuilds", ())) if len(specs) > 1 else set()
    return tuple(Index(spec["name"], spec, spec["name"] in building) for spec in specs)


def storage(db: Database[Document], name: str) -> Document:
    """Return documents (``count``; buckets of a time series), bytes (``size``) and unfinished index builds (``indexBuilds``), shards added up."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415

    count = {"$ifNull": ["$storageStats.count", "$storageStats.timeseries.bucketCount"]}
    fields = {"count": count, "size": "$storageStats.size", "indexBuilds": "$storageStats.indexBuilds"}
    total: Document = {"count": 0, "size": 0, "indexBuilds": []}
    try:
        parts = list(db[name].aggregate([{"$collStats": {"storageStats": {}}}, {"$project": fields}]))
    except OperationFailure as error:
        if error.code in (NOT_FOUND, COMMAND_ON_VIEW, UNAUTHORIZED):
            return total
        raise
    for part in parts:
        total["count"] += part.get("count") or 0
        total["size"] += part.get("size", 0)
        total["indexBuilds"] += part.get("indexBuilds", [])
    return total


def orphaned_views(db: Database[Document], name: str) -> list[str]:
    """Return one sentence for each view that is defined on a collection which will no longer be there."""
    views = db.list_collections(filter={"type": "view", "options.viewOn": name})
    return [f"The view {view} reads {name} and will be empty." for view in sorted(view["name"] for view in views)]


def collation_form(collation: Mapping[str, Any] | None) -> Document | None:
    """Return a stored collation without the server's own version; None for plain binary comparison."""
    if not collation or collation.get("locale") == "simple":
        return None
    return {key: value for key, value in collation.items() if key != "version"}


def full_collation(db: Database[Document], collation: Mapping[str, Any] | None) -> Document | None:
    """Return a wanted collation with the server's defaults, which depend on the locale; the server fills them in.

    It does so in the explanation of a query, on replica sets and sharded clusters alike; nothing is read.
    """
    if collation_form(collation) is None:
        return None
    query = {"find": "ops_none", "collation": dict(collation or {})}
    explained = checked(lambda: db.command({"explain": query, "verbosity": "queryPlanner"}), "The collation")
    planned = {key: value for key, value in explained.items() if key != "command"}
    return collation_form(next(_find(planned, "collation"), collation))


def _find(value: Any, name: str) -> Iterator[Any]:
    if isinstance(value, Mapping):
        if name in value:
            yield value[name]
        for item in value.values():
            yield from _find(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _find(item, name)


def options_form(options: Mapping[str, Any]) -> Document:
    """Return collection options in normal form: only what differs from the server's defaults."""
    form = {key: value for key, value in as_stored(options).items() if value is not None and value is not False}
    if not form.get("validator"):
        for key in ("validator", "validationLevel", "validationAction"):
            form.pop(key, None)
    else:
        form = {"validationLevel": "strict", "validationAction": "error", **form}
    if "size" in form:
        form["size"] = max(4096, -(-int(form["size"]) // 256) * 256)  # the server rounds up
    if not form.get("changeStreamPreAndPostImages", {}).get("enabled"):
        form.pop("changeStreamPreAndPostImages", None)
    if isinstance(form.get("clusteredIndex"), Mapping):
        form["clusteredIndex"] = {k: v for k, v in form["clusteredIndex"].items() if k not in SERVER_CHOICES}
    if "timeseries" in form:
        form["timeseries"] = timeseries_form(form["timeseries"])
    form["collation"] = collation_form(form.get("collation"))
    return {key: value for key, value in form.items() if value is not None}


def timeseries_form(options: Mapping[str, Any]) -> Document:
    """Return time-series options with the default granularity, and without the bucket span that follows from it."""
    form = dict(options)
    if "bucketMaxSpanSeconds" not in form:
        form.setdefault("granularity", "seconds")
    if "granularity" in form:
        form.pop("bucketMaxSpanSeconds", None)
        form.pop("bucketRoundingSeconds", None)
    return form


def index_form(spec: Mapping[str, Any]) -> Document:
    """Return an index definition, wanted or stored, in normal form. The name is no part of it."""
    stored = as_stored(spec)
    form = {k: v for k, v in stored.items() if k not in SERVER_CHOICES and v is not None and v is not False}
    form["collation"] = collation_form(form.get("collation"))
    keys = list(form.pop("key").items())
    if any(way == "text" for _, way in keys):
        form = {"default_language": "english", "language_override": "language", **form, "collation": None}
        form["weights"] = {name: 1 for name, way in keys if way == "text" and name != "_fts"} | form.get("weights", {})
        keys = _text_keys(keys)
    for option, default in OPTIONS_2D.items():
        if form.get(option) == default:
            del form[option]
    return {"key": [list(pair) for pair in keys], **{k: v for k, v in form.items() if v is not None}}


def _text_keys(keys: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Write the text fields of a key the way the server stores them: as one pair, whatever their number."""
    before = keys[: [way for _, way in keys].index("text")]
    after = [pair for pair in keys[len(before) :] if pair[1] != "text" and pair[0] != "_ftsx"]
    return [*before, ("_fts", "text"), ("_ftsx", 1), *after]


def differences(wanted: Any, actual: Any, path: str = "") -> Iterator[Difference]:
    """Yield where two normal forms differ, the innermost named place of each."""
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        for name in dict.fromkeys([*wanted, *actual]):
            yield from differences(wanted.get(name), actual.get(name), f"{path}.{name}" if path else name)
    elif not same(wanted, actual):
        yield Difference(path, wanted, actual)


def same(one: Any, other: Any) -> bool:
    """Say whether two stored values are equal: 1 and 1.0 are, 1 and true are not, the order of fields does not count."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def told(found: Sequence[Difference]) -> str:
    """Return differences as one readable text."""
    rest = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(str(difference) for difference in found[:SHOWN]) + rest


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, default=json_util.default)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - what fits a line


def recreate_options(options: Mapping[str, Any]) -> Document:
    """Return the options with which ``create`` makes a collection like the listed one."""
    made = dict(options)
    if "timeseries" in made:
        made["timeseries"] = timeseries_form(made["timeseries"])
    if "collation" in made:
        made["collation"] = collation_form(made["collation"])
    return made


def rebuild_spec(spec: Mapping[str, Any], *, collated: bool) -> Document:
    """Return the definition with which ``createIndexes`` builds an index like the listed one.

    Args:
        spec: as listed.
        collated: the collection has a default collation, which an index without one must be kept from inheriting.
    """
    made = {key: value for key, value in spec.items() if key not in ("ns", "background")}
    if "collation" in made:
        made["collation"] = collation_form(made["collation"])
    elif collated:
        made["collation"] = SIMPLE
    return made


def note(value: Mapping[str, Any]) -> str:
    """Write a definition as text for :meth:`Operation.observe`: its names hold ``$`` and dots, and its types must survive."""
    return base64.b64encode(bson.encode(value, codec_options=CODEC)).decode("ascii")


def recall(text: str) -> Document:
    """Read a definition back from :func:`note`."""
    return bson.decode(base64.b64decode(text), CODEC)


def fact(found: Mapping[str, Any], name: str, subject: str) -> Any:
    """Return what was observed before the operation first ran.

    Raises:
        OperationError: nothing was (the migration was baselined), so nobody knows what to go back to.
    """
    if name not in found:
        raise OperationError(
            f"{subject}: its state before this migration was not recorded, so it cannot be undone; undo it by hand."
        )
    return found[name]


def name_fault(name: str) -> str | None:
    """Return why an operation may not work on a collection of this name, or None."""
    if not name:
        return "the collection name is empty"
    if name.startswith("ops_"):
        return f"{name} belongs to mongo-ops itself"
    if name.startswith("system."):
        return f"{name} belongs to the server"
    if "$" in name or "\0" in name or ".." in name or name[0] == "." or name[-1] == ".":
        return f"{name!r} is not a collection name: it must hold no '$' and no stray dots"
    return None


def name_faults(*names: str) -> Iterator[Fault]:
    """Yield MO203 for every collection that no operation may work on."""
    yield from (Fault("MO203", fault) for fault in map(name_fault, names) if fault)


def check_names(*names: str) -> None:
    """Raise when an operation may not work on one of these collections."""
    for fault in filter(None, map(name_fault, names)):
        raise OperationError(f"Refused: {fault}.")


def carry_out(db: Database[Document], command: Mapping[str, Any], subject: str) -> Document:
    """Send one catalogue command with the database's write concern.

    Raises:
        OperationError: the server refused it; the text holds no value of a document.
        RunError: it was interrupted; a retry looks again and goes on.
    """
    concern = db.write_concern.document
    return checked(lambda: db.command({**command, **({"writeConcern": concern} if concern else {})}), subject)


def checked(act: Callable[[], Document], subject: str) -> Document:
    """Do something on the server and say its refusal in our words."""
    from pymongo.errors import OperationFailure  # noqa: PLC0415

    try:
        return act()
    except OperationFailure as error:
        refused = refusal(error, subject)
    raise refused  # outside of the except block, so that no traceback holds on to the server's text


def refusal(error: OperationFailure, subject: str) -> MongoOpsError:
    """Return a server's refusal as our error, without its text when that may quote documents."""
    details = error.details or {}
    code = f"{details.get('codeName', 'error')}, code {error.code}"
    if error.code in PASSING:
        return RunError(f"{subject}: the server interrupted it ({code}). Run again: it goes on from what is there.")
    if error.code == DUPLICATE_KEY:
        return OperationError(
            f"{subject}: documents with equal keys exist ({code}). Make them distinct, then run again."
        )
    text = (
        details.get("errmsg", "")
        if error.code in ABOUT_THE_COMMAND
        else "its text may quote documents; see the server's log"
    )
    return OperationError(f"{subject}: the server refused it ({code}): {text}")


def none_counted() -> Counts:
    """Return zero counts: a catalogue change writes no document."""
    from mongo_ops.mongo.batches import Counts  # noqa: PLC0415 - keeps pymongo out of the parse path

    return Counts()
