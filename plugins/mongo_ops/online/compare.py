"""Compare what should be with what is, byte for byte, inside one snapshot: hash buckets first, the differing ones by key.

Both sides are read as raw BSON, so that 1, 1.0 and a long 1 are told apart wherever they stand, and so is the order of fields.
Memory does not grow with the collection: 256 sums per side, and the digests of the buckets that differ.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import bson
from bson import Int64, ObjectId

from mongo_ops.mongo.documents import CODEC
from mongo_ops.online.shape import id_bytes
from mongo_ops.online.stream import key_bytes

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from mongo_ops.online.work import Work

BUCKETS = 256
MODULUS = 2**128
NAMED = 20
MOST = 20_000
SHORT = 12

Side = Callable[["ClientSession | None"], Iterable[bytes]]


@dataclass
class Buckets:
    """Sums over documents: per bucket the number, the bytes, and the sum of the documents' digests."""

    count: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    size: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    sums: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, document: bytes) -> None:
        """Add one document."""
        number = bucket(id_bytes(document))
        self.count[number] += 1
        self.size[number] += len(document)
        self.sums[number] = (self.sums[number] + value(document)) % MODULUS

    def differing(self, other: Buckets) -> frozenset[int]:
        """Return the buckets in which the two differ."""
        mine, theirs = (list(zip(one.count, one.size, one.sums, strict=True)) for one in (self, other))
        return frozenset(number for number in range(BUCKETS) if mine[number] != theirs[number])


@dataclass(frozen=True)
class Compared:
    """What a comparison saw: documents and bytes that should be there, the sum of their digests, the ``_id`` of those that differ.

    ``more`` says that there are further ones beyond ``MOST``.
    """

    documents: int
    bytes: int
    total: int
    keys: tuple[Any, ...]
    more: bool = False


def bucket(key: bytes) -> int:
    """Return the bucket of a key."""
    return hashlib.blake2b(key, digest_size=1).digest()[0]


def value(document: bytes) -> int:
    """Return the digest of a document as a number."""
    return int.from_bytes(hashlib.blake2b(document, digest_size=16).digest(), "big")


@contextlib.contextmanager
def snapshot(work: Work, *, capped: bool = False) -> Iterator[ClientSession | None]:
    """Yield a session all of whose reads see one moment, not older than what the work has seen. Capped collections have none."""
    work.db[work.spec.collection].find_one(
        {}, {"_id": 1}, session=work.session
    )  # the server has come as far as we have
    if capped:
        yield None
        return
    with work.target.client.start_session(snapshot=True) as session:
        yield session


def compare(wanted: Side, actual: Side, session: ClientSession | None) -> Compared:
    """Compare two sides; both are read once more where their buckets differ."""
    sides = [Buckets(), Buckets()]
    for side, sums in zip((wanted, actual), sides, strict=True):
        for document in side(session):
            sums.add(document)
    odd = sides[0].differing(sides[1])
    keys, more = _named(wanted, actual, odd, session) if odd else ((), False)
    first = sides[0]
    return Compared(sum(first.count), sum(first.size), sum(first.sums) % MODULUS, keys, more)


def _named(
    wanted: Side, actual: Side, odd: frozenset[int], session: ClientSession | None
) -> tuple[tuple[Any, ...], bool]:
    """Return the keys that differ in these buckets, bucket by bucket so long as there are few."""
    keys: dict[bytes, Any] = {}
    groups = [odd] if len(odd) <= BUCKETS // 16 else [frozenset(part) for part in _parts(sorted(odd))]
    for group in groups:
        there = {id_bytes(one): value(one) for one in wanted(session) if bucket(id_bytes(one)) in group}
        for one in actual(session):
            key = id_bytes(one)
            if bucket(key) in group and there.pop(key, None) != value(one):
                keys.setdefault(key, _id_of(one))
        keys |= _missing(wanted, frozenset(there), session)
        if len(keys) > MOST:
            return tuple(keys.values())[:MOST], True
    return tuple(keys.values()), False


def _missing(wanted: Side, left: frozenset[bytes], session: ClientSession | None) -> dict[bytes, Any]:
    if not left:
        return {}
    return {key: _id_of(one) for one in wanted(session) if (key := id_bytes(one)) in left}


def _parts(numbers: list[int]) -> Iterator[list[int]]:
    step = BUCKETS // 16
    yield from (numbers[start : start + step] for start in range(0, len(numbers), step))


def _id_of(document: bytes) -> Any:
    return bson.decode(document, CODEC)["_id"]


def shown(key: Any) -> str:
    """Return a key for people: as it is when it is an ObjectId or an integer, else a digest, since it may be personal."""
    if isinstance(key, ObjectId | Int64) or type(key) is int:
        return str(key)
    return f"_id with digest {hashlib.sha256(key_bytes(key)).hexdigest()[:SHORT]}"
