"""Are languages such that a reader or the text index knows them?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError
from mongo_ops.health.sight import Sight

TAG = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?(-[A-Za-z0-9]{4,8})*")
MOST = 500


def read(sight: Sight) -> Mapping[str, Mapping[str, int]]:
    """Count documents per language at the places that health.yaml names; ``MOST`` languages of each."""
    sizes, found = sight.snapshot.need("sizes"), {}
    for place in sight.limits.option("places"):
        name, _, field = place.partition(".")
        if name in sizes and sizes[name]["count"] <= sight.limits.option("largest"):
            stages: list[Mapping[str, Any]] = [
                {"$match": {field: {"$ne": None}}}, {"$group": {"_id": f"${field}", "n": {"$sum": 1}}}, {"$limit": MOST},
            ]  # fmt: skip
            found[place] = {str(one["_id"]): int(one["n"]) for one in sight.db[name].aggregate(stages)}
    if not found:
        raise NotApplicableError("None of the places that health.yaml names is here.")
    return found


def is_known(tag: str, languages: frozenset[str]) -> bool:
    """Say whether a tag has BCP 47's canonical form and begins with a language that is known; an empty set knows all."""
    return TAG.fullmatch(tag) is not None and (not languages or tag.partition("-")[0] in languages)


def verdict(facts: Mapping[str, Mapping[str, int]], limits: Limits) -> Iterator[Finding]:
    """Grade how many documents name an unknown language. Which ones is not shown: a stray field may hold anything."""
    languages = frozenset(limits.option("languages"))
    for place, counts in facts.items():
        strange = {tag: count for tag, count in counts.items() if not is_known(tag, languages)}
        total = sum(strange.values())
        if total:
            sentence = f"{total:,} documents at {place} name {len(strange)} languages that are none."
            yield Finding(limits.grade(total), sentence, place, total, "documents")


CHECK = Check(
    "unknown_languages", "Unknown languages", "data",
    "Group by the field to see them; convert them to BCP 47 tags in a migration.",
    Limits(1, options={"places": ["multilingual_content.lang"], "languages": [], "largest": 2_000_000}), verdict, read,
)  # fmt: skip
