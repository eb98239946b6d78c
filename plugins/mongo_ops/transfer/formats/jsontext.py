"""Cut text into rows without parsing it: lines, and the members of one JSON array. Constant memory but for one row."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mongo_ops.transfer.formats.base import Readable
from mongo_ops.transfer.formats.bsonfile import broken

Row = tuple[int, int, bytes]
"""Line (from 1), offset of its first byte, its bytes."""
BOM = b"\xef\xbb\xbf"
_FOREIGN = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_SPACE = b" \t\r\n"
_TOKEN = re.compile(rb'["{}\[\],]')
_IN_TEXT = re.compile(rb'[\\"]')


class Lines:
    """A file's text, from which rows are taken."""

    def __init__(self, reader: Readable, name: str, longest: int) -> None:
        self._reader, self.name, self._longest = reader, name, longest
        self.kept = bytearray(reader.some())
        while len(self.kept) < len(BOM) and (more := reader.some()):
            self.kept += more
        if self.kept.startswith(_FOREIGN) or b"\x00" in self.kept[:4]:
            raise broken(name, 1, 0, "is in UTF-16 or UTF-32, or is no text; save it as UTF-8")
        self.offset = 0
        if self.kept.startswith(BOM):
            del self.kept[: len(BOM)]
            self.offset = len(BOM)

    def more(self, line: int) -> bool:
        """Read on; say whether there was anything."""
        if len(self.kept) > self._longest:
            raise broken(self.name, line, self.offset, f"is longer than {self._longest // 2**20} MB")
        data = self._reader.some()
        self.kept += data
        return bool(data)

    def drop(self, count: int) -> None:
        """Forget bytes at the front."""
        del self.kept[:count]
        self.offset += count

    def rows(self) -> Iterator[Row]:
        """Yield lines without their ends."""
        line, searched = 1, 0
        while True:
            if self.kept.find(b"\n", searched) < 0:
                searched = len(self.kept)
                if self.more(line):
                    continue
                if self.kept:
                    yield line, self.offset, bytes(self.kept)
                return
            block = bytes(self.kept[: self.kept.rindex(b"\n") + 1])
            at = self.offset
            self.drop(len(block))
            searched = 0
            for text in block[:-1].split(b"\n"):
                yield line, at, text
                line += 1
                at += len(text) + 1


def is_array(lines: Lines) -> bool:
    """Whether the text begins with ``[``."""
    while not (text := bytes(lines.kept[:4096]).lstrip(_SPACE)):
        if not lines.more(1):
            return False
        if len(lines.kept) > 4096:  # noqa: PLR2004 - so much white space is no array
            return False
    return text.startswith(b"[")


def members(lines: Lines) -> Iterator[Row]:
    """Yield the members of a JSON array. A row's "line" is its number in the array.

    Raises:
        BrokenFileError: the array does not end, or something follows it.
    """
    lines.drop(lines.kept.index(b"[") + 1)
    number = 1
    while True:
        end = _member_end(lines, number)
        last = lines.kept[end : end + 1] == b"]"
        text = bytes(lines.kept[:end]).strip(_SPACE)
        if text or not last:
            yield number, lines.offset, text or b","  # an empty member is a row that is none
        lines.drop(end + 1)
        number += 1
        if last:
            _insist_on_end(lines, number)
            return


def _member_end(lines: Lines, number: int) -> int:
    """Return where the ``,`` or ``]`` after the member at the front is."""
    at, depth = 0, 0
    while True:
        match = _TOKEN.search(lines.kept, at)
        if match is None:
            at = len(lines.kept)
            _insist_on_more(lines, number)
            continue
        mark = match.group()
        if not depth and mark in b",]":
            return match.start()
        depth += (mark in b"{[") - (mark in b"}]")
        at = _text_end(lines, match.end(), number) if mark == b'"' else match.end()


def _text_end(lines: Lines, at: int, number: int) -> int:
    """Return the place behind the closing quote."""
    while True:
        match = _IN_TEXT.search(lines.kept, at)
        if match is None:
            at = len(lines.kept)
            _insist_on_more(lines, number)
        elif match.group() == b'"':
            return match.end()
        else:
            at = match.end() + 1
            while len(lines.kept) < at:
                _insist_on_more(lines, number)


def _insist_on_more(lines: Lines, number: int) -> None:
    if not lines.more(number):
        raise broken(lines.name, number, lines.offset, "is cut off: the array does not end")


def _insist_on_end(lines: Lines, number: int) -> None:
    while True:
        if bytes(lines.kept).strip(_SPACE):
            raise broken(lines.name, number, lines.offset, "is behind the array's end")
        lines.drop(len(lines.kept))
        if not lines.more(number):
            return
