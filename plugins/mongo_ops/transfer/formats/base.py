"""What all formats share: an encoder takes streams of BSON, a decoder gives chunks of documents. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

CHUNK_COUNT, CHUNK_BYTES = 2000, 4 * 1024 * 1024
"""A chunk's most documents and about its most bytes. Checkpoints count chunks, so these are part of an import's identity."""


class Encoder(Protocol):
    """Writes documents into a file."""

    misfits: int
    """Documents with values that went into the overflow column."""

    def write(self, stream: bytes) -> None:
        """Write a stream of concatenated BSON documents."""

    def close(self) -> None:
        """Write what is held back and the file's end."""


class Readable(Protocol):
    """Decompressed bytes."""

    def read(self, size: int, /) -> bytes:
        """Read that many bytes; fewer only at the end."""

    def some(self) -> bytes:
        """Read what is at hand; nothing only at the end."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not imported: its line (from 1; documents count as lines), its offset in the decompressed file, and why."""

    line: int
    offset: int
    reason: str


@dataclass(slots=True)
class Chunk:
    """Documents of a file with the line and offset of each, and the rows between them that are none."""

    number: int
    documents: list[bytes] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    size: int = 0

    @property
    def full(self) -> bool:
        """Whether the next document belongs to the next chunk."""
        return len(self.documents) + len(self.rejects) >= CHUNK_COUNT or self.size >= CHUNK_BYTES

    def add(self, document: bytes, line: int, offset: int) -> None:
        """Add a document."""
        self.documents.append(document)
        self.places.append((line, offset))
        self.size += len(document)

    def __bool__(self) -> bool:
        return bool(self.documents or self.rejects)


Chunks = Iterator[Chunk]
