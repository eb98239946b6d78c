"""The keys of erasure from inside Airflow: variables, from the environment or whatever secrets backend is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongo_ops.erasure.keys import Keyring


def keyring() -> Keyring:
    """Return the keys, masked in this task's logs from here on.

    Raises:
        KeyMissingError: a variable is not of the form.
    """
    from airflow.sdk import Variable  # noqa: PLC0415
    from airflow.sdk.log import mask_secret  # noqa: PLC0415

    from mongo_ops.erasure.keys import Keyring  # noqa: PLC0415

    def look_up(name: str) -> str | None:
        value = Variable.get(name, default=None)
        if not value:
            return None
        for part in str(value).split(","):
            mask_secret(part.partition(":")[2])
        return str(value)

    return Keyring.from_lookup(look_up)
