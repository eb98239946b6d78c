"""Follow the chain from its first entry to its last and name what is wrong. Pure; memory does not grow with the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mongo_ops.audit.chain import GENESIS, altered_values, entry_hash, erased_values
from mongo_ops.audit.model import Fault, FaultKind, Head

MAX_FAULTS = 1000
MAX_SUSPECTS = 32  # entries kept to find out which was moved where


class Walk:
    """Takes the entries in the order of ``chain.seq``, then the head documents, and collects faults.

    ``head`` is the head as read before the first entry, ``anchor`` a head that was noted elsewhere earlier.
    """

    def __init__(self, head: Head | None, anchor: Head | None = None) -> None:
        self._before, self._anchor = head, anchor
        self._hashes: frozenset[str] | None = frozenset({GENESIS.hash})  # None: unknown, after a gap
        self._doubted = False
        self._suspects: list[Mapping[str, Any]] = []
        self._faults: list[Fault] = []
        self.entries = self.erased = self.more_faults = 0
        self.last = GENESIS

    def step(self, document: Mapping[str, Any]) -> None:
        """Look at the next entry."""
        self.entries += 1
        self.erased += erased_values(document)
        chain = document["chain"] if isinstance(document.get("chain"), Mapping) else {}
        seq = chain.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool) or seq < 1:
            self._fault("forged", None, "An entry has a number that is no positive integer, which no writer gives.")
        elif seq == self.last.seq:
            self._fault("forged", seq, f"Two entries claim the number {seq}; one of them was put there.")
            self._hashes = (self._hashes or frozenset()) | {str(chain.get("hash"))}
        elif self._before is not None and seq > self._before.seq and seq != self.last.seq + 1:
            self._fault(
                "forged", seq, f"Entry {seq} stands beyond the head ({self._before.seq}) without those between."
            )
        else:
            self._follow(document, chain, seq)

    def _follow(self, document: Mapping[str, Any], chain: Mapping[str, Any], seq: int) -> None:
        if seq > self.last.seq + 1:
            self._fault("deleted", self.last.seq + 1, _missing(self.last.seq + 1, seq - 1))
            self._hashes, self._doubted = None, False
        stored = str(chain.get("hash"))
        whole = entry_hash(document) == stored
        if not whole:
            self._fault("edited", seq, f"Entry {seq} is not what was written: its content does not fit its hash.")
            self._suspect(document)
        elif self._hashes is not None and chain.get("previous") not in self._hashes and not self._doubted:
            self._broken_link(seq)
        for name in altered_values(document):
            self._fault(
                "edited", seq, f"Entry {seq}: the personal value `{name}` is not the one the entry committed to."
            )
        if self._anchor is not None and seq == self._anchor.seq and stored != self._anchor.hash:
            self._fault(
                "edited", seq, f"Entry {seq} has another hash than was anchored: the log was rewritten up to there."
            )
        self.last, self._hashes, self._doubted = Head(seq, stored), frozenset({stored}), not whole

    def _broken_link(self, seq: int) -> None:
        if seq == 1:
            self._fault("forged", 1, "Entry 1 does not begin a chain: it names an entry before it.")
        else:
            self._fault("edited", seq - 1, f"Entry {seq - 1} was rewritten: entry {seq} follows one with another hash.")

    def finish(self, head: Head | None) -> tuple[Fault, ...]:
        """Compare the end with the head documents and return all faults. ``head`` was read after the last entry."""
        self._compare(self._before or head, head)
        if self._anchor is not None and self._anchor.seq > self.last.seq:
            sentence = f"Entries {self.last.seq + 1} to {self._anchor.seq} are gone: they were there when the log was anchored."
            self._fault("truncated", self.last.seq + 1, sentence)
        moved = self._moved()
        return tuple(moved.get(f.seq, f) if f.kind == "edited" and f.seq is not None else f for f in self._faults)

    def _compare(self, before: Head | None, after: Head | None) -> None:
        last = self.last
        if before is None or after is None:
            if self.entries:
                self._fault("head", last.seq, "The head document is gone although there are chained entries.")
        elif last.seq < before.seq:
            missing = _missing(last.seq + 1, before.seq)
            self._fault("truncated", last.seq + 1, f"The end is cut off: {missing[0].lower()}{missing[1:]}")
        elif last.seq > after.seq:
            sentence = f"The head stands at entry {after.seq} but entries go on to {last.seq}: it was set back, or they are forged."
            self._fault("head", last.seq, sentence)
        elif any(last.seq == head.seq and head.hash not in (self._hashes or ()) for head in (before, after)):
            self._fault(
                "head", last.seq, f"The head names another hash for entry {last.seq}: one of the two was rewritten."
            )

    def _moved(self) -> dict[int, Fault]:
        """Tell moved entries from edited ones: a moved one fits its hash again under the number of another."""
        seals = {str(one["chain"].get("hash")) for one in self._suspects}
        moved: dict[int, Fault] = {}
        for one in self._suspects:
            for other in self._suspects:
                numbers = {**one["chain"], "seq": other["chain"]["seq"]}
                tries = ({**one, "chain": numbers}, {**one, "chain": other["chain"]})
                if one is not other and not seals.isdisjoint(map(entry_hash, tries)):
                    seq, home = one["chain"]["seq"], other["chain"]["seq"]
                    moved[seq] = Fault("reordered", seq, f"Entry {seq} was moved there from the place of entry {home}.")
        return moved

    def _suspect(self, document: Mapping[str, Any]) -> None:
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.append(document)

    def _fault(self, kind: FaultKind, seq: int | None, sentence: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(Fault(kind, seq, sentence))
        else:
            self.more_faults += 1


def _missing(first: int, last: int) -> str:
    return f"Entry {first} is missing." if first == last else f"Entries {first} to {last} are missing."
