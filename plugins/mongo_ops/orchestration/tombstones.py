"""What transfers ask of erasure: what was erased and must not come in again, and whom an export is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mongo_ops.orchestration.keys import keyring
from mongo_ops.orchestration.targets import open_storage
from mongo_ops.settings import include_folder

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target


def refusal(target: Target, collection: str) -> Callable[[bytes], bool] | None:
    """Return what says of a document's bytes that it must not come back; None where nobody was ever erased.

    Raises:
        KeyMissingError: there are tombstones and no key to read them with.
    """
    from mongo_ops.erasure import tombstones  # noqa: PLC0415
    from mongo_ops.erasure.map_file import load_map  # noqa: PLC0415
    from mongo_ops.erasure.replay import tombstone_filter  # noqa: PLC0415

    folder = open_storage(target.environment)
    if not tombstones.at(folder).exists():
        return None
    return partial(tombstone_filter(target, load_map(), keyring(), folder), collection)


def subjects(collections: Iterable[str], where: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the references of the people whom an export's filter names, by collection; nobody's where there is no data map."""
    from mongo_ops.erasure.map_file import FILE, load_map  # noqa: PLC0415
    from mongo_ops.erasure.tags import subjects_named  # noqa: PLC0415

    if not where or not (include_folder() / FILE).is_file():
        return {}
    return subjects_named(load_map(), keyring(), collections, where)
