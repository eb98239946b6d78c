"""Has an account more rights than a program needs?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, Status
from mongo_ops.health.snapshot import Snapshot

WIDE = [
    *(
        "root",
        "__system",
        "userAdminAnyDatabase",
        "dbAdminAnyDatabase",
        "readWriteAnyDatabase",
        "clusterAdmin",
        "restore",
    ),
]


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """WARN for each account with a wide role that health.yaml does not allow (``database.name``)."""
    wide, allowed = set(limits.option("roles")), set(limits.option("allowed"))
    for user in facts.need("users"):
        found = sorted(wide & set(user["roles"]))
        if found and user["name"] not in allowed:
            yield Finding(Status.WARN, f"The account {user['name']} has {', '.join(found)}.", user["name"])


CHECK = Check(
    "wide_roles", "Accounts with wide roles", "security",
    "Give it readWrite on its database; name the people's own emergency account in `allowed`.",
    Limits(options={"roles": WIDE, "allowed": []}), verdict,
)  # fmt: skip
