"""Does a consent belong to a user who is there? After an erasure it carries a keyed reference instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mongo_ops.health.checks.dangling_references import stages
from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, shown_ids
from mongo_ops.health.sight import Sight, together


def read(sight: Sight) -> Mapping[str, Any]:
    """Count consents whose user is not known, with their own keys."""
    sizes = sight.snapshot.need("sizes")
    consent, users = sight.limits.option("collection"), sight.limits.option("users")
    if consent not in sizes or users not in sizes:
        raise NotApplicableError(f"There is no {consent} or no {users}.")
    most = sight.limits.option("sample")
    sample = most if sizes[consent]["count"] > most else None
    pipeline = stages(sight.limits.option("field"), users, sample, {})
    return next((one for _, one in together(sight.db, [(consent, pipeline)])), {"n": 0, "ids": []})


def verdict(facts: Mapping[str, Any], limits: Limits) -> Iterator[Finding]:
    """Grade their number."""
    if facts["n"]:
        sentence = f"{facts['n']:,} consents belong to no known user: nobody can withdraw them."
        yield Finding(
            limits.grade(facts["n"]), sentence, value=facts["n"], unit="documents", evidence=shown_ids(facts["ids"])
        )


CHECK = Check(
    "consents_without_user", "Consents without a known user", "data",
    "Find what deleted the user past `mongo-ops erase`, which keeps the evidence under a reference.",
    Limits(1, options={"collection": "consent", "users": "users", "field": "user_id", "sample": 50_000}), verdict, read,
)  # fmt: skip
