"""How long is the server's certificate still valid?"""

from __future__ import annotations

from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError
from mongo_ops.health.snapshot import Snapshot

FIELD = "SSLServerCertificateExpirationDate"
DAY = 86_400.0


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """Grade the days that are left."""
    ends = facts.need("server").get("security", {}).get(FIELD)
    if ends is None:
        raise NotApplicableError("The server has no certificate.")
    days = (ends - facts.taken_at).total_seconds() / DAY
    yield Finding(
        limits.grade(days), f"The server's certificate is valid for {days:.0f} more days.", value=days, unit="days"
    )


CHECK = Check(
    "certificate_expiry", "Certificate", "security",
    "Renew it; rotateCertificates loads it without a restart.", Limits(30, 7), verdict,
)  # fmt: skip
