"""Are there documents that their retention schedule should have removed?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError
from mongo_ops.health.sight import Overdue, Sight


def read(sight: Sight) -> Sequence[Overdue]:
    """Ask the layer above, which knows the data map."""
    if sight.outside.retention is None:
        raise NotApplicableError("No data map is known here.")
    return sight.outside.retention()


def verdict(facts: Sequence[Overdue], limits: Limits) -> Iterator[Finding]:
    """Grade how many documents of each rule are overdue."""
    for one in facts:
        if one.documents:
            sentence = f"{one.documents:,} documents are kept longer than {one.scope} allows. {one.why}".rstrip()
            yield Finding(limits.grade(one.documents), sentence, one.scope, one.documents, "documents")


CHECK = Check(
    "overdue_retention", "Overdue retention", "data",
    "Run the retention DAG; look why it did not, or what holds the documents.", Limits(1), verdict, read,
)  # fmt: skip
