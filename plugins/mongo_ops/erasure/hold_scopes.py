"""What a legal hold covers: a person by keyed references, or the documents of a collection that match a filter.

A filter is Extended JSON with plain query operators only: no code runs, and nothing in it may name a person. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import json_util
from bson.errors import BSONError
from pymongo.errors import OperationFailure

from mongo_ops.erasure import keycheck, references, register
from mongo_ops.erasure.keys import Keyring
from mongo_ops.errors import PlanError
from mongo_ops.mongo.documents import CODEC, Document

if TYPE_CHECKING:
    from pymongo.database import Database

OPERATORS = frozenset(
    {
        *("$and", "$or", "$nor", "$not", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
        *("$exists", "$type", "$elemMatch", "$size", "$all", "$mod", "$regex", "$options"),
    }
)
"""What works inside ``$nor`` on every collection and runs no code: not ``$where``, ``$expr``, ``$function``, ``$text``, ``$near``."""
_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, uuid_representation=CODEC.uuid_representation, tz_aware=True
)


class HoldRefusedError(PlanError):
    """What was given cannot become a legal hold, or cannot be released. Nothing was written."""


@dataclass(frozen=True, slots=True)
class SubjectScope:
    """One person, by the references of all epochs known when the hold is placed."""

    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentScope:
    """The documents of a collection that match a filter; an empty filter is the whole collection."""

    collection: str
    filter: Mapping[str, Any]


def of_subject(db: Database[Document], keyring: Keyring, kind: str, value: Any) -> SubjectScope:
    """Return the scope of a person, given the subject identifier's name and typed value.

    Raises:
        KeyMissingError, KeyExchangedError, NoReferenceError: there is no reference that would match a request's.
    """
    keycheck.recognise(db, keyring)
    return SubjectScope(references.references_of(keyring, kind, value))


def of_request(db: Database[Document], request_id: str) -> SubjectScope:
    """Return the scope of the person whose request it is.

    Raises:
        RequestMissingError: there is no such request.
    """
    document = db[register.REQUESTS].find_one({"_id": request_id}, {"references": 1})
    if document is None:
        raise register.missing(request_id)
    return SubjectScope(tuple(document["references"]))


def of_documents(db: Database[Document], collection: str, text: str) -> DocumentScope:
    """Return the scope of a collection's documents, given a filter in Extended JSON. The server is asked whether it understands it.

    Raises:
        HoldRefusedError: there is no such collection, or the filter is not one or may not be used.
    """
    query = parse(text)
    if not db.list_collection_names(filter={"name": collection}):
        raise HoldRefusedError(
            "There is no collection of that name; a hold on it would hold nothing. Check the spelling."
        )
    try:
        db.command("explain", {"find": collection, "filter": {"$nor": [query]}}, verbosity="queryPlanner")
    except OperationFailure as error:
        raise HoldRefusedError(f"The server does not understand the filter of the hold (code {error.code}).") from None
    return DocumentScope(collection, query)


def parse(text: str) -> Document:
    """Return the filter that a text holds. ``{}`` is the whole collection.

    Raises:
        HoldRefusedError: not Extended JSON, an operator that is not allowed, or a text that looks like a person's.
    """
    try:
        found = json_util.loads(text, json_options=_JSON)
    except (ValueError, TypeError, BSONError):
        raise HoldRefusedError(
            'The filter of a hold must be Extended JSON, for example {"severity": "critical"}.'
        ) from None
    if not isinstance(found, dict):
        raise HoldRefusedError("The filter of a hold must be a mapping of fields to conditions.")
    _check(found)
    return found


def as_text(query: Mapping[str, Any]) -> str:
    """Return the filter as canonical Extended JSON, in the order of its fields."""
    return json_util.dumps(query, json_options=_JSON)


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key.startswith("$") and key not in OPERATORS:
                raise HoldRefusedError(
                    f"The filter of a hold may not use {key}; it may use {', '.join(sorted(OPERATORS))}."
                )
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, str) and "@" in value:
        raise HoldRefusedError(
            "The filter of a hold holds what looks like an e-mail address, and it would be stored in clear. "
            "Hold a person by reference instead (`--request` or `--subject`)."
        )
