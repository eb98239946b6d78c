"""Find any of many byte patterns in a large buffer, exactly. Pure; knows nothing of documents.

Each pattern is represented by one window of eight bytes, of three the one that fewest other patterns share. All windows of the buffer
are looked up at once in a table of one bit each, then among the sorted windows, and only what is left is compared byte by byte. The
time for a buffer hardly depends on the number of patterns. (Aho-Corasick, measured first, needs a gigabyte for 400,000 patterns and 40 times as long.)

Patterns and buffers are compared in lower case (ASCII).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 8
SHORTEST = 6
"""Bytes. Shorter patterns would be found in documents of other people."""
_FEWEST_BITS, _SPARSE = 14, 16  # a small table stays in the processor's cache; a sparse one lets little through
_MIX = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing, Knuth, TAOCP volume 3, section 6.4
_CONTROL = 0x20
LETTER = "A-Za-z0-9\u00c0-\u024f\u0370-\u052f\u1e00-\u1fff"
"""What makes a word longer: digits and the letters of scripts that have cases. Chinese, for one, is written without spaces around names."""

LOCAL = f"{LETTER}._%+-"
"""What makes the part of an e-mail address before the @ longer."""

_WORD, _ADDRESS = re.compile(f"[{LETTER}]"), re.compile(f"[{LOCAL}]")
_LONGER_DOMAIN = re.compile(f"[{LETTER}]|[.-][{LETTER}]")
_LONGEST = 4  # bytes of a character in UTF-8
_ID = re.compile(rb"[0-9a-f-]{24,}\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """An occurrence: where it begins, which pattern, and the bytes as they are (not in lower case)."""

    start: int
    pattern: bytes
    exact: bytes


class Needles:
    """The patterns, prepared for searching."""

    def __init__(self, patterns: Iterable[bytes]) -> None:
        """Prepare. The few that are shorter than a window, such as the e-mail address a@b.io, are looked for one by one.

        Raises:
            ValueError: a pattern is too short or not in lower case.
        """
        self.patterns = frozenset(patterns)
        if any(not is_long_enough(one) or one != one.lower() for one in self.patterns):
            raise ValueError(
                f"Patterns must be in lower case and at least {WINDOW} bytes long, of e-mail addresses {SHORTEST}."
            )
        self._short = sorted(one for one in self.patterns if len(one) < WINDOW)
        self._at: dict[int, list[tuple[bytes, int]]] = {}
        long = [one for one in self.patterns if len(one) >= WINDOW]
        shared = Counter(one[offset : offset + WINDOW] for one in long for offset in _offsets(one))
        for one in long:
            _, offset = min((shared[one[offset : offset + WINDOW]], offset) for offset in _offsets(one))
            key = int.from_bytes(one[offset : offset + WINDOW], "little")
            self._at.setdefault(key, []).append((one, offset))
        self._keys: NDArray[np.uint64] = np.array(sorted(self._at), dtype=np.uint64)
        self._bits = max(_FEWEST_BITS, (_SPARSE * len(self._at)).bit_length())
        self._table = np.zeros(1 << self._bits, dtype=np.bool_)
        self._table[self._slot(self._keys)] = True

    def find(self, buffer: bytes) -> list[Found]:
        """Return every occurrence in the buffer that stands for itself, not as part of a longer word, by position."""
        if not self.patterns:
            return []
        low = buffer.lower()
        candidates = chain(self._candidates(low), _occurrences(low, self._short))
        places = {(start, one) for start, one in candidates if _stands_alone(low, start, one)}
        return [Found(start, one, buffer[start : start + len(one)]) for start, one in sorted(places)]

    def _slot(self, windows: NDArray[Any]) -> NDArray[np.uint64]:
        with np.errstate(over="ignore"):
            return (windows * _MIX) >> np.uint64(64 - self._bits)

    def _candidates(self, low: bytes) -> Iterator[tuple[int, bytes]]:
        for shift in range(WINDOW):
            count = (len(low) - shift) // WINDOW
            if count <= 0:
                return
            windows = np.frombuffer(low, dtype="<u8", count=count, offset=shift)
            likely = np.flatnonzero(self._table[self._slot(windows)])
            values = windows[likely]
            places = np.searchsorted(self._keys, values)
            exact = self._keys[np.minimum(places, len(self._keys) - 1)] == values
            for index, key in zip(likely[exact].tolist(), values[exact].tolist(), strict=True):
                for pattern, offset in self._at[key]:
                    start = index * WINDOW + shift - offset
                    if start >= 0 and low.startswith(pattern, start):
                        yield start, pattern


def _occurrences(low: bytes, patterns: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for one in patterns:
        start = low.find(one)
        while start >= 0:
            yield start, one
            start = low.find(one, start + 1)


def _offsets(pattern: bytes) -> tuple[int, ...]:
    last = len(pattern) - WINDOW
    return tuple({0, last // 2, last})


def _stands_alone(low: bytes, start: int, pattern: bytes) -> bool:
    """Say whether a text is not just a part of a longer one: ``ann@x.org`` inside ``joann@x.org`` is somebody else.

    Bytes that are no text (an ObjectId as it is stored) have no such neighbours, and an id or a digest in hex is never by chance a part of
    something longer.
    """
    if _ID.match(pattern) or not _is_text(pattern):
        return True
    end = start + len(pattern)
    before = low[max(0, start - _LONGEST) : start].decode("utf-8", "ignore")[-1:]
    after = low[end : end + 2 * _LONGEST].decode("utf-8", "ignore")
    if is_address(pattern.decode()):
        return not (_ADDRESS.match(before) or _LONGER_DOMAIN.match(after))
    return not (_WORD.match(before) or _WORD.match(after))


def is_long_enough(pattern: bytes) -> bool:
    """Say whether a pattern can be looked for: six digits stand in texts about anything, a@b.io does not."""
    return len(pattern) >= (SHORTEST if b"@" in pattern else WINDOW)


def is_address(text: str) -> bool:
    """Say whether a text is an e-mail address, as it is or URL-encoded."""
    return "@" in text or "%40" in text


def is_id(text: str) -> bool:
    """Say whether a text (in lower case) is an ObjectId, a UUID or a digest in hex."""
    return _ID.match(text.encode()) is not None


def _is_text(pattern: bytes) -> bool:
    if min(pattern) < _CONTROL:
        return False
    try:
        pattern.decode()
    except UnicodeDecodeError:
        return False
    return True
