"""Pieces that the reference model's validators are built from: types, formats, enums, and the fields of a user.

Frozen once a migration that imports it has run anywhere: the checksum of a migration covers this file, so an edit here is drift
in every one of them. A later migration that needs another shape brings its own module.

Whether a document may hold fields that its validator does not name is decided for each collection:

- *open* (the default) where the product grows: a new version of the application writes a new field first, a migration makes it a
  rule later (expand, then contract). Closed, every feature would start with a lock-step deployment.
- *closed* where a stray field is a fault in itself: evidence (``consent``), and what is recorded of people's movements and log-ins
  (``geo_events``, ``security_events``). A new personal value there must pass through a migration, and so through review.
- Small values with a standard behind them (a GeoJSON point, a price, a chain link) are closed everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]


def whole(pattern: str) -> str:
    """Return the pattern for a whole value. A bare ``$`` would also match in front of a final line break."""
    return rf"^(?:{pattern})$(?!\n)"


def text(longest: int, shortest: int = 1) -> Schema:
    """Return the schema of a string; by default it may not be empty."""
    return {"bsonType": "string", "minLength": shortest, "maxLength": longest}


def one_of(*values: str) -> Schema:
    """Return the schema of an enum of strings."""
    return {"bsonType": "string", "enum": list(values)}


def array(items: Schema, most: int, **rest: Any) -> Schema:
    """Return the schema of an array with an upper bound: documents end at 16 MiB, and multikey indexes grow with each item."""
    return {"bsonType": "array", "maxItems": most, "items": items, **rest}


def record(
    properties: Mapping[str, Schema], required: Sequence[str] = (), *, closed: bool = True, **rest: Any
) -> Schema:
    """Return the schema of an embedded document, closed unless said otherwise."""
    schema: Schema = {"bsonType": "object", "properties": dict(properties), **rest}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def validator(
    title: str, properties: Mapping[str, Schema], required: Sequence[str], *, closed: bool = False, **rest: Any
) -> dict[str, Schema]:
    """Return a collection's validator. Open unless said otherwise; ``_id`` is an ObjectId unless ``properties`` says otherwise."""
    schema = record({"_id": OBJECT_ID, **properties}, required, closed=closed, **rest)
    return {"$jsonSchema": {"title": title, **schema}}


# Types ------------------------------------------------------------------------------------------------------------------

OBJECT_ID: Schema = {"bsonType": "objectId"}
OBJECT_ID_OR_NULL: Schema = {"bsonType": ["objectId", "null"]}
DATE: Schema = {"bsonType": "date"}
DATE_OR_NULL: Schema = {"bsonType": ["date", "null"]}
BOOL: Schema = {"bsonType": "bool"}
COUNT: Schema = {"bsonType": ["int", "long"], "minimum": 0}
ORDINAL: Schema = {"bsonType": ["int", "long"], "minimum": 1}

# Formats ----------------------------------------------------------------------------------------------------------------

EMAIL: Schema = {**text(254, 3), "pattern": whole(r"[^\s@]+@[^\s@.]+(\.[^\s@.]+)+")}
"""One @ and a dotted domain; whether it can be delivered only a message shows. 254: RFC 5321, erratum 1690."""

COUNTRY: Schema = {"bsonType": "string", "pattern": whole("[A-Z]{2}")}
"""ISO 3166-1 alpha-2. The form, not the list: the list changes without a release of ours."""

CURRENCY: Schema = {"bsonType": "string", "pattern": whole("[A-Z]{3}")}
"""ISO 4217."""

LANGUAGE_TAG: Schema = {
    **text(35, 2),
    "pattern": whole(
        r"[a-z]{2,3}"  # language
        r"(-[A-Z][a-z]{3})?"  # script
        r"(-([A-Z]{2}|[0-9]{3}))?"  # region
        r"(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"  # variants
        r"(-[a-wy-z0-9](-[a-z0-9]{2,8})+)*"  # extensions
        r"(-x(-[a-z0-9]{1,8})+)?"  # private use
    ),
}
"""BCP 47 (RFC 5646, section 2.1) in the canonical spelling of section 2.1.1: ``pt-BR``, ``zh-Hant``, ``es-419``.

One spelling, because ``pt-br`` and ``pt-BR`` are the same language to people and two values to an index. Extended language
subtags are left out: the canonical form (section 4.5) has none.
"""

SHA256_HEX: Schema = {"bsonType": "string", "pattern": whole("[0-9a-f]{64}")}
ISRC: Schema = {"bsonType": "string", "pattern": whole("[A-Z]{2}[A-Z0-9]{3}[0-9]{7}")}
ENTITY_TYPE: Schema = {"bsonType": "string", "pattern": whole("[a-z][a-z0-9_]{0,62}")}
"""What ``entity_id`` is the key of, in the singular: ``user``, ``track``."""

SUBJECT_REF: Schema = text(64)
"""A keyed pseudonym that takes the place of ``user_id`` where a record must outlive the account."""

SOURCE: Schema = record({"name": text(60), "id": {"bsonType": ["string", "int", "long"]}}, ["name"])
"""Where an imported document came from."""

PRICE: Schema = record({"cents": COUNT, "currency": CURRENCY}, ["cents", "currency"])
"""Minor units as an integer: 0.1 + 0.2 is not 0.3 in a double."""

POINT: Schema = record(
    {
        "type": one_of("Point"),
        "coordinates": {
            "bsonType": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": [
                {"bsonType": "number", "minimum": -180, "maximum": 180},
                {"bsonType": "number", "minimum": -90, "maximum": 90},
            ],
        },
    },
    ["type", "coordinates"],
    description="GeoJSON (RFC 7946): longitude first, then latitude",
)

# Enums that more than one migration needs -------------------------------------------------------------------------------

TEXT_INDEX_LANGUAGES = tuple("none da de en es fi fr hu it nb nl pt ro ru sv tr".split())  # noqa: SIM905 - a list of words
"""The languages that MongoDB's text index can stem, and ``none``. Far fewer than BCP 47 has, and without regions."""

CONSENT_TYPES = ("analytics", "marketing", "personalisation", "third_party_sharing", "ai_training")

# Fields of a user: 001 creates the collection, 004 demands more of them --------------------------------------------------

USER: dict[str, Schema] = {
    "email": EMAIL,
    "display_name": text(200),
    "given_name": text(100),
    "family_name": text(100),
    "company": text(200),
    "phone": text(40),
    "address": record({"street": text(300), "city": text(100), "region": text(100), "postal_code": text(20)}),
    "country": COUNTRY,
    "locale": LANGUAGE_TAG,
    "consents": record(dict.fromkeys(CONSENT_TYPES, BOOL)),
    "source": SOURCE,
    "created_at": DATE,
    "updated_at": DATE,
}
