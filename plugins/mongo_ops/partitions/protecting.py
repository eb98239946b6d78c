"""Which documents must stay: under a legal hold, or of a person who is held or whose own erasure is under way. Reads only.

A hold on the source collection or on the router view counts for every month as well: whoever placed it could not know the months.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mongo_ops.erasure import holds
from mongo_ops.erasure.holds import Holds
from mongo_ops.erasure.protection import Protection, protection
from mongo_ops.partitions.errors import HeldError, HoldsChangedError
from mongo_ops.partitions.months import RETIRED

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.documents import Document

AT_ONCE = 1000


@dataclass(frozen=True)
class Protected:
    """Who and what is protected in the collections of one partitioning, as it was looked up.

    Attributes:
        held: the legal holds.
        people: whose documents stay; None where no data map says whose documents there are.
        names: the collection and its router view, whose holds count everywhere.
    """

    held: Holds
    people: Protection | None
    names: tuple[str, ...]

    def exclusion(self, name: str) -> Document | None:
        """Return the filter that leaves out what holds on documents name, or None when they name nothing there."""
        names = dict.fromkeys((name, name.removesuffix(RETIRED), *self.names))
        found = [one for one in map(self.held.exclusion, names) if one is not None]
        return {"$and": found} if found else None

    def insist_on_unchanged(self, db: Database[Document], session: ClientSession) -> None:
        """Refuse to go on with holds that are not those of now.

        Raises:
            HoldsChangedError: a hold was placed or released since they were looked up.
        """
        if holds.active(db, session).digest != self.held.digest:
            raise HoldsChangedError("A legal hold was placed or released meanwhile. Run again: it is looked up anew.")

    def free(self, db: Database[Document], name: str, query: Mapping[str, Any], session: ClientSession) -> list[Any]:
        """Return the keys of the selected documents that nothing protects.

        Raises:
            HoldsChangedError: a hold was placed or released since it was looked up.
        """
        self.insist_on_unchanged(db, session)
        excluded = self.exclusion(name)
        chosen = {"$and": [dict(query), excluded]} if excluded else dict(query)
        if self.people is None:
            return [one["_id"] for one in db[name].find(chosen, {"_id": 1}, session=session)]
        return self.people.free(db, name, chosen, session)

    def count(self, db: Database[Document], name: str, query: Mapping[str, Any] | None = None) -> int:
        """Return how many of the selected documents are protected.

        Where no person is protected one count tells; else the collection is walked, a thousand documents at a time.
        """
        chosen = dict(query or {})
        excluded = self.exclusion(name)
        if self.people is None or not self.people.work.subjects or not self.people.rules:
            return db[name].count_documents({"$and": [chosen, {"$nor": [excluded]}]}) if excluded else 0
        total = 0
        with db.client.start_session() as session:
            for keys in _chunks(db, name, chosen):
                total += len(keys) - len(self.free(db, name, {"_id": {"$in": keys}}, session))
        return total


def look_up(db: Database[Document], erasure: Engine | None, names: Sequence[str]) -> Protected:
    """Return what is protected now.

    Args:
        db: the environment's database.
        erasure: erasure on the environment; None where there is no data map.
        names: the collection, and its router view.

    Raises:
        HeldError: people are held and nobody can say which documents are theirs.
    """
    held = holds.active(db)
    if erasure is None:
        if held.references:
            raise HeldError(
                "People are under a legal hold, and without a data map (include/data_map.yaml) nobody can say which documents "
                "are theirs. Nothing is dropped; write the data map, or release the holds."
            )
        return Protected(held, None, tuple(names))
    return Protected(held, protection(erasure, names[0]), tuple(names))


def insist_on_free(db: Database[Document], protected: Protected, name: str) -> None:
    """Refuse to drop a collection with a document that must stay.

    Raises:
        HeldError: nothing was dropped.
    """
    number = protected.count(db, name)
    if number:
        raise HeldError(
            f"{number:,} documents of {name} are under a legal hold, or belong to somebody who is. The collection stays; "
            "`mongo-ops erase holds` shows the holds."
        )


def _chunks(db: Database[Document], name: str, query: Mapping[str, Any]) -> Iterator[list[Any]]:
    keys: list[Any] = []
    for one in db[name].find(query, {"_id": 1}):
        keys.append(one["_id"])
        if len(keys) == AT_ONCE:
            yield keys
            keys = []
    if keys:
        yield keys
