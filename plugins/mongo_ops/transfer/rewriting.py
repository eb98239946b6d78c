"""Read the documents of a finished export, and write some of its parts anew: for erasure, which takes people out of what is kept.

New parts are written beside the old ones, the manifest is pointed to them at one stroke, and only then do the old ones become leftovers.
So at every instant the export is whole and can be imported. Knows nothing of people: what becomes of a document, the caller says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mongo_ops import storage
from mongo_ops.storage import Folder, Source
from mongo_ops.storage.paths import telling
from mongo_ops.transfer import compression, content, manifest, place
from mongo_ops.transfer.compression import Reader
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.manifest import CollectionModel, ColumnModel, ExportCorruptError, ManifestModel, PartModel
from mongo_ops.transfer.model import FORMATS, ExportRequest

Clean = Callable[[str, Sequence[bytes]], Sequence[bytes | None]]
"""Says what becomes of some documents (BSON) of a collection: each as it is, changed, or None when it goes."""

Redact = Callable[[str], str]
"""Returns a text without what may not be in it."""

_GENERATION = re.compile(r"(?P<folder>.*/)(?P<stem>[^./~]+)(?:~(?P<number>\d+))?(?P<ending>\..+)\Z")


@dataclass(frozen=True)
class FinishedExport:
    """An export as its manifest describes it."""

    folder: Folder
    found: ManifestModel

    @property
    def database(self) -> str:
        """The database that it was made of."""
        return self.found.database

    @property
    def is_whole(self) -> bool:
        """Whether its documents are whole, or only some fields of them."""
        return self.found.projection is None

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """The files below the folder, each with its collection."""
        return {part.file: one.name for one in self.found.collections for part in one.parts}

    @property
    def subjects(self) -> frozenset[str]:
        """The references of people whom its manifest names."""
        return frozenset(reference for one in self.found.collections for reference in one.subjects)

    @property
    def told(self) -> str:
        """All that the manifest says, its filter and the bounds of its parts included, without escapes."""
        return json.dumps(self.found.model_dump(mode="json"), ensure_ascii=False)

    def documents(self, file: str) -> Iterator[Sequence[bytes]]:
        """Yield the documents of a part as BSON, some at a time, whatever its format.

        Raises:
            ExportCorruptError: it is not what was written; said at its end at the latest.
            CompressionError, BrokenFileError: the same, said by whoever reads.
        """
        collection, part = self._at(file)
        decode = registry.decoder(self.found.file_format, manifest.columns_of(collection), strict=False)
        count = 0
        with self._reading(file) as source:
            for chunk in decode(Reader(source, self.found.compression, file, part.content.bytes), file):
                if chunk.rejects:
                    raise _corrupt(file)
                count += len(chunk.documents)
                yield chunk.documents
        if (source.bytes, source.sha256, count) != (part.bytes, part.sha256, part.content.count):
            raise _corrupt(file)

    def text(self, file: str) -> Iterator[bytes]:
        """Yield the decompressed text of a part; nothing of bson and parquet, which are their documents and no text."""
        if self.found.file_format in ("bson", "parquet"):
            return
        with self._reading(file) as source:
            reader = Reader(source, self.found.compression, file, self._at(file)[1].content.bytes)
            while data := reader.some():
                yield data

    def anew(
        self, files: Collection[str], clean: Clean, redact: Redact, forget: Collection[str]
    ) -> Callable[[], FinishedExport]:
        """Write parts anew and return what makes them the export's; until that is called, a reader sees the old ones.

        Args:
            files: the parts to write.
            clean: what becomes of their documents.
            redact: takes out of the manifest's filter what may not be in it. A bound or a column in whose name it finds anything is left
                out; what such a column would hold goes into the overflow.
            forget: references that the manifest does not name any more.

        Raises:
            ExportCorruptError, CompressionError, BrokenFileError: a part is not what was written; the export is as it was.
        """
        told = self.found.model_dump(mode="json")
        told["where"] = _redacted(told["where"], redact)
        changed = 0
        for one, collection in zip(told["collections"], self.found.collections, strict=True):
            one["subjects"] = [reference for reference in one["subjects"] if reference not in forget]
            one["columns"] = [column for column in one["columns"] if redact(column["path"]) == column["path"]]
            after = collection.model_copy(update={"columns": [ColumnModel(**column) for column in one["columns"]]})
            for part in one["parts"]:
                if part["file"] in files or after.columns != collection.columns:
                    new, number = self._written(after, part["file"], clean)
                    part.update(new)
                    changed += number
                part.update({name: None for name in ("lower", "upper") if _redacted(part[name], redact) != part[name]})
            one["content"] = _sum(one["parts"])
        parts = [part for one in told["collections"] for part in one["parts"]]
        told |= {"total": _sum(parts), "total_file_bytes": sum(part["bytes"] for part in parts)}
        told["erased"] += changed
        new_manifest = manifest.sealed(told)

        def show() -> FinishedExport:
            manifest.replace(self.folder, new_manifest)
            return FinishedExport(self.folder, manifest.read(self.folder))

        return show

    def _written(self, collection: CollectionModel, file: str, clean: Clean) -> tuple[dict[str, Any], int]:
        """Write a part anew in a collection's columns; return what the manifest says of it, and how many documents went or changed."""
        name, seen, changed = next_file(file), Content(), 0
        request = ExportRequest(
            collections=(collection.name,), format=format_name(self.found), json_mode=self.found.json_mode
        )
        with storage.writing(place.below(self.folder, name), overwrite=True) as sink:
            writer = compression.writer(sink, self.found.compression)
            encoder = registry.encoder(request, manifest.columns_of(collection), writer)
            for batch in self.documents(file):
                after = clean(collection.name, batch)
                changed += sum(1 for before, now in zip(batch, after, strict=True) if now != before)
                if stream := b"".join(one for one in after if one is not None):
                    encoder.write(stream)
                    seen += content.of_stream(stream)
            encoder.close()
        told = {"file": name, "bytes": sink.bytes, "sha256": sink.sha256, "misfits": encoder.misfits}
        return {**told, "content": seen.as_value()}, changed

    @contextmanager
    def _reading(self, file: str) -> Iterator[Source]:
        path = place.below(self.folder, file)
        with telling(path):
            there = storage.fresh(path).exists()
        if not there:
            raise ExportCorruptError(f"{file} is gone. Get it back from a copy of the store, or remove the export.")
        with storage.reading(path) as source:
            yield source

    def _at(self, file: str) -> tuple[CollectionModel, PartModel]:
        return next((one, part) for one in self.found.collections for part in one.parts if part.file == file)


def next_file(file: str) -> str:
    """Return the name of a part's next generation: ``users/00000-1a2b3c4d.bson.zst``, then ``users/00000-1a2b3c4d~1.bson.zst``."""
    match = _GENERATION.match(file)
    if match is None:
        raise ExportCorruptError(f"{file} is no file of an export. Do not trust this manifest.")
    return f"{match['folder']}{match['stem']}~{int(match['number'] or 0) + 1}{match['ending']}"


def format_name(found: ManifestModel) -> str:
    """Return the key of ``FORMATS`` that an export was written in."""
    wanted = (found.file_format, found.compression)
    return next(name for name, pair in FORMATS.items() if pair == wanted)


def _sum(some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return sum((Content.of(one["content"]) for one in some), Content()).as_value()


def _redacted(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(name): _redacted(inner, redact) for name, inner in value.items()}
    return [_redacted(one, redact) for one in value] if isinstance(value, list) else value


def _corrupt(file: str) -> ExportCorruptError:
    return ExportCorruptError(f"{file} is not the file that was written. Get it back from a copy of the store.")
