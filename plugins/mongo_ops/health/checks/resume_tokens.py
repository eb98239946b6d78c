"""Are stored change-stream tokens still far from the end of the oplog? A token that fell out cannot be resumed (code 286)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mongo_ops.health.checks.oplog_window import filled
from mongo_ops.health.model import Check, Finding, Limits, NotApplicableError, Status, shown_id
from mongo_ops.health.sight import Sight

TIMESTAMP = "82"  # the type byte with which the clock time begins in a token
CLOCK = slice(2, 10)
MOST = 1000


@dataclass(frozen=True)
class Tokens:
    """Tokens by where they are kept, the ends of the oplog, and which share of it is full: before that nothing falls out."""

    first: datetime
    last: datetime
    fill: float
    kept: Sequence[tuple[str, Any]]


def moment(token: Any) -> datetime | None:
    """Return the moment a token stands for; None when it is of an unknown form.

    Source: the token's ``_data`` is a KeyString in hex: a timestamp's type, then seconds and increment, big-endian.
    """
    text = token.get("_data") if isinstance(token, Mapping) else token
    if not isinstance(text, str) or not text.startswith(TIMESTAMP):
        return None
    try:
        return datetime.fromtimestamp(int(text[CLOCK], 16), UTC)
    except ValueError:
        return None


def read(sight: Sight) -> Tokens:
    """Read the places that health.yaml names as ``collection.field``."""
    places = sight.limits.option("places")
    if not places:
        raise NotApplicableError("health.yaml names no place where resume tokens are kept.")
    oplog = sight.snapshot.need("oplog")
    kept: list[tuple[str, Any]] = []
    for place in places:
        collection, _, field = place.partition(".")
        cursor = sight.db[collection].find({field: {"$exists": True}}, {field: 1}).limit(MOST)
        kept += [(f"{place} of {shown_id(document['_id'])}", _reached(document, field)) for document in cursor]
    return Tokens(oplog["first"], oplog["last"], filled(oplog), kept)


def _reached(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def verdict(facts: Tokens, limits: Limits) -> Iterator[Finding]:
    """Grade which share of the window is left before a token falls out, once the oplog is as full as the option ``full`` says."""
    falling = facts.fill >= limits.option("full")
    window = max((facts.last - facts.first).total_seconds(), 1.0)
    for place, token in facts.kept:
        at = moment(token)
        if at is None:
            yield Finding(Status.UNKNOWN, f"The token at {place} is of an unknown form.", place)
        elif at < facts.first or (falling and at == facts.first):  # both are known to the second
            yield Finding(Status.CRIT, f"The token at {place} is older than the oplog: it cannot be resumed.", place)
        else:
            left = (at - facts.first).total_seconds() / window
            status = limits.grade(left) if falling else Status.OK
            yield Finding(status, f"The token at {place} is {left:.0%} of the oplog's window from its end.", place)


CHECK = Check(
    "resume_tokens", "Resume tokens", "replication",
    "Start the reader of changes again, or make the oplog larger; a token that fell out needs a new copy.",
    Limits(0.25, 0.1, options={"places": [], "full": 0.9}), verdict, read,
)  # fmt: skip
