"""Write one large JSON document piece by piece: Extended JSON, relaxed, as ``mongoexport`` has it. Knows nothing of people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from bson import json_util

from mongo_ops.mongo.documents import CODEC

_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    uuid_representation=CODEC.uuid_representation,
    datetime_conversion=CODEC.datetime_conversion,
    tz_aware=True,
)


class Sink(Protocol):
    """Where the bytes go: a file opened for writing, or ``storage.writing``."""

    def write(self, data: bytes, /) -> Any:
        """Take some bytes."""


class Writer:
    """Writes brackets, keys and values in the order in which it is told; the commas come by themselves."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._fresh = sink, [True]

    def object(self) -> _Bracket:
        """Write an object: ``with writer.object():``."""
        return _Bracket(self, "{", "}")

    def array(self) -> _Bracket:
        """Write an array."""
        return _Bracket(self, "[", "]")

    def pair(self, name: str, value: Any) -> None:
        """Write a key and its value."""
        self.key(name)
        self.value(value)

    def key(self, name: str) -> None:
        """Write a key; a value or a bracket comes next."""
        self._separate()
        self._put(f"{json.dumps(name)}: ")
        self._fresh[-1] = True  # the value follows without a comma

    def value(self, value: Any) -> None:
        """Write a whole value."""
        self._separate()
        self._put(json_util.dumps(value, json_options=_JSON, ensure_ascii=False))

    def open(self, mark: str) -> None:
        """Begin a bracket."""
        self._separate()
        self._put(mark)
        self._fresh.append(True)

    def close(self, mark: str) -> None:
        """End a bracket."""
        self._fresh.pop()
        self._put(mark if self._fresh[1:] else f"{mark}\n")

    def _separate(self) -> None:
        if not self._fresh[-1]:
            self._put(",\n")
        self._fresh[-1] = False

    def _put(self, text: str) -> None:
        self._sink.write(text.encode())


@dataclass(frozen=True)
class _Bracket:
    writer: Writer
    first: str
    last: str

    def __enter__(self) -> None:
        self.writer.open(self.first)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.writer.close(self.last)
