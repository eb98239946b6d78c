"""Are authentication and TLS on? A server that listens on the loopback only is not asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status
from mongo_ops.health.snapshot import Snapshot

SECURE = frozenset({"requireTLS", "requireSSL"})


def verdict(facts: Snapshot, limits: Limits) -> Iterator[Finding]:
    """CRIT without authorization, WARN where connections may be in the clear."""
    del limits
    options = facts.need("options")
    addresses = {part.strip() for part in options["bind"].split(",") if not part.strip().startswith("/")}
    if all(is_loopback(address) for address in addresses) and not options["bind_all"]:
        raise NotApplicableError("The server listens on the loopback only.")
    if not options["authorization"]:
        yield Finding(Status.CRIT, "Authorization is off: who reaches the port may do everything.", "authorization")
    if options["tls"] not in SECURE:
        yield Finding(Status.WARN, f"TLS is {options['tls']}: passwords and data may travel in the clear.", "tls")


def is_loopback(address: str) -> bool:
    """Say whether nobody but this machine reaches an address; a name other than localhost may be anywhere."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


CHECK = Check(
    "open_door", "Authentication and TLS", "security",
    "Set security.authorization and net.tls.mode: requireTLS, member after member.", Limits(), verdict,
)  # fmt: skip
