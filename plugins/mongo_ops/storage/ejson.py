"""BSON values inside JSON files: canonical Extended JSON, and the seal that tells an edited manifest. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bson import json_util

from mongo_ops.mongo.documents import CODEC

SEAL = "manifest_sha256"
_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=CODEC.uuid_representation,
    datetime_conversion=CODEC.datetime_conversion,
    tz_aware=True,
)


def plain(value: Any) -> Any:
    """Return a BSON value as JSON data (canonical Extended JSON v2); types and the order of keys survive."""
    return json.loads(json_util.dumps(value, json_options=_JSON))


def rich(value: Any) -> Any:
    """Return the BSON value that ``plain`` made this of."""
    return json_util.loads(json.dumps(value), json_options=_JSON)


def seal(content: Mapping[str, Any]) -> str:
    """Digest everything but the seal itself, in the order of the file: the order of an index's keys matters."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, separators=(",", ":")).encode()).hexdigest()
