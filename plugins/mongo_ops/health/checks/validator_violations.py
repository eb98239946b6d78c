"""Do stored documents break their collection's validator? They were there before it, came past it, or it only warns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import EVIDENCE, Check, Finding, Limits, shown_ids
from mongo_ops.health.sight import Sight, together


def read(sight: Sight) -> Mapping[str, Any]:
    """Count them in every collection of at most ``largest`` documents, with the first keys."""
    sizes, most = sight.snapshot.need("sizes"), sight.limits.option("largest")
    rules = {one["name"]: one["md"]["options"].get("validator") for one in sight.snapshot.collections}
    ids = {"$firstN": {"input": "$_id", "n": EVIDENCE}}
    group = {"$group": {"_id": None, "n": {"$sum": 1}, "ids": ids}}
    return dict(
        together(
            sight.db,
            [
                (name, [{"$match": {"$nor": [rule]}}, group])
                for name, rule in rules.items()
                if rule and sizes.get(name, {}).get("count", 0) <= most
            ],
        )
    )


def verdict(facts: Mapping[str, Any], limits: Limits) -> Iterator[Finding]:
    """Grade the number of documents that break the rules."""
    for name, one in sorted(facts.items()):
        sentence = f"{one['n']:,} documents of {name} break its validator: updates of them may be refused."
        yield Finding(limits.grade(one["n"]), sentence, name, one["n"], "documents", shown_ids(one["ids"]))


CHECK = Check(
    "validator_violations", "Documents that break their validator", "schema",
    "Mend them in a migration (convert, backfill); find the writer that gets past the validator.",
    Limits(1, options={"largest": 2_000_000}), verdict, read,
)  # fmt: skip
