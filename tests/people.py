"""Keys, actors and a small data map for the tests of erasure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from mongo_ops.erasure.keys import PURPOSES, Keyring, renewed, variable
from mongo_ops.erasure.model import BlastRadius, CollectionEntry, DataMap, FieldNote, Identifier, Retention

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Staff:
    name: str = "Grace Example"
    kind: str = "os"


GRACE = Staff()


def key_values(epochs: int = 1) -> dict[str, str]:
    """Values of the four variables, each with so many epochs."""
    values: dict[str, str] = {}
    for purpose in PURPOSES:
        for _ in range(epochs):
            values[variable(purpose)] = renewed(purpose, values.get(variable(purpose)))
    return values


def keyring(values: dict[str, str] | None = None) -> Keyring:
    return Keyring.from_lookup((values or key_values()).get)


def rotated(values: dict[str, str]) -> dict[str, str]:
    """The same keys with a new one in front of each."""
    return {variable(purpose): renewed(purpose, values[variable(purpose)]) for purpose in PURPOSES}


def data_map(subject: str = "user_id") -> DataMap:
    """A map with one identifier, and collections of which two live by consent."""
    note = FieldNote("user.behavior")
    by_consent = (
        Retention("analytics.age", "analytics", "ts", "P13M", "delete", consent="analytics"),
        Retention("analytics.old", "analytics", "ts", "P5Y", "delete"),
    )
    entries = (
        CollectionEntry("analytics", {"ts": note, "_id": FieldNote("system")}, (), by_consent, consent="analytics"),
        CollectionEntry(
            "geo_events",
            {"location": FieldNote("user.location.precise")},
            (),
            (Retention("geo.age", "geo_events", "ts", "P1Y", "delete", consent="analytics"),),
            recipients=("maps",),
            consent="analytics",
        ),
        CollectionEntry("users", {"email": FieldNote("user.contact.email")}, ()),
    )
    identifiers = {subject: Identifier(subject, "users", "_id", types=("objectId",))}
    collections = {entry.name: entry for entry in entries}
    return DataMap(1, subject, identifiers, collections, (), BlastRadius(), "P35D", {}, "0" * 64)
