"""Look at a finished export again, with other code than what wrote it: every file's bytes, SHA-256, documents and content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mongo_ops import storage
from mongo_ops.errors import MongoOpsError
from mongo_ops.storage import Folder
from mongo_ops.storage.paths import telling
from mongo_ops.transfer import content, manifest, place
from mongo_ops.transfer.compression import CHUNK, Reader
from mongo_ops.transfer.content import Content
from mongo_ops.transfer.formats import registry
from mongo_ops.transfer.manifest import CollectionModel, ExportCorruptError, ManifestModel, PartModel


@dataclass(frozen=True, slots=True)
class Fault:
    """One file that is not what the manifest says."""

    file: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was seen: files and documents read, and what is wrong."""

    files: int
    documents: int
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is what was written."""
        return not self.faults

    def __str__(self) -> str:
        seen = f"{self.files:,} files with {self.documents:,} documents"
        if self.ok:
            return f"The export is whole: {seen}."
        return f"The export has {len(self.faults):,} faults ({seen}): {self.faults[0].file} {self.faults[0].sentence}"


def verify(folder: Folder, collections: tuple[str, ...] = ()) -> Verification:
    """Read the files of an export (or of some of its collections) and compare them with the manifest.

    bson and canonical jsonl are compared by content digest, the other formats by their number of documents.

    Raises:
        ExportMissingError, ExportCorruptError: the manifest itself is not usable.
    """
    found = manifest.read(folder)
    faults: list[Fault] = []
    files = documents = 0
    for collection, part in parts(found, collections):
        files += 1
        try:
            seen = read_part(folder, found, collection, part)
        except MongoOpsError as error:
            faults.append(Fault(part.file, str(error)))
            continue
        documents += seen.count
    return Verification(files, documents, tuple(faults))


def parts(found: ManifestModel, collections: tuple[str, ...] = ()) -> Iterator[tuple[CollectionModel, PartModel]]:
    """Yield every part with its collection."""
    for collection in found.collections:
        if not collections or collection.name in collections:
            for part in collection.parts:
                yield collection, part


def read_part(folder: Folder, found: ManifestModel, collection: CollectionModel, part: PartModel) -> Content:
    """Read one file; return what is in it.

    Raises:
        ExportCorruptError: it is gone, or is not what was written.
    """
    check_bytes(folder, part.file, part.bytes, part.sha256)
    exact = found.file_format == "bson" or (found.file_format == "jsonl" and found.json_mode == "canonical")
    columns = manifest.columns_of(collection)
    seen, rejected = Content(), 0
    with storage.reading(place.below(folder, part.file)) as source:
        reader = Reader(source, found.compression, part.file, part.content.bytes)
        for chunk in registry.decoder(found.file_format, columns, strict=False)(reader, part.file):
            seen += content.of_documents(chunk.documents)
            rejected += len(chunk.rejects)
    said = manifest.content_of(part.content)
    if rejected or seen.count != said.count:
        raise ExportCorruptError(f"holds {seen.count:,} documents, {said.count:,} expected.")
    if exact and seen != said:
        raise ExportCorruptError("holds other documents than were written.")
    return seen


def check_bytes(folder: Folder, file: str, size: int, sha256: str) -> None:
    """Read a file's bytes and compare their digest, before anybody uses them.

    Raises:
        ExportCorruptError: it is gone, cut off or changed.
    """
    path = place.below(folder, file)
    with telling(path):
        there = storage.fresh(path).exists()
    if not there:
        raise ExportCorruptError(f"{file} is gone. Get it back from a copy of the store.")
    with storage.reading(path) as source:
        while source.read(CHUNK):
            pass
    if (source.bytes, source.sha256) != (size, sha256):
        raise ExportCorruptError(
            f"{file} is not the file that was written ({source.bytes:,} bytes, {size:,} expected). Get it back from a copy of "
            "the store."
        )
