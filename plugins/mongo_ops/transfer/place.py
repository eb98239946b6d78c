"""The folder of one export: who is writing it, where each part goes, what was written. The manifest is another file's business.

``claim.json`` says which run writes here; it is made exclusively, so of two runs one is refused. Parts carry the claim's token in
their names: what a run left that was discarded cannot be mistaken for a part of the next.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from bson import Timestamp

from mongo_ops import storage
from mongo_ops.errors import PlanError
from mongo_ops.storage import Folder, show, uploads
from mongo_ops.storage.paths import telling
from mongo_ops.transfer.model import FORMATS, ExportPlan, Part, Receipt, time_of, time_value

CLAIM, RECEIPTS = "claim.json", "receipts"
LONGEST = 100
SMALL = 16 * 1024 * 1024


class DestinationBusyError(PlanError):
    """Another run is writing an export there, or left one unfinished."""


class PlanChangedError(PlanError):
    """This run has begun with another plan."""


class DestinationDamagedError(PlanError):
    """A small file of an unfinished export is not readable."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who writes: the run, its plan, the token of its files, and the cluster time that all of its parts are read at."""

    run_id: str
    plan_digest: str
    token: str
    cluster_time: Timestamp | None

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "token": self.token,
            "cluster_time": time_value(self.cluster_time),
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Claim:
        """Read it back."""
        return cls(**{**value, "cluster_time": time_of(value["cluster_time"])})


def claim(folder: Folder, plan: ExportPlan, run_id: str, moment: Callable[[], Timestamp | None]) -> Claim:
    """Claim the folder for a run, or return the claim that the run has already. Tasks of one run may do it at once.

    Asked again before every part and before the manifest: should a store have let two runs through at the same instant, one of
    them is refused at its next step.

    Args:
        folder: the destination.
        plan: what will be written.
        run_id: the run; retries of it have the same.
        moment: asked once for the run's cluster time.

    Raises:
        DestinationBusyError: another run's.
        PlanChangedError: this run began with another plan.
    """
    current = claimed(folder)
    if current is None:
        made = Claim(run_id=run_id, plan_digest=plan.digest, token=secrets.token_hex(4), cluster_time=moment())
        with contextlib.suppress(storage.AlreadyWrittenError):
            storage.create(folder / CLAIM, json.dumps(made.as_value()).encode())
        current = claimed(folder)  # some stores (Swift) let several through at once; the last one stands
    if current is None or current.run_id != run_id:
        owner = "another run" if current is None else f"run {current.run_id}"
        raise DestinationBusyError(
            f"{show(folder)} belongs to an unfinished export of {owner}. Choose another destination, resume that run, or "
            "discard what it left (`mongo-ops export --discard`)."
        )
    if current.plan_digest != plan.digest:
        raise PlanChangedError(
            f"Run {run_id} began this export with another plan. Discard what it left, or start a new run elsewhere."
        )
    return current


def claimed(folder: Folder) -> Claim | None:
    """Return who writes here, or None."""
    found = _read(folder / CLAIM)
    return None if found is None else Claim.of(found)


def file_of(plan: ExportPlan, part: Part, token: str) -> str:
    """Return a part's path below the destination, e.g. ``users/00000-1a2b3c4d.bson.zst``."""
    return f"{segment(part.collection)}/{part.index:05d}-{token}.{plan.request.format}"


def segment(collection: str) -> str:
    """Return a collection's name as one segment of a path that every store takes and no segment climbs out of."""
    text = quote(collection, safe="")
    if text.startswith("."):
        text = f"%2E{text[1:]}"
    return text if len(text) <= LONGEST else f"{text[:60]}-{sha256(collection.encode()).hexdigest()[:16]}"


def write_receipt(folder: Folder, token: str, receipt: Receipt) -> None:
    """Note that a part is written."""
    with storage.writing(_receipt(folder, token, receipt.part.number), overwrite=True) as sink:
        sink.write(json.dumps(receipt.as_value()).encode())


def read_receipt(folder: Folder, token: str, part: Part) -> Receipt | None:
    """Return the note on a part whose file is there; None when it must be written (again)."""
    found = _read(_receipt(folder, token, part.number))
    if found is None:
        return None
    receipt = Receipt.of(found)
    path = below(folder, receipt.file)
    with telling(path):
        there = storage.fresh(path).exists()
    return receipt if there else None


def below(folder: Folder, file: str) -> Folder:
    """Return the path of a file named in a manifest or receipt, which must stay inside of the folder.

    Raises:
        DestinationDamagedError: the name climbs out.
    """
    place = folder
    for one in file.split("/"):
        if one in ("", ".", "..") or "\\" in one or "\0" in one:
            raise DestinationDamagedError(
                f"{show(folder)}: a file name in the manifest leads out of the folder. Do not trust this export."
            )
        place = place / one
    return place


def tidy(folder: Folder, token: str) -> None:
    """Remove what only an unfinished export needs. The claim goes last."""
    remove_all(folder / RECEIPTS / token)
    uploads.abort(folder)
    remove(folder / CLAIM)


def discard(folder: Folder) -> bool:
    """Remove an unfinished export: its claim, its parts, its uploads; say whether there was one. Finished exports stay.

    Call it when the run is dead: a part that is still being written would be left behind, unseen by any manifest.
    """
    current = claimed(folder)
    if current is None:
        return False
    suffixes = tuple(f"-{current.token}.{name}" for name in FORMATS)
    with telling(folder):
        files = [str(path) for path in storage.fresh(folder).fs.find(folder.path)]
        for path in files:
            if path.endswith(suffixes) or f"/{RECEIPTS}/{current.token}/" in path:
                folder.fs.rm_file(path)
    tidy(folder, current.token)
    return True


def remove(path: Folder) -> None:
    """Remove a file if it is there."""
    with telling(path):
        if storage.fresh(path).exists():
            path.fs.rm_file(path.path)


def remove_all(path: Folder) -> None:
    """Remove a folder and what is in it."""
    with telling(path):
        if storage.fresh(path).exists():
            path.fs.rm(path.path, recursive=True)


def _receipt(folder: Folder, token: str, number: int) -> Folder:
    return folder / RECEIPTS / token / f"{number:05d}.json"


def _read(path: Folder) -> dict[str, Any] | None:
    with telling(path):
        if not storage.fresh(path).exists():
            return None
    try:
        with storage.reading(path) as source:
            value = json.loads(source.read(SMALL))
    except ValueError:
        raise DestinationDamagedError(f"{show(path)} is not readable. Discard the unfinished export.") from None
    return dict(value)
