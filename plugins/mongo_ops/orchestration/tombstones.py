"""Keep out of an import what was erased for a person: the tombstones of the environment's storage, as a question per document."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mongo_ops.orchestration.keys import keyring
from mongo_ops.orchestration.targets import open_storage

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
