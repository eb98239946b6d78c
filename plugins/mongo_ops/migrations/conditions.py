"""Pre- and post-conditions of migrations: small assertions about the database, each a value that can be checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

    from mongo_ops.mongo.documents import Document


class Condition(ABC):
    """Something that must hold."""

    @abstractmethod
    def violation(self, db: Database[Document]) -> str | None:
        """Return what is wrong as one sentence without any value of a document, or None."""


@dataclass(frozen=True)
class NoneMatch(Condition):
    """No document of the collection matches."""

    collection: str
    where: Mapping[str, Any]

    def violation(self, db: Database[Document]) -> str | None:
        """Count the documents that should not be there."""
        count = db[self.collection].count_documents(dict(self.where))
        return f"{count:,} documents of {self.collection} match {sorted(self.where)}, none should" if count else None


@dataclass(frozen=True)
class CountIs(Condition):
    """At least, and at most, so many documents match."""

    collection: str
    where: Mapping[str, Any] = field(default_factory=dict)
    at_least: int = 0
    at_most: int | None = None

    def violation(self, db: Database[Document]) -> str | None:
        """Count the matching documents."""
        count = db[self.collection].count_documents(dict(self.where))
        if count < self.at_least:
            return f"{self.collection} has {count:,} matching documents, at least {self.at_least:,} are required"
        if self.at_most is not None and count > self.at_most:
            return f"{self.collection} has {count:,} matching documents, at most {self.at_most:,} are allowed"
        return None


@dataclass(frozen=True)
class CollectionExists(Condition):
    """The collection is there."""

    collection: str

    def violation(self, db: Database[Document]) -> str | None:
        """Look the collection up."""
        found = db.list_collection_names(filter={"name": self.collection})
        return None if found else f"the collection {self.collection} does not exist"


@dataclass(frozen=True)
class IndexExists(Condition):
    """The collection has an index of this name."""

    collection: str
    name: str

    def violation(self, db: Database[Document]) -> str | None:
        """Look the index up."""
        found = self.name in db[self.collection].index_information()
        return None if found else f"{self.collection} has no index {self.name}"
