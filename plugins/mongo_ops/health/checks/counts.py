"""Is the declared number of documents the real one? After a crash a server may declare a wrong one, and every dashboard shows that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits
from mongo_ops.health.sight import Sight, together


@dataclass(frozen=True)
class Counted:
    """Declared before, exact, declared afterwards: what is written meanwhile lies between both declared numbers."""

    before: int
    exact: int
    after: int


def read(sight: Sight) -> Mapping[str, Counted]:
    """Count the collections of at most ``largest`` documents; look again only at those that differ."""
    sizes: Mapping[str, Any] = sight.snapshot.need("sizes")
    names = [name for name, size in sorted(sizes.items()) if size["count"] <= sight.limits.option("largest")]
    exact = dict.fromkeys(names, 0)
    exact |= {name: one["n"] for name, one in together(sight.db, [(name, [{"$count": "n"}]) for name in names])}
    before = {name: sizes[name]["count"] for name in names}
    odd = [name for name in names if exact[name] != before[name]]
    after = {name: sight.db[name].estimated_document_count() for name in odd}
    recounted = {name: sight.db[name].count_documents({}) for name in odd}
    return {name: Counted(after[name], recounted[name], sight.db[name].estimated_document_count()) for name in odd}


def verdict(facts: Mapping[str, Counted], limits: Limits) -> Iterator[Finding]:
    """Grade how many documents the exact count lies outside of what was declared."""
    for name, one in facts.items():
        low, high = sorted((one.before, one.after))
        wrong = max(low - one.exact, one.exact - high, 0)
        if wrong:
            sentence = f"{name} declares {one.after:,} documents and holds {one.exact:,}."
            yield Finding(limits.grade(wrong), sentence, name, wrong, "documents")


CHECK = Check(
    "counts", "Declared counts", "storage",
    "Run `validate` in a maintenance window: it repairs the counter. Until then count with countDocuments.",
    Limits(1, options={"largest": 200_000}), verdict, read,
)  # fmt: skip
