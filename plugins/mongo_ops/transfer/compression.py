"""Compressed streams: ``zst``, ``gz`` and none, written into a sink and read back with a bound on what they swell to.

gzip is ISA-L's igzip: zlib at its default level would be the bottleneck of every export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

from mongo_ops.errors import PlanError

if TYPE_CHECKING:
    from mongo_ops.storage import Sink, Source

Compression = Literal["none", "zst", "gz"]
ZSTD_LEVEL, GZIP_LEVEL = 1, 1
CHUNK = 1024 * 1024
MAX_RATIO, RATIO_FROM = 200, 64 * 1024 * 1024
"""A stream that swells to more than 64 MB and 200 times its size is refused: a bomb, or nothing that is worth importing."""
AS_TEXT = 16
"""A document's Extended JSON takes at most so many times the bytes of its BSON."""
PIECES = {"zst": 512, "gz": 16 * 1024}
"""Compressed bytes that are looked at together. zstd makes at most about 16 MB of 512 bytes, and deflate of 16 kB."""
MAX_WINDOW = 2**27
_ZSTD_MAGIC, _GZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_GZIP_WINDOW = 16 + 15


class CompressionError(PlanError):
    """A compressed file is cut off, damaged, of another kind, or swells beyond reason."""


class Writer(Protocol):
    """Takes bytes; ``close`` writes what is left, not the sink's end."""

    def write(self, data: bytes, /) -> Any:
        """Compress and pass on."""

    def close(self) -> None:
        """Write the end of the stream."""


class _Plain:
    def __init__(self, sink: Sink) -> None:
        self.write = sink.write

    def close(self) -> None:
        """Nothing is held back."""


class _Zstd:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()

    def write(self, data: bytes) -> None:
        if out := self._stream.compress(data):
            self._sink.write(out)

    def close(self) -> None:
        self._sink.write(self._stream.flush())


class _Gzip:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._stream = isal_zlib.compressobj(level=GZIP_LEVEL, wbits=_GZIP_WINDOW)

    def write(self, data: bytes) -> None:
        if out := self._stream.compress(data):
            self._sink.write(out)

    def close(self) -> None:
        self._sink.write(self._stream.flush())


def writer(sink: Sink, compression: Compression) -> Writer:
    """Return what compresses into the sink."""
    kinds: dict[Compression, Callable[[Sink], Writer]] = {"none": _Plain, "zst": _Zstd, "gz": _Gzip}
    return kinds[compression](sink)


class Reader:
    """Reads the decompressed bytes of a source.

    Raises (from ``read``):
        CompressionError: see there.
    """

    def __init__(self, source: Source, compression: Compression, name: str, known: int = 0) -> None:
        """Begin. ``known``: how many bytes of BSON a manifest says are in it; so much is no bomb, however well it is packed."""
        self._source, self._name, self._kind = source, name, compression
        self._most = max(RATIO_FROM, AS_TEXT * known)
        self._waiting = memoryview(b"")
        self._engine: Any = None
        self._kept = bytearray()
        self._at = 0
        self.out = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes; fewer only at the end."""
        while len(self._kept) - self._at < size and self._more():
            pass
        data = bytes(self._kept[self._at : self._at + size])
        self._at += len(data)
        return data

    def some(self) -> bytes:
        """Read what is at hand, at least a byte; nothing at the end."""
        while len(self._kept) == self._at and self._more():
            pass
        data = bytes(self._kept[self._at :])
        self._at += len(data)
        return data

    def _more(self) -> bool:
        if self._at > CHUNK:
            del self._kept[: self._at]
            self._at = 0
        if not self._waiting:
            data = self._source.read(CHUNK if self._kind == "none" else CHUNK // 4)
            if not data:
                if not self._ended:
                    self._ended = True
                    self._check_end()
                return False
            self._waiting = memoryview(data)
        self._swell()
        return True

    def _swell(self) -> None:
        """Decompress in small pieces until there is a chunk, so that what is made of them fits into memory however well they are packed."""
        step = CHUNK if self._kind == "none" else PIECES[self._kind]
        enough = len(self._kept) + (CHUNK if self._most > RATIO_FROM else RATIO_FROM)
        while self._waiting and len(self._kept) < enough:
            piece, self._waiting = bytes(self._waiting[:step]), self._waiting[step:]
            self._kept += piece if self._kind == "none" else self._piece(piece)

    def _piece(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while data:
            if self._engine is None:
                self._engine = self._start(data)
            try:
                part = self._engine.decompress(data)
            except (zstandard.ZstdError, IsalError, EOFError, MemoryError):  # type: ignore[misc]
                raise CompressionError(
                    f"{self._name} is damaged, or no {self._kind} file. Get it again from where it came."
                ) from None
            parts.append(part)
            self.out += len(part)
            if self.out > self._most and self.out > MAX_RATIO * self._source.bytes:
                raise CompressionError(
                    f"{self._name} swells to more than {MAX_RATIO} times its size; it is not read any further."
                )
            data = b""
            if self._engine.eof:  # several members in one file are allowed
                data, self._engine = self._engine.unused_data, None
        return b"".join(parts)

    def _start(self, data: bytes) -> Any:
        magic = _ZSTD_MAGIC if self._kind == "zst" else _GZIP_MAGIC
        if not data.startswith(magic[: len(data)]):
            raise CompressionError(f"{self._name} is not a {self._kind} file. Check its name and where it came from.")
        if self._kind == "zst":
            return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        return isal_zlib.decompressobj(wbits=_GZIP_WINDOW)

    def _check_end(self) -> None:
        if self._engine is not None or (self._kind != "none" and not self._source.bytes):
            raise CompressionError(f"{self._name} is cut off. Get it again from where it came.")
